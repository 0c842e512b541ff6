"""The client of the OVSDB against servers that say what a real one seldom says (tests/netns/test_ovs_backend.py has that)."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from ductwork.backends.ovsdb.client import Client, DatabaseError
from ductwork.errors import MissingToolError, UsageError


@pytest.mark.parametrize(
    "address", ["", "unix:", "tcp:", "tcp:[::1]:", "tcp:127.0.0.1:x", "ssl:127.0.0.1:6640", "/run/db.sock"]
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(UsageError, match="no address of an OVSDB"):
        Client(address)


class Server:
    """Says what it was told to, to one client, and keeps what it hears."""

    def __init__(self, directory: Path, *answers: bytes) -> None:
        self.heard: list[Any] = []
        self.path = str(directory / "server.sock")
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(self.path)
        self._listening.listen()
        self._thread = threading.Thread(target=self._serve, args=(answers,))
        self._thread.start()

    def _serve(self, answers: tuple[bytes, ...]) -> None:
        with self._listening, self._listening.accept()[0] as opened:
            opened.settimeout(10)
            for answer in answers:
                self.heard.append(json.loads(opened.recv(65536)))
                for part in answer.split(b"|"):
                    opened.sendall(part)
                    threading.Event().wait(0.02)  # so that it arrives by itself

    def join(self) -> None:
        self._thread.join()


def test_a_probe_is_answered_and_news_are_passed_over(tmp_path: Path) -> None:
    probe = b'{"method":"echo","params":["}|"],"id":1}'  # arrives in two
    news = b'{"method":"locked","params":["ovs_vswitchd"],"id":null}'
    answer = '{"id":1,"result":[{"rows":[{"name":"brücke"}]}],"error":null}'.encode()
    server = Server(tmp_path, probe, news + b" \n" + answer)
    with Client(f"unix:{server.path}") as client:
        assert client.transact([{"op": "select"}]) == [{"rows": [{"name": "brücke"}]}]
    server.join()
    assert server.heard[0] == {"method": "transact", "params": ["Open_vSwitch", {"op": "select"}], "id": 1}
    assert server.heard[1] == {"result": ["}"], "error": None, "id": 1}


def test_blanks_in_a_string_that_arrives_in_pieces(tmp_path: Path) -> None:
    server = Server(tmp_path, b' \n{"id":1,"result":[{"rows":[{"name":"a |b| } |  c"}]}],"error":null}\n')
    with Client(f"unix:{server.path}") as client:
        assert client.transact([{"op": "select"}]) == [{"rows": [{"name": "a b }   c"}]}]
    server.join()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b'{"id":1,"result":null,"error":"unknown database"}', "unknown database"),
        (b'{"id":1,"result":[{},{"error":"aborted"},null],"error":null}', "aborted"),
        (b'{"id":1,"result":[{},{"error":"syntax error","details":"no"}],"error":null}', "syntax error: no"),
        (b"{", "ovsdb-server closed the connection"),
    ],
    ids=str,
)
def test_what_the_database_refuses(tmp_path: Path, answer: bytes, said: str) -> None:
    server = Server(tmp_path, answer)
    with Client(f"unix:{server.path}") as client, pytest.raises(DatabaseError) as refused:
        client.transact([])
    server.join()
    assert refused.value.message.endswith(said)


def test_nobody_there(tmp_path: Path) -> None:
    path = tmp_path / "db.sock"
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(path))
    with pytest.raises(MissingToolError, match="connection refused") as refused:
        Client(f"unix:{path}")
    assert refused.value.hint == "systemctl start openvswitch-switch"
