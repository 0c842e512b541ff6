"""A host in a namespace, with containers: built, changed by the engine or the command line, and looked at.

`snapshot` is the judge of "as it was before": all that iproute2, nft and /proc/sys tell of a namespace, less what the
kernel changes by itself.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TypeVar

from conftest import inside, ping, run, sh

from ductwork import netns as namespaces
from ductwork.app import build_engine
from ductwork.engine import Engine
from ductwork.reconciler import Report
from ductwork.site.load import load_text
from ductwork.site.model import Site

T = TypeVar("T")

MACHINE = "machine"
_VOLATILE = frozenset(
    {
        *("ifindex", "link_index", "handle", "packets", "bytes", "expires", "valid_life_time", "preferred_life_time"),
        *("hello_timer", "tcn_timer", "topology_change_timer", "gc_timer", "hold_timer", "message_age_timer"),
        *("forward_delay_timer", "used", "confirmed", "updated", "probes", "metainfo", "num_rx_queues", "num_tx_queues"),
        *("no", "id", "designated_port"),  # a bridge numbers its ports as they come
        *("state", "operstate"),  # a bridge's port listens and learns for a while; flags tell up from down
    }
)
_UNREADABLE = frozenset({"stable_secret"})


@dataclass
class World:
    """One host. `names`: short name → container, as the site file and `ip netns` have it without the runtime."""

    make: Callable[[str], str]
    directory: Path
    host: str = ""
    names: dict[str, str] = field(default_factory=dict)

    @property
    def state(self) -> Path:
        return self.directory / "state"

    @property
    def run_directory(self) -> Path:
        return self.directory / "run"

    def container(self, name: str) -> str:
        """Make a container; the same name again makes it anew."""
        if name in self.names:
            run("ip", "netns", "add", self.names[name])
            sh(self.names[name], "ip", "link", "set", "dev", "lo", "up")
        else:
            self.names[name] = self.make(name)
        return self.names[name]

    def kill(self, name: str) -> None:
        run("ip", "netns", "del", self.names[name])

    def uplink(self) -> str:
        """A NIC `eth0` with addresses and default routes of both families, and what is behind it."""
        outside = self.make("out")
        self.cable(self.host, outside)
        for ns, number in ((self.host, 1), (outside, 2)):
            sh(ns, "ip", "address", "add", f"192.0.2.{number}/24", "dev", "eth0")
            sh(ns, "ip", "address", "add", f"2001:db8::{number}/64", "dev", "eth0", "nodad")
        for gateway in ("192.0.2.2", "2001:db8::2"):
            sh(self.host, "ip", "route", "add", "default", "via", gateway)
        return outside

    def eth0(self, name: str) -> str:
        """As a runtime leaves a container behind: an interface of its own and a default route by it. Gives the far end."""
        far = self.make(f"{name}-lan")
        ns = self.names[name]
        self.cable(ns, far)
        for each, number in ((ns, 2), (far, 1)):
            sh(each, "ip", "address", "add", f"172.31.0.{number}/24", "dev", "eth0")
        sh(ns, "ip", "route", "add", "default", "via", "172.31.0.1")
        return far

    @staticmethod
    def cable(here: str, there: str) -> None:
        """A NIC `eth0` at each end."""
        sh(here, "ip", "link", "add", "name", "eth0", "type", "veth", "peer", "name", "eth0", "netns", there)
        for ns in (here, there):
            sh(ns, "ip", "link", "set", "dev", "eth0", "up")

    # sites

    def fill(self, text: str) -> str:
        """`<web>` becomes the container's name."""
        for short, name in self.names.items():
            text = text.replace(f"<{short}>", name)
        return text

    def site(self, text: str, name: str = "office") -> Site:
        return load_text(self.fill(text), f"{name}.yaml")

    def write(self, text: str, name: str = "office") -> Path:
        path = self.directory / f"{name}.yaml"
        path.write_text(self.fill(text))
        return path

    # the engine, in this process

    def engine(self, work: Callable[[Engine], T], gate: Callable[[str], None] = lambda _: None, **arguments: Any) -> T:
        def within() -> T:
            arguments.setdefault("run_directory", self.run_directory)
            with build_engine(self.state, machine=MACHINE, gate=gate, **arguments) as engine:
                return work(engine)

        return inside(self.host, within)

    def apply(self, text: str, name: str = "office", host: str = "", gate: Callable[[str], None] = lambda _: None) -> Report:
        site = self.site(text, name)
        return self.engine(lambda engine: engine.apply(site, host), gate)

    def destroy(self, name: str | None = "office", gate: Callable[[str], None] = lambda _: None) -> Report:
        return self.engine(lambda engine: engine.destroy(name), gate)

    def settle(self, text: str, name: str = "office", host: str = "") -> Report:
        """Apply in one round, and a second time for nothing."""
        report = self.apply(text, name, host)
        assert report.rounds <= 1, report.operations
        again = self.apply(text, name, host)
        assert not again.operations
        return report

    # the command line, in a process of its own

    def cli(self, *words: str | Path, code: int | None = 0, env: dict[str, str] | None = None) -> Done:
        with self.start(*words, env=env) as process:
            out, err = process.communicate(timeout=60)
        assert code in (None, process.returncode), f"{words}: {process.returncode}\n{out}\n{err}"
        assert "Traceback" not in err
        return Done(process.returncode, out, err)

    def start(
        self,
        *words: str | Path,
        env: dict[str, str] | None = None,
        stderr: int | IO[str] = subprocess.PIPE,
        through: Sequence[str | Path] = (),
    ) -> subprocess.Popen[str]:
        """`through`: a program that is to run it, in the host's namespace."""
        argv = ["ip", "netns", "exec", self.host, *map(str, through), sys.executable, "-m", "ductwork", *map(str, words)]
        environment = {**os.environ, "DUCTWORK_RUN": str(self.run_directory), "DUCTWORK_STATE": str(self.state), **(env or {})}
        return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment)

    # looking

    def snapshot(self) -> dict[str, Any]:
        """Of the host and all its containers that are there."""
        there = {short: name for short, name in self.names.items() if os.path.exists(f"/run/netns/{name}")}
        return {"host": snapshot(self.host)} | {short: snapshot(name) for short, name in there.items()}

    def ping(self, name: str, address: str) -> bool:
        return ping(self.names[name], address)

    def remembered(self) -> list[str]:
        """What is left in the run directory, locks and the knowledge of guests aside."""
        files = (path.name for path in self.run_directory.rglob("*") if path.is_file())
        return [name for name in files if name not in ("lock", "guests.json", "databases.json")]


@dataclass(frozen=True)
class Done:
    code: int
    out: str
    err: str


def build_world(make: Callable[[str], str], directory: Path) -> World:
    """A host with the containers web and db: `make` is the fixture `netns`, `directory` that of the test."""
    world = World(make, directory, make("host"))
    world.container("web")
    world.container("db")
    return world


def cookie(ns: str) -> int:
    return inside(ns, namespaces.cookie)


def snapshot(ns: str) -> dict[str, Any]:
    """All that can be told of a namespace, and does not change by itself."""
    return inside(ns, _snapshot)


def _snapshot() -> dict[str, Any]:
    asked = ("route show table all", "rule show", "neighbour show nud permanent")  # of both families, but for rules
    found = dict(zip(("links", "addresses", *asked), _ip([], "link show", "address show", *asked), strict=True))
    found["rule show -6"] = _ip(["-6"], "rule show")[0]
    found["fdb"] = [entry for entry in _json("bridge", "-j", "fdb", "show") if _is_somebodys(entry)]
    found["nft"] = _json("nft", "-j", "list", "ruleset")["nftables"]
    found["tc"] = _json("tc", "-j", "qdisc", "show")
    plain: dict[str, Any] = _sorted(_plain(found))
    return plain | {"sysctls": dict(_sysctls())}


def _is_somebodys(entry: dict[str, Any]) -> bool:
    """Neither learnt nor a multicast group, which the kernel joins and leaves as IPv6 is switched on and off."""
    return entry.get("state") in ("permanent", "static") and not int(entry["mac"][:2], 16) & 1


def _ip(options: list[str], *commands: str) -> list[Any]:
    """The answers, from one run of `ip`: each is a JSON list."""
    argv = ["ip", *options, "-d", "-j", "-batch", "-"]
    done = subprocess.run(argv, input="\n".join(commands), capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines() if line]


def _json(*argv: str) -> Any:
    return json.loads(run(*argv) or "[]")


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items() if key not in _VOLATILE}
    if isinstance(value, list):
        return [_plain(item) for item in value if item != "linkdown" and not (isinstance(item, dict) and _is_late(item))]
    return value


def _is_late(item: dict[str, Any]) -> bool:
    """What the kernel does by itself, a while after its cause: IPv6's link-local addresses (duplicate address detection),
    the local route of each address, and multicast groups and routes of links."""
    if item.get("type") in ("local", "anycast", "multicast") and ":" in str(item.get("dst", "")):
        return True
    texts = (str(item.get(key, "")) for key in ("local", "dst", "mac"))
    return any(text.startswith(("fe80:", "33:33:")) for text in texts)


def _sorted(value: Any) -> Any:
    """Nothing that is listed has an order of its own, but for nft's rules: theirs the engine looks at."""
    if isinstance(value, dict):
        return {key: _sorted(item) if key != "expr" else item for key, item in value.items()}
    if isinstance(value, list):
        return sorted((_sorted(item) for item in value), key=lambda item: json.dumps(item, sort_keys=True))
    return value


def _sysctls() -> Iterator[tuple[str, str]]:
    """By system calls: `pathlib` would take most of a snapshot's time for these thousands."""
    paths = ["ipv4/ip_forward"]
    for family in ("ipv4", "ipv6"):
        for link in os.listdir(f"/proc/sys/net/{family}/conf"):
            names = os.listdir(f"/proc/sys/net/{family}/conf/{link}")
            paths += [f"{family}/conf/{link}/{name}" for name in names if name not in _UNREADABLE]
    for path in paths:
        opened = os.open(f"/proc/sys/net/{path}", os.O_RDONLY)
        yield f"net/{path}", os.read(opened, 4096).decode().strip()
        os.close(opened)


def differences(before: Any, after: Any, where: str = "") -> Iterator[str]:
    """What differs, one line each: for the reader of a failed test."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted({*before, *after}):
            yield from differences(before.get(key), after.get(key), f"{where}/{key}")
    elif isinstance(before, list) and isinstance(after, list):
        yield from (f"{where} - {json.dumps(item)}" for item in before if item not in after)
        yield from (f"{where} + {json.dumps(item)}" for item in after if item not in before)
    elif before != after:
        yield f"{where}: {before} -> {after}"


def same(before: Any, after: Any) -> None:
    """Fails with the differences."""
    found = list(differences(before, after))
    assert not found, "\n".join(found[:40])


def forget(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
