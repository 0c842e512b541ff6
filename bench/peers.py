"""The competitors: the raw floor, pipework's steps, CNI's bridge plug-in, Docker. Each as its users run it."""

from __future__ import annotations

import http.client
import importlib.util
import json
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from bench import floor
from bench.hosts import PREFIX, inside, path, reaches, run

CNI_PLUGINS = "/usr/lib/cni"
GATEWAY = "10.77.0.1"
BRIDGE = "br-bench"
STEPS = Path(__file__).with_name("pipework_steps.sh")
DOCKER_HARNESS = Path(__file__).parents[1] / "tests" / "netns" / "docker_host.py"


def address(number: int) -> str:
    return f"10.77.0.{10 + number}"


def mac(side: int, number: int) -> str:
    return f"02:77:00:00:{side:02x}:{number:02x}"


def make_bridge(host: str) -> None:
    with inside(host):
        run("ip", "link", "add", "name", BRIDGE, "address", "02:77:00:00:00:ff", "type", "bridge")
        run("ip", "address", "add", f"{GATEWAY}/24", "dev", BRIDGE)
        run("ip", "link", "set", "dev", BRIDGE, "up")


class Namespaced:
    """Containers that are bare namespaces, named after the host."""

    rounds = 0
    target: float | None = None
    note = ""

    def __init__(self, name: str, host: str) -> None:
        self.name = name
        self.host = PREFIX + host

    def container(self, number: int) -> str:
        return f"{self.host}-{number}"

    def prepare(self) -> None:
        make_bridge(self.host)

    def attach(self, number: int) -> None:
        raise NotImplementedError

    def check(self, number: int) -> None:
        if not reaches(self.container(number), GATEWAY):
            raise RuntimeError(f"{self.name}: {self.container(number)} does not reach {GATEWAY}")

    def close(self) -> None:
        """Its namespaces are the caller's."""


class Floor(Namespaced):
    """Two netlink sends; nothing is read, planned, verified or remembered."""

    note = "two netlink sends, nothing read or verified"

    def prepare(self) -> None:
        super().prepare()
        with inside(self.host):
            self._bridge_index = socket.if_nametoindex(BRIDGE)

    def attach(self, number: int) -> None:
        pair = floor.Pair(
            host_ifname=f"floor{number}",
            host_index=1000 + number,
            host_mac=bytes.fromhex(mac(1, number).replace(":", "")),
            bridge_index=self._bridge_index,
            interface="eth1",
            index=1000,
            mac=bytes.fromhex(mac(2, number).replace(":", "")),
            address=socket.inet_aton(address(number)),
            gateway=socket.inet_aton(GATEWAY),
            alias=f"bench:{number}" + "x" * 60,
        )
        floor.attach(self.container(number), pair)


class Pipework(Namespaced):
    """`arping`: as it is where iputils' arping is installed."""

    def __init__(self, name: str, host: str, arping: bool) -> None:
        super().__init__(name, host)
        self._last = ["arping"] if arping else []
        self.rounds = 1 if arping else 0

    def attach(self, number: int) -> None:
        nspid = str(4_000_000 + os.getpid() % 1000 * 1000 + number)
        where = [BRIDGE, nspid, path(self.container(number)), f"{address(number)}/24", GATEWAY, mac(2, number)]
        run("sh", str(STEPS), *where, *self._last)


class Cni(Namespaced):
    """The plug-in runs host-local itself; both are processes, as under every CNI runtime."""

    def __init__(self, name: str, host: str, masquerade: bool) -> None:
        super().__init__(name, host)
        self._masquerade = masquerade
        self._folder = tempfile.TemporaryDirectory(prefix=PREFIX)

    def prepare(self) -> None:
        pool = {"type": "host-local", "subnet": "10.77.0.0/24", "gateway": GATEWAY, "dataDir": self._folder.name}
        config = {"cniVersion": "1.0.0", "name": self.host, "type": "bridge", "bridge": BRIDGE, "ipam": pool}
        switches = {"isGateway": True, "isDefaultGateway": True, "ipMasq": self._masquerade}
        self._config = json.dumps(config | switches)

    def attach(self, number: int) -> None:
        names = {"CNI_CONTAINERID": self.container(number), "CNI_NETNS": path(self.container(number)), "CNI_IFNAME": "eth1"}
        env = {**os.environ, "CNI_COMMAND": "ADD", "CNI_PATH": CNI_PLUGINS, **names}
        plugin = [f"{CNI_PLUGINS}/bridge"]
        done = subprocess.run(plugin, input=self._config, env=env, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{self.name}: {done.stdout.strip() or done.stderr.strip()}")

    def close(self) -> None:
        self._folder.cleanup()


class Dockerd:
    """One dockerd in a namespace, shared by the two ways of asking it."""

    NETWORK = "bench"

    def __init__(self, host: str) -> None:
        self.host = PREFIX + host
        self._folder = tempfile.TemporaryDirectory(prefix=PREFIX)
        self._docker = docker_host(self.host, Path(self._folder.name))

    def start(self, containers: list[str]) -> None:
        self._docker.start()
        self._docker.docker("network", "create", "--subnet", "10.77.0.0/24", "--gateway", GATEWAY, self.NETWORK)
        for name in containers:
            self._docker.run(name)

    def stop(self) -> None:
        self._docker.stop()
        self._folder.cleanup()

    def connect_by_command(self, container: str) -> None:
        self._docker.docker("network", "connect", self.NETWORK, container)

    def connect_by_api(self, container: str) -> None:
        """The same request without starting the command line."""
        connection = http.client.HTTPConnection("docker")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(self._docker.url.removeprefix("unix://"))
        body = json.dumps({"Container": container})
        connection.request("POST", f"/networks/{self.NETWORK}/connect", body=body, headers={"Content-Type": "application/json"})
        answer = connection.getresponse()
        said = answer.read().decode()
        connection.close()
        if answer.status != 200:
            raise RuntimeError(f"docker: {answer.status}: {said}")

    def check(self, container: str) -> None:
        self._docker.docker("exec", container, "ping", "-c", "1", "-W", "2", GATEWAY)


class Docker:
    """`docker network connect` of a container that runs already, beside its first network."""

    rounds = 5
    target: float | None = None
    note = ""

    def __init__(self, name: str, daemon: Dockerd, prefix: str, connect: Callable[[str], None]) -> None:
        self.name = name
        self.host = daemon.host
        self._daemon = daemon
        self._prefix = prefix
        self._connect = connect

    def containers(self, count: int) -> list[str]:
        return [f"{self._prefix}{number}" for number in range(count)]

    def prepare(self) -> None:
        """The daemon and its containers are there already."""

    def attach(self, number: int) -> None:
        self._connect(f"{self._prefix}{number}")

    def check(self, number: int) -> None:
        self._daemon.check(f"{self._prefix}{number}")

    def close(self) -> None:
        """The daemon is stopped by whoever started it."""


def missing_docker() -> str:
    """Why Docker cannot take part; empty where it can."""
    if not DOCKER_HARNESS.exists():
        return f"{DOCKER_HARNESS.name} is not there"
    return str(_harness().missing())


def docker_host(netns: str, folder: Path) -> Any:
    """A dockerd of its own in a namespace: the tests' DockerHost."""
    return _harness().DockerHost(netns, folder)


def missing_cni() -> str:
    return "" if shutil.which("bridge", path=CNI_PLUGINS) else f"no {CNI_PLUGINS}/bridge"


def _harness() -> ModuleType:
    """The tests' own dockerd in a namespace; `tests` is no package, hence by path."""
    spec = importlib.util.spec_from_file_location("bench_docker_host", DOCKER_HARNESS)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
