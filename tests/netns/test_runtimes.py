"""Finding containers and opening their namespaces, against the real kernel and a real dockerd."""

from __future__ import annotations

import gc
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import docker_host
import pytest
from docker_host import DockerHost

from ductwork.errors import ContainerError
from ductwork.runtimes import Runtime, Sandbox
from ductwork.runtimes import docker as docker_module
from ductwork.runtimes import pid as pid_module
from ductwork.runtimes.docker import DockerRuntime
from ductwork.runtimes.netns import NetnsRuntime
from ductwork.runtimes.pid import PidRuntime, open_process_netns
from ductwork.runtimes.resolver import Resolver

PREFIX = f"dwr-{os.getpid()}-"


def require(missing: str) -> None:
    """What is missing skips a test on somebody's laptop, and fails it in CI."""
    if missing and os.environ.get("CI") == "true":
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)


def ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True)


def inode_of(sandbox: Sandbox | None) -> int:
    """The inode of the namespace that `open` gives."""
    assert sandbox is not None
    fd = sandbox.open()
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)


def inode(path: str) -> int:
    return os.stat(path).st_ino


@contextmanager
def process(*argv: str) -> Iterator[subprocess.Popen[bytes]]:
    started = subprocess.Popen(argv or ("sleep", "60"))
    try:
        yield started
    finally:
        started.kill()
        started.wait()


@pytest.fixture
def descriptors() -> Iterator[None]:
    gc.collect()  # what other tests have dropped is not ours to count
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.fixture
def web() -> Iterator[str]:
    """A namespace made by `ip netns`; its name."""
    require("" if os.geteuid() == 0 else "not root")
    name = f"{PREFIX}web"
    ip("netns", "add", name)
    yield name
    subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


@pytest.mark.netns
@pytest.mark.usefixtures("descriptors")
class TestNetns:
    def test_finds_what_is_there(self, web: str) -> None:
        runtime: Runtime = NetnsRuntime()
        found = runtime.find([web, "nobody", "../netns/" + web, ".", ""])
        sandbox = found[web]
        assert list(found) == [web]
        assert sandbox and (sandbox.runtime, sandbox.name, sandbox.place, sandbox.mode) == ("netns", web, web, "none")
        assert inode_of(sandbox) == inode(f"/run/netns/{web}") != inode("/proc/self/ns/net")

    def test_descriptors_are_not_inherited(self, web: str) -> None:
        sandbox = NetnsRuntime().find([web])[web]
        assert sandbox
        fd = sandbox.open()
        assert not os.get_inheritable(fd)
        os.close(fd)

    def test_deleted_meanwhile(self, web: str) -> None:
        sandbox = NetnsRuntime().find([web])[web]
        ip("netns", "delete", web)
        with pytest.raises(ContainerError, match="is gone"):
            inode_of(sandbox)

    def test_a_missing_directory_has_nobody(self, tmp_path: Path) -> None:
        assert NetnsRuntime(str(tmp_path / "none")).find(["web"]) == {}

    def test_what_is_no_network_namespace_is_not_opened(self, tmp_path: Path) -> None:
        (tmp_path / "leftover").touch()
        os.mkfifo(tmp_path / "fifo")
        (tmp_path / "folder").mkdir()
        found = NetnsRuntime(str(tmp_path)).find(["leftover", "fifo", "folder"])
        for sandbox in found.values():
            with pytest.raises(ContainerError, match="no network namespace") as caught:
                inode_of(sandbox)
            assert "ip netns delete" in caught.value.hint

    def test_another_kind_of_namespace_is_not_opened(self, web: str, tmp_path: Path) -> None:
        (tmp_path / "uts").touch()
        subprocess.run(["mount", "--bind", "/proc/self/ns/uts", tmp_path / "uts"], check=True)
        try:
            with pytest.raises(ContainerError, match="no network namespace"):
                inode_of(NetnsRuntime(str(tmp_path)).find(["uts"])["uts"])
        finally:
            subprocess.run(["umount", tmp_path / "uts"], check=True)

    def test_a_symbolic_link_is_not_followed(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to("/proc/self/ns/net")
        with pytest.raises(ContainerError, match="symbolic link") as caught:
            inode_of(NetnsRuntime(str(tmp_path)).find(["link"])["link"])
        assert "ip netns attach" in caught.value.hint

    def test_a_thousand_names_cost_one_look_at_the_directory(self, tmp_path: Path) -> None:
        names = [f"c{n}" for n in range(1000)]
        for name in names:
            (tmp_path / name).touch()
        looks: list[str] = []
        sys.addaudithook(lambda event, details: looks.append(event) if details == (str(tmp_path),) else None)
        assert len(NetnsRuntime(str(tmp_path)).find(names)) == 1000
        assert looks == ["os.scandir"]


@pytest.mark.netns
@pytest.mark.usefixtures("descriptors")
class TestPid:
    def test_finds_a_process(self, web: str) -> None:
        with process("nsenter", f"--net=/run/netns/{web}", "sleep", "60") as other:
            wait_until(lambda: inode(f"/proc/{other.pid}/ns/net") == inode(f"/run/netns/{web}"))
            name = str(other.pid)
            found = PidRuntime().find([name])[name]
            assert found and (found.runtime, found.name, found.mode) == ("pid", name, "none")
            assert found.place == f"/proc/{name}/ns/net"
            assert inode_of(found) == inode(f"/run/netns/{web}")

    def test_a_process_in_our_own_namespace_is_the_host(self) -> None:
        found = PidRuntime().find([str(os.getpid())])[str(os.getpid())]
        assert found and found.mode == "host"

    def test_a_program_name_with_blanks_and_parentheses(self, tmp_path: Path) -> None:
        program = tmp_path / "a) Z (b"
        shutil.copy(shutil.which("sleep") or "", program)
        with process(str(program), "60") as other:
            wait_until(lambda: Path(f"/proc/{other.pid}/comm").read_text() == "a) Z (b\n")
            assert inode_of(PidRuntime().find([str(other.pid)])[str(other.pid)]) == inode("/proc/self/ns/net")

    @pytest.mark.parametrize("name", ["web", "", "0", "-1", "+1", "01", " 1", "1 ", "\u0661", "self", "99999999", "9" * 5000])
    def test_what_is_no_pid_is_not_known(self, name: str) -> None:
        assert PidRuntime().find([name]) == {}

    def test_a_zombie_is_not_running(self) -> None:
        with process("true") as other:
            wait_until(lambda: PidRuntime().find([str(other.pid)]) == {str(other.pid): None})

    def test_died_meanwhile(self) -> None:
        with process() as other:
            found = PidRuntime().find([str(other.pid)])[str(other.pid)]
        with pytest.raises(ContainerError, match="is gone"):
            inode_of(found)

    def test_died_and_not_yet_reaped(self) -> None:
        with process() as other:
            found = PidRuntime().find([str(other.pid)])[str(other.pid)]
            other.kill()
            os.waitid(os.P_PID, other.pid, os.WEXITED | os.WNOWAIT)
            with pytest.raises(ContainerError, match="is gone"):
                inode_of(found)

    def test_a_pid_used_again_is_not_entered(self) -> None:
        with process() as other:
            found = PidRuntime().find([str(other.pid)])[str(other.pid)]
        if not fork_as(other.pid):
            pytest.skip("the PID was taken by somebody else")
        try:
            assert PidRuntime().find([str(other.pid)])[str(other.pid)]
            with pytest.raises(ContainerError, match="is gone"):
                inode_of(found)
        finally:
            os.kill(other.pid, 9)
            os.waitpid(other.pid, 0)

    def test_died_while_it_was_being_opened(self) -> None:
        with process() as other:

            def die() -> bool:
                other.kill()
                other.wait()
                return True

            with pytest.raises(ContainerError, match="is gone"):
                open_process_netns(other.pid, "pid:x", die)

    def test_a_threads_own_number_is_no_process(self) -> None:
        done = threading.Event()
        thread = threading.Thread(target=done.wait)
        thread.start()
        try:
            assert Path(f"/proc/{thread.native_id}").exists()
            assert PidRuntime().find([str(thread.native_id)]) == {}
        finally:
            done.set()
            thread.join()


def fork_as(pid: int) -> bool:
    """A child that has this very PID."""
    for _ in range(20):
        Path("/proc/sys/kernel/ns_last_pid").write_text(str(pid - 1))
        child = os.fork()
        if child == 0:
            time.sleep(60)
            os._exit(0)
        if child == pid:
            return True
        os.kill(child, 9)
        os.waitpid(child, 0)
    return False


def wait_until(condition: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.01)


@pytest.fixture(scope="module")
def dockerd() -> Iterator[DockerHost]:
    require(docker_host.missing())
    name = f"{PREFIX}dockerd"
    workdir = Path(tempfile.mkdtemp(prefix=PREFIX))
    ip("netns", "add", name)
    try:
        ip("-n", name, "link", "set", "lo", "up")
        with DockerHost(name, workdir) as host:
            host.run("web")
            host.run("alone", "--network", "none")
            host.run("open", "--network", "host")
            host.run("joined", "--network", "container:web")
            host.docker("network", "create", "own")
            host.run("named", "--network", "own")
            host.run("stopped", command=("true",))
            wait_until(lambda: not host.pid("stopped"))
            yield host
    finally:
        ip("netns", "delete", name)
        workdir.rmdir()  # DockerHost left nothing behind


@pytest.mark.docker
@pytest.mark.usefixtures("descriptors")
class TestDocker:
    def test_modes_and_namespaces(self, dockerd: DockerHost) -> None:
        names = ["web", "alone", "open", "joined", "named", "stopped", "nobody"]
        runtime: Runtime = DockerRuntime(dockerd.url)
        found = runtime.find(names)
        assert {name: sandbox and sandbox.mode for name, sandbox in found.items()} == {
            "web": "bridge",
            "alone": "none",
            "open": "host",
            "joined": "container:web",
            "named": "bridge",
            "stopped": None,
        }
        for name in ("web", "alone", "open", "joined", "named"):
            sandbox = found[name]
            assert sandbox and (sandbox.runtime, sandbox.name) == ("docker", name)
            assert sandbox.place == f"/proc/{dockerd.pid(name)}/ns/net"
            assert inode_of(sandbox) == inode(f"/proc/{dockerd.pid(name)}/ns/net")
        assert inode_of(found["joined"]) == inode_of(found["web"]) != inode_of(found["alone"])
        assert inode_of(found["open"]) == inode(f"/run/netns/{dockerd.netns}")

    def test_ids_and_their_beginnings(self, dockerd: DockerHost) -> None:
        identity = dockerd.inspect("web")["Id"]
        found = DockerRuntime(dockerd.url).find([identity, identity[:12], identity[:11], identity[:20] + "x"])
        assert {name: sandbox and sandbox.name for name, sandbox in found.items()} == {identity: "web", identity[:12]: "web"}

    def test_asked_for_nobody(self) -> None:
        assert DockerRuntime("unix:///nowhere").find([]) == {}

    def test_paused_is_running_still(self, dockerd: DockerHost) -> None:
        dockerd.docker("pause", "web")
        try:
            assert inode_of(DockerRuntime(dockerd.url).find(["web"])["web"])
        finally:
            dockerd.docker("unpause", "web")

    def test_restarted_meanwhile(self, dockerd: DockerHost) -> None:
        dockerd.run("brief", "--network", "none")
        runtime = DockerRuntime(dockerd.url)
        before = runtime.find(["brief"])["brief"]
        dockerd.docker("restart", "--time", "0", "brief")
        with pytest.raises(ContainerError, match="docker:brief is gone"):
            inode_of(before)
        assert inode_of(runtime.find(["brief"])["brief"]) == inode(f"/proc/{dockerd.pid('brief')}/ns/net")
        dockerd.docker("rm", "--force", "brief")
        assert runtime.find(["brief"]) == {}

    def test_a_pid_that_is_not_the_containers_is_not_entered(self, dockerd: DockerHost) -> None:
        identity = dockerd.inspect("web")["Id"]
        runtime = DockerRuntime(dockerd.url)
        assert runtime._is_its(identity, dockerd.pid("web"))
        assert not runtime._is_its(identity, os.getpid())
        with pytest.raises(ContainerError, match="something else"):
            DockerRuntime("tcp://127.0.0.1:1")._is_its(identity, os.getpid())

    def test_without_control_groups_the_daemon_is_asked_again(
        self, dockerd: DockerHost, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(docker_module, "_in_cgroup_of", lambda pid, identity: False)
        assert inode_of(DockerRuntime(dockerd.url).find(["web"])["web"])

    def test_by_tcp_and_by_environment(self, dockerd: DockerHost, monkeypatch: pytest.MonkeyPatch) -> None:
        with relay(dockerd.url.removeprefix("unix://")) as port:
            monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{port}")
            assert inode_of(DockerRuntime().find(["web"])["web"]) == inode(f"/proc/{dockerd.pid('web')}/ns/net")

    def test_many_at_once(self, dockerd: DockerHost) -> None:
        names = ["web", "alone", "open", "joined", "named"]
        assert len(DockerRuntime(dockerd.url).find(names)) == 5

    def test_no_daemon(self, tmp_path: Path) -> None:
        with pytest.raises(ContainerError, match="docker does not answer at unix://") as caught:
            DockerRuntime(f"unix://{tmp_path}/none").find(["web"])
        assert caught.value.hint == "is it running?"

    @pytest.mark.parametrize(
        "answer",
        [
            *(b"nonsense", b"HTTP/1.0 500 No\r\n\r\n{}", b"HTTP/1.0 500 No\r\n\r\n[]", b""),
            *(b"HTTP/1.0 200 OK\r\n\r\n" + body for body in (b"<html>", b"[1]", b'{"Id": 1}', b'"a"')),
            b'HTTP/1.0 200 OK\r\n\r\n{"Id": "a", "Name": "/web", "State": {"Pid": -1}, "HostConfig": {"NetworkMode": "none"}}',
        ],
    )
    @pytest.mark.parametrize("name", ["web", "cafe"])
    def test_something_else_answers(self, tmp_path: Path, answer: bytes, name: str) -> None:
        """Whether one is asked for, or all are listed."""
        with listening(f"{tmp_path}/sock", answer), pytest.raises(ContainerError):
            DockerRuntime(f"unix://{tmp_path}/sock").find([name])

    @pytest.mark.parametrize("url", ["ssh://host", "fd://", "npipe:////./pipe", "/var/run/docker.sock", "tcp://h:x"])
    def test_other_ways_of_speaking_are_refused(self, url: str) -> None:
        with pytest.raises(ContainerError, match="h:x: Port could not" if url == "tcp://h:x" else "cannot speak"):
            DockerRuntime(url).find(["web"])

    def test_tls_is_refused_where_it_would_be_used(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("DOCKER_TLS_VERIFY", "1")
        with pytest.raises(ContainerError, match="cannot speak"):
            DockerRuntime("tcp://127.0.0.1:1").find(["web"])
        with pytest.raises(ContainerError, match="does not answer"):
            DockerRuntime(f"unix://{tmp_path}/none").find(["web"])

    def test_a_control_group_below_the_containers_is_another_containers(self, dockerd: DockerHost) -> None:
        daemon = next(p for p in cgroup_processes(dockerd) if Path(f"/proc/{p}/comm").read_text() == "dockerd\n")
        assert docker_module._in_cgroup_of(daemon, "daemon")
        assert not docker_module._in_cgroup_of(daemon, f"ductwork-test-{dockerd.netns}")


def cgroup_processes(dockerd: DockerHost) -> list[int]:
    folder = docker_host.unified() / f"ductwork-test-{dockerd.netns}" / "daemon"
    return [int(line) for line in (folder / "cgroup.procs").read_text().split()]


def listed(identity: str, *names: str) -> dict[str, object]:
    return {"Id": identity, "Names": list(names), "State": "running"}


def test_a_container_that_is_removed_between_two_questions_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [listed("a" * 64, "/web")]
    monkeypatch.setattr(DockerRuntime, "_get", lambda self, path: entries if path.endswith("all=1") else None)
    assert DockerRuntime().find(["web", "a" * 64]) == {}


def test_a_missing_thing_is_none_and_no_error(tmp_path: Path) -> None:
    with listening(f"{tmp_path}/sock", b'HTTP/1.0 404 Not Found\r\n\r\n{"message": "none"}'):
        assert DockerRuntime(f"unix://{tmp_path}/sock")._inspect("a" * 64) is None


def test_names_of_docker() -> None:
    """Legacy links give a container a second name; an ID's beginning that two have is nobody's."""
    one, two = "a" * 20 + "1" * 44, "a" * 20 + "2" * 44
    entries = [listed(one, "/web/alias", "/db"), listed(two)]
    containers = docker_module._Containers(entries)
    assert containers.match("db") is entries[0]
    assert containers.match("alias") is containers.match("a" * 20) is None
    assert containers.match("a" * 20 + "2") is entries[1]
    assert containers.names == {one: "db", two: two[:12]}


@contextmanager
def relay(path: str) -> Iterator[int]:
    """A TCP port that leads to a unix socket."""
    server = socket.create_server(("127.0.0.1", 0))
    server.settimeout(10)
    ended = threading.Event()

    def pump(client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as target:
            target.connect(path)
            target.sendall(client.recv(65536))
            while data := target.recv(65536):
                client.sendall(data)

    def serve() -> None:
        while True:
            client, _ = server.accept()
            if ended.is_set():
                client.close()
                return
            pump(client)

    thread = threading.Thread(target=serve)
    thread.start()
    yield server.getsockname()[1]
    ended.set()
    socket.create_connection(server.getsockname()).close()
    thread.join()
    server.close()


@contextmanager
def listening(path: str, answer: bytes) -> Iterator[None]:
    """A unix socket that gives one answer to whatever is asked, once."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        server.settimeout(10)

        def serve() -> None:
            client, _ = server.accept()
            with client:
                client.recv(65536)
                client.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        thread.join()


def resolver(dockerd: DockerHost | None = None) -> Resolver:
    url = dockerd.url if dockerd else "unix:///nowhere/docker.sock"
    return Resolver({"docker": lambda: DockerRuntime(url), "netns": NetnsRuntime, "pid": PidRuntime})


@pytest.mark.netns
class TestResolver:
    def test_named_bare_and_waiting(self, web: str) -> None:
        it = resolver()
        found = it.resolve([f"netns:{web}", web, "nobody", "netns:nobody", f"pid:{os.getpid()}"])
        assert {reference: sandbox and sandbox.runtime for reference, sandbox in found.items()} == {
            f"netns:{web}": "netns",
            web: "netns",
            "nobody": None,
            "netns:nobody": None,
            f"pid:{os.getpid()}": "pid",
        }
        assert it.notes == []

    def test_a_runtime_is_not_built_before_it_is_needed(self, web: str) -> None:
        def unwanted() -> Runtime:
            raise AssertionError("built")

        Resolver({"netns": NetnsRuntime, "docker": unwanted}).resolve([f"netns:{web}"])

    def test_a_silent_runtime_is_a_note_for_those_who_name_it(self, web: str) -> None:
        it = resolver()
        assert it.resolve(["docker:web", "docker:db", web]).keys() == {"docker:web", "docker:db", web}
        assert it.notes == ["docker does not answer at unix:///nowhere/docker.sock: is it running?"]
        assert it.resolve(["docker:web"]) == {"docker:web": None}
        assert len(it.notes) == 1

    def test_an_unknown_runtime(self) -> None:
        with pytest.raises(ContainerError, match="there is no runtime 'lxc'") as caught:
            resolver().resolve(["lxc:web"])
        assert "docker:, netns:, pid:" in caught.value.hint

    def test_a_name_that_two_runtimes_have(self) -> None:
        name = str(os.getpid())
        ip("netns", "add", name)
        try:
            with pytest.raises(ContainerError, match=f"netns:{name} and pid:{name}"):
                resolver().resolve([name])
            found = resolver().resolve([f"netns:{name}", f"pid:{name}"])
            assert [sandbox and sandbox.runtime for sandbox in found.values()] == ["netns", "pid"]
        finally:
            ip("netns", "delete", name)

    @pytest.mark.docker
    def test_a_stopped_container_counts_as_one_that_has_the_name(self, dockerd: DockerHost) -> None:
        ip("netns", "add", "stopped")
        try:
            with pytest.raises(ContainerError, match="docker:stopped and netns:stopped"):
                resolver(dockerd).resolve(["stopped"])
        finally:
            ip("netns", "delete", "stopped")

    @pytest.mark.docker
    def test_a_bare_docker_name(self, dockerd: DockerHost) -> None:
        found = resolver(dockerd).resolve(["alone", "docker:stopped"])
        assert found["alone"] and found["alone"].runtime == "docker"
        assert found["docker:stopped"] is None


def test_a_process_is_known_by_more_than_its_pid(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without root. A kernel before 6.9 has nothing but the start time to go by."""
    mine = PidRuntime().find([str(os.getpid())])[str(os.getpid())]
    assert inode_of(mine)
    now = pid_module._identify(os.getpid())
    assert now
    for another in (now._replace(started=1), now._replace(inode=1)):
        monkeypatch.setattr(pid_module, "_identify", lambda pid, another=another: another)
        with pytest.raises(ContainerError, match="is gone"):
            inode_of(mine)
