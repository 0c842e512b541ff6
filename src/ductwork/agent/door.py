"""Where the agent listens.

Invariant: one agent for each host namespace (the lock on its folder in /run, which ends with the process); a socket that a dead
agent has left is replaced, and nothing else that is in the way. TCP only with TLS and a token.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import ssl
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ductwork.agent.admission import group_id, read_token, refuse_open
from ductwork.errors import AgentError, UsageError
from ductwork.front.client import socket_path

_BACKLOG = 64


@dataclass(frozen=True, slots=True)
class Tcp:
    """`listening`: a socket; `token`: what a client has to know."""

    listening: socket.socket
    tls: ssl.SSLContext
    token: str


@contextmanager
def unix_door(path: Path | None) -> Iterator[socket.socket]:
    """A listening socket at `path`, None: where commands look for it. Elsewhere, they are led there by a symbolic link.

    Errors: `AgentError`."""
    place = socket_path()
    os.makedirs(place.parent, exist_ok=True, mode=0o700)
    folder = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise AgentError(
                "another agent keeps this host already", f"stop that one first: `fuser -v {place.parent}` shows it"
            ) from None
        _let_group_in(place.parent.parent, place.parent)
        at = place if path is None else path.absolute()
        _make_way(at)
        with _listening(at) as listening:
            if at != place:
                _make_way(place)
                place.symlink_to(at)
            try:
                yield listening
            finally:
                for made in {at, place}:
                    with suppress(FileNotFoundError):
                        made.unlink()
    finally:
        os.close(folder)


def _let_group_in(run: Path, folder: Path) -> None:
    """Through, to the socket; not to see what else is there."""
    group = group_id()
    if group is not None:
        os.chmod(run, stat.S_IMODE(run.stat().st_mode) | 0o011)
        os.chown(folder, -1, group)
        os.chmod(folder, 0o710)


def _make_way(path: Path) -> None:
    """What a dead agent left."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if (stat.S_ISSOCK(mode) and not _answers(path)) or (stat.S_ISLNK(mode) and path == socket_path()):
        path.unlink()
    elif stat.S_ISSOCK(mode):
        raise AgentError(f"somebody listens at {path} already", "choose another `--socket`")
    else:
        raise AgentError(f"{path} is in the way: it is no socket", "choose another `--socket`, or remove it")


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
    return True


@contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    group = group_id()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as listening:
        before = os.umask(0o177 if group is None else 0o117)  # not by chmod(2), which would follow what is put there meanwhile
        try:
            listening.bind(str(path))
        except OSError as error:
            raise AgentError(f"no socket can be made at {path}: {error}", "choose another `--socket`") from None
        finally:
            os.umask(before)
        if group is not None:
            os.chown(path, -1, group, follow_symlinks=False)
        listening.listen(_BACKLOG)
        yield listening


def tcp_door(listen: str, certificate: Path | None, key: Path | None, token_file: Path | None) -> Tcp | None:
    """HOST:PORT, with TLS and a token; None: none of it is asked for. Errors: `UsageError`."""
    given = (listen, certificate, key, token_file)
    if not any(given):
        return None
    if not (listen and certificate and key and token_file):
        raise UsageError(
            "TCP is served with TLS and a token alone",
            "give --listen, --tls-cert, --tls-key and --token-file together, or none of them",
        )
    refuse_open(key)
    token = read_token(token_file)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(f"{certificate} and {key} cannot be used: {error}", "PEM files, no passphrase") from None
    return Tcp(_bound(listen), context, token)


def _bound(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    if not host or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:  # 0: one that nobody is told of
        raise UsageError(f"--listen {listen}: HOST:PORT is wanted", "127.0.0.1:4646, say, or [::1]:4646")
    try:
        found = socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        family, _, _, _, address = found[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--listen {listen}: {error}", "an address of this host, and a port that is free") from None
