"""The agent's patience, and what it makes of what daemons and systemd say."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest

from ductwork.agent.patience import Patience
from ductwork.agent.systemd import Notifier
from ductwork.errors import ContainerError
from ductwork.events import Event
from ductwork.runtimes.docker_events import DockerEvents

RESYNC = 60.0


def test_what_is_mended_now_and_then_is_heeded() -> None:
    patience = Patience(RESYNC)
    assert not any(patience.mended(["link br0"], now) for now in range(0, 1000, 20))
    assert patience.until == 0


def test_different_things_are_no_fight() -> None:
    patience = Patience(RESYNC)
    assert not any(patience.mended([f"link br{number}"], number / 10) for number in range(50))


def test_who_goes_on_is_waited_for_longer_each_time_but_not_for_ever() -> None:
    patience = Patience(RESYNC)
    now, pauses = 100.0, []
    for _ in range(20):
        now = max(now + 0.1, patience.until)
        if patience.mended(["link br0"], now):
            pauses.append(patience.until - now)
    assert pauses == pytest.approx([1, 2, 4, 8, 16, 32, *[RESYNC] * 10])


def test_a_fight_that_has_ended_is_forgotten() -> None:
    patience = Patience(RESYNC)
    for number in range(10):
        patience.mended(["link br0"], 100 + number / 10)
    patience.mended(["link br1"], patience.until + RESYNC + 1)
    for number in range(5):
        fought = patience.mended(["link br0"], 1000 + number / 10)
    assert fought
    assert patience.until == pytest.approx(1000.4 + 1)


class Daemon:
    """A socket that says what a test wants said, in pieces."""

    def __init__(self, path: Path, pieces: list[bytes]) -> None:
        self.heard = b""
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, args=(pieces,))
        self._thread.start()

    def _serve(self, pieces: list[bytes]) -> None:
        opened, _ = self._listener.accept()
        with opened:
            self.heard = opened.recv(4096)
            for piece in pieces:
                opened.sendall(piece)
        self._listener.close()

    def wait(self) -> None:
        self._thread.join()


def told(action: str, name: str = "web") -> bytes:
    return json.dumps({"Type": "container", "Action": action, "Actor": {"Attributes": {"name": name}}}).encode() + b"\n"


def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *pieces: bytes) -> list[Event]:
    """What is made of an answer."""
    path = tmp_path / "docker.sock"
    daemon = Daemon(path, list(pieces))
    monkeypatch.setenv("DOCKER_HOST", f"unix://{path}")
    source = DockerEvents()
    daemon.wait()
    assert daemon.heard.startswith(b"GET /events?")
    found: list[Event] = []
    try:
        with pytest.raises(ConnectionError):
            while True:
                found += source.take()
    finally:
        source.close()
    return found


OK = b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n"


def test_starts_and_ends_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = OK + told("start") + told("die") + told("rename", "db")
    found = events(tmp_path, monkeypatch, *(whole[at : at + 7] for at in range(0, len(whole), 7)))
    assert [(event.container, event.started) for event in found] == [
        ("docker:web", True),
        ("docker:web", False),
        ("docker:db", True),
    ]


@pytest.mark.parametrize(
    "line",
    [
        b"{",
        b"null",
        b"[]",
        b'{"Action": "start"}',
        b'{"Action": {}, "Actor": {"Attributes": {"name": 1}}}',
        b"\xff",
        b"9" * 5000,
        b"[" * 100_000,
    ],
)
def test_what_is_no_event_is_passed_over(line: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = events(tmp_path, monkeypatch, OK, line + b"\n", told("start"))
    assert [event.container for event in found] == ["docker:web"]


def test_a_refusal_is_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert events(tmp_path, monkeypatch, b"HTTP/1.0 500 No\r\n\r\n" + told("start")) == []


@pytest.mark.parametrize("url", ["tcp://h:99999", "tcp://h:x", "tcp://[::1", f"tcp://{'h' * 64}.x"])
def test_a_daemon_that_cannot_be_meant(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", url)
    with pytest.raises(ContainerError, match="tcp://"):
        DockerEvents()


def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "30000000")
        notifier = Notifier()
        assert notifier.watchdog_seconds == 15
        notifier.ready("well")
        assert listener.recv(100) == b"READY=1\nSTATUS=well"


def test_without_systemd_nobody_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    notifier = Notifier()
    notifier.ready("well")
    assert notifier.watchdog_seconds is None
