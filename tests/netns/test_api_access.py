"""Who may ask the agent: root and the group on the unix socket, the token's bearer on TCP with TLS, and nobody else."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from agent_process import AgentProcess
from conftest import inside
from host import World, build_world, same
from in_process import Cli, command_line

from ductwork.cli import main
from ductwork.front.client import Client
from ductwork.requests import Ps

pytestmark = pytest.mark.netns

SITE = """
networks:
  lan: {driver: bridge, bridge: br0, subnet: 10.1.1.0/24}
attachments:
  - {container: "netns:<web>", network: lan, address: 10.1.1.2}
"""
NOBODY, GROUP_ID = 65534, 64646
TOKEN = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def world(netns: Callable[[str], str]) -> Iterator[World]:
    """In a folder that everybody may pass through, as they may through /run."""
    folder = Path(tempfile.mkdtemp(prefix="dwn-api-"))
    folder.chmod(0o755)
    try:
        yield build_world(netns, folder)
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def cli(world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Cli:
    return command_line(world, monkeypatch, capsys)


@pytest.fixture
def agent(world: World) -> Iterator[AgentProcess]:
    """On a machine with the group `ductwork`, which has no members by name."""
    with with_group(world, "") as running:
        yield running


@contextmanager
def with_group(world: World, members: str) -> Iterator[AgentProcess]:
    groups = world.directory / "group"
    groups.write_text(f"{Path('/etc/group').read_text()}ductwork:x:{GROUP_ID}:{members}\n")
    through = ("sh", "-ec", 'mount --bind "$0" /etc/group; exec "$@"', groups)
    with AgentProcess(world, world.write(SITE), through=through) as running:
        yield running


def as_nobody(work: Callable[[], str], groups: list[int]) -> str:
    """What `work` gives, in a child that is nobody; all that it imports must have been imported."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups(groups)
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            told = work()
        except BaseException as error:
            told = f"{type(error).__name__}: {error}"
        os.write(writing, told.encode())
        os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as told_by_child:
        return told_by_child.read()


def ask(path: Path, method: str = "GET", what: str = "/v1/ps", body: bytes | None = None) -> tuple[int, Any]:
    """Over the unix socket, as any program may."""
    connection = http.client.HTTPConnection("x")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(path))
    connection.request(method, what, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    with connection.sock if connection.sock else answer:
        return answer.status, json.loads(answer.read())


def test_others_do_not_even_reach_it(world: World, agent: AgentProcess) -> None:
    path = agent.socket
    assert "Permission denied" in as_nobody(lambda: str(ask(path)), [])
    assert agent.socket.stat().st_mode & 0o777 == 0o660
    assert agent.socket.parent.stat().st_mode & 0o777 == 0o710
    others = [path for path in agent.socket.parent.iterdir() if path != agent.socket]
    assert others and all(path.stat().st_mode & 0o077 == 0 for path in others)


@pytest.mark.parametrize(("members", "groups"), [("", []), ("", [1]), ("daemon", [])])
def test_others_are_refused_where_they_reach_it(world: World, members: str, groups: list[int]) -> None:
    """By what the kernel says of them, whatever the modes are."""
    with with_group(world, members) as agent:
        path = agent.socket
        path.parent.chmod(0o755)
        path.chmod(0o666)
        before = world.snapshot()
        for method, what in (
            ("GET", "/v1/ps"),
            ("GET", "/metrics"),
            ("GET", "/v1/events"),
            ("POST", "/v1/undo"),
            ("GET", "/x"),
        ):
            told = as_nobody(lambda m=method, w=what: str(ask(path, m, w)), groups)  # type: ignore[misc]
            assert told.startswith("(403, ") and "may not ask" in told and "usermod" in told
        same(before, world.snapshot())


def test_members_of_the_group_need_no_root(world: World, cli: Cli) -> None:
    """Commands and all."""
    cli("ps", "--json")
    with with_group(world, "nobody") as agent:
        cli("ps", "--json")
        path = agent.socket
        rows = as_nobody(lambda: str(Client(path).do(Ps())), [GROUP_ID])
        assert f"netns:{world.names['web']}" in rows

        def destroy() -> str:
            sys.argv = ["ductwork", "destroy", str(world.directory / "office.yaml")]
            try:
                main.main()
            except SystemExit as ended:
                return f"exit {ended.code}"

        assert inside(world.host, lambda: as_nobody(destroy, [GROUP_ID])) == "exit 0"
        assert json.loads(cli("ps", "--json").out) == []
        assert agent.said("destroy, asked for by nobody")
        assert inside(world.host, lambda: as_nobody(destroy, [])) == "exit 1"


# TCP


@pytest.fixture
def secrets(world: World) -> dict[str, Path]:
    found = {name: world.directory / name for name in ("cert.pem", "key.pem", "token")}
    words = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    names = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")
    out = ("-keyout", str(found["key.pem"]), "-out", str(found["cert.pem"]))
    subprocess.run(["openssl", *words, *names, *out], check=True, capture_output=True)
    found["token"].write_text(TOKEN + "\n")
    found["token"].chmod(0o600)
    return found


def options(secrets: dict[str, Path], listen: str = "127.0.0.1:4646") -> dict[str, str | Path]:
    return {
        "--listen": listen,
        "--tls-cert": secrets["cert.pem"],
        "--tls-key": secrets["key.pem"],
        "--token-file": secrets["token"],
    }


def flat(given: dict[str, str | Path]) -> list[str | Path]:
    return [word for pair in given.items() for word in pair]


def over_tcp(world: World, secrets: dict[str, Path], headers: dict[str, str], what: str = "/v1/ps") -> tuple[int, bytes]:
    def work() -> tuple[int, bytes]:
        context = ssl.create_default_context(cafile=str(secrets["cert.pem"]))
        connection = http.client.HTTPSConnection("localhost", 4646, context=context, timeout=30)
        connection.request("GET", what, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()

    return inside(world.host, work)


def test_tcp_is_for_the_tokens_bearer(world: World, secrets: dict[str, Path]) -> None:
    with AgentProcess(world, world.write(SITE), "--verbose", *flat(options(secrets))) as agent:
        for headers in (
            {},
            {"Authorization": "Bearer x"},
            {"Authorization": f"Basic {TOKEN}"},
            {"Authorization": "Bearer \xe9"},
        ):
            for what in ("/v1/ps", "/metrics", "/v1/openapi.json"):
                status, body = over_tcp(world, secrets, headers, what)
                assert status == 401 and json.loads(body)["code"] == "refused"
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        assert world.names["web"].encode() in over_tcp(world, secrets, bearer)[1]
        assert b"ductwork_attachments 1.0" in over_tcp(world, secrets, bearer, "/metrics")[1]

        def without_tls() -> bytes:
            with socket.create_connection(("127.0.0.1", 4646)) as connection:
                connection.settimeout(30)
                connection.sendall(f"GET /v1/ps HTTP/1.0\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode())
                try:
                    return connection.recv(100)
                except ConnectionError:
                    return b""

        assert b"HTTP" not in inside(world.host, without_tls)
        assert over_tcp(world, secrets, bearer)[0] == 200, "it goes on"
        assert TOKEN not in agent.log()


def test_who_fills_tcp_keeps_nobody_from_the_unix_socket(world: World, secrets: dict[str, Path]) -> None:
    """Nor does it cost much memory: a handshake under way has 300 kB."""
    with AgentProcess(world, world.write(SITE), *flat(options(secrets))) as agent, ExitStack() as kept:
        before = agent.memory_kib()

        def fill(number: int, shake_hands: bool) -> None:
            context = ssl.create_default_context(cafile=str(secrets["cert.pem"]))
            for _ in range(number):
                plain = kept.enter_context(socket.create_connection(("localhost", 4646)))
                with suppress(OSError):
                    if shake_hands:
                        kept.enter_context(context.wrap_socket(plain, server_hostname="localhost"))

        inside(world.host, lambda: fill(90, True))
        inside(world.host, lambda: fill(600, False))
        assert all(ask(agent.socket)[0] == 200 for _ in range(10))
        assert agent.memory_kib() - before < 80_000


def test_tcp_is_never_without_tls_and_token(world: World, secrets: dict[str, Path]) -> None:
    path = world.write(SITE)
    for left_out in options(secrets):
        given = {name: value for name, value in options(secrets).items() if name != left_out}
        assert "together" in world.cli("agent", "--site", path, *flat(given), code=2).err
    for name, mode in (("token", 0o604), ("key.pem", 0o644)):
        secrets[name].chmod(mode)
        assert "by everybody" in world.cli("agent", "--site", path, *flat(options(secrets)), code=2).err
        secrets[name].chmod(0o600)
    secrets["token"].write_text("short")
    assert "has no token" in world.cli("agent", "--site", path, *flat(options(secrets)), code=2).err
    secrets["token"].write_text(TOKEN)
    for listen in ("4646", "127.0.0.1:0", "127.0.0.1:65536", f"127.0.0.1:{'9' * 5000}", "127.0.0.1:٤"):
        assert "HOST:PORT" in world.cli("agent", "--site", path, *flat(options(secrets, listen)), code=2).err
    assert "--listen ..:80" in world.cli("agent", "--site", path, *flat(options(secrets, "..:80")), code=2).err
    secrets["key.pem"].write_text("rubbish")
    assert "cannot be used" in world.cli("agent", "--site", path, *flat(options(secrets)), code=2).err
    assert not world.snapshot()["host"]["nft"][1:], "nothing was touched"


# what is sent


def test_what_is_no_request_is_refused(world: World, agent: AgentProcess) -> None:
    before = world.snapshot()
    deep = b"[" * 100_000
    for what, body, status in (
        ("/v1/apply", b"", 400),
        ("/v1/apply", b"{", 400),
        ("/v1/apply", deep, 400),
        ("/v1/apply", b'{"site": {"text": ' + deep + b"}}", 400),
        ("/v1/apply", b'{"site": "x"}', 400),
        ("/v1/apply", b'{"site": {"text": "networks: {}"}, "hosts": 1}', 400),
        ("/v1/apply", b'{"site": {"text": "\\ud800"}}', 400),
        ("/v1/apply", b'{"site": {"text": "a: &a [*a]"}}', 400),
        ("/v1/apply", b'{"site": {"text": "networks: {}"}, "dad": "yes"}', 400),
        ("/v1/apply", b'{"site": {"text": "networks: {}"}, "confirm_seconds": 0}', 400),
        ("/v1/attach", b'{"container": "netns:../../x", "network": "lan"}', 400),
        ("/v1/attach", b'{"container": "netns:x", "network": "lan", "mtu": 7}', 400),
        ("/v1/destroy", b"{}", 400),
        ("/v1/undo", b'{"x": 1}', 400),
        ("/v1/undo", b"\xff", 400),
        ("/v1/nothing", b"{}", 404),
        ("/v1/events", b"{}", 405),
        ("/v2/plan", b"{}", 404),
    ):
        told = ask(agent.socket, "POST", what, body)
        assert told[0] == status, (what, body[:60], told)
        assert {"code", "message", "hint", "problems"} <= told[1].keys()
    told = ask(agent.socket, "POST", "/v1/plan", json.dumps({"site": {"text": "networks: {a: {}}", "name": "x.yaml"}}).encode())
    assert told[1]["code"] == "site" and told[1]["problems"][0]["line"] == 1 and told[1]["file"] == "x.yaml"
    same(before, world.snapshot())


def test_what_is_too_long_is_refused(world: World, agent: AgentProcess) -> None:
    """And not kept in memory."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(str(agent.socket))
        headers = "Host: x\r\nContent-Type: application/json\r\nContent-Length: 99999999"
        connection.sendall(f"POST /v1/plan HTTP/1.1\r\n{headers}\r\n\r\n".encode())
        with suppress(ConnectionError):
            for _ in range(95):
                connection.sendall(b" " * 2**20)
        with suppress(ConnectionError):
            assert connection.recv(100).startswith(b"HTTP/1.1 413")
    assert ask(agent.socket)[0] == 200
    status = Path(f"/proc/{agent.pid}/status").read_text()
    assert int(re.search(r"VmHWM:\s+(\d+)", status)[1]) < 90_000  # type: ignore[index]


def test_figures(world: World, agent: AgentProcess) -> None:
    connection = http.client.HTTPConnection("x")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(agent.socket))
    connection.request("GET", "/metrics")
    told = connection.getresponse().read().decode()
    for line in (
        'ductwork_reconciles_total{outcome="applied"} 1.0',
        'ductwork_queue_length{queue="requests"} 0.0',
        "ductwork_waiting_containers 0.0",
        "ductwork_attach_seconds_count 0.0",
    ):
        assert line in told
    connection.sock.close()


def test_who_does_not_read_the_events_does_not_hold_up_the_end(world: World, agent: AgentProcess) -> None:
    with socket.socket(socket.AF_UNIX) as follower:
        follower.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        follower.connect(str(agent.socket))
        follower.sendall(b"GET /v1/events HTTP/1.1\r\nHost: x\r\n\r\n")
        assert follower.recv(12) == b"HTTP/1.1 200"
        long = json.dumps({"container": "x", "network": "y" * 200_000}).encode()
        for _ in range(12):
            assert ask(agent.socket, "POST", "/v1/detach", long)[0] == 400
        agent.__exit__(None, None, None)
