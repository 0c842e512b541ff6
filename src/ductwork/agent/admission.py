"""Who may ask the agent for anything.

Invariant: on the unix socket root and the members of the group `ductwork`, as the kernel told when they connected (unix(7),
SO_PEERCRED) and the group database has it: no /proc of a process that may be another by now. On TCP whoever has the token. It
is never written anywhere.
"""

from __future__ import annotations

import grp
import hmac
import os
import pwd
import socket
import stat
import struct
from pathlib import Path

from ductwork.errors import DuctworkError, UsageError

GROUP = "ductwork"
_SHORTEST_TOKEN = 16
_LONGEST_TOKEN = 4096


class RefusedError(DuctworkError):
    """Not for whoever asks."""

    code = "refused"


def group_id() -> int | None:
    """None: there is no such group."""
    try:
        return grp.getgrnam(GROUP).gr_gid
    except KeyError:
        return None


def admit_peer(connection: socket.socket) -> str:
    """The name of who has connected. Errors: `RefusedError`."""
    _, uid, gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    group = group_id()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = ""
    if uid == 0 or (group is not None and (gid == group or (name and group in os.getgrouplist(name, gid)))):
        return name or f"user {uid}"
    raise RefusedError(
        f"{name or f'user {uid}'} may not ask ductwork's agent for anything",
        f"root may, and members of the group `{GROUP}`: `usermod -aG {GROUP} {name or 'USER'}`, and log in again",
    )


def admit_bearer(token: str, authorization: str) -> str:
    """By the Authorization header (RFC 6750). Errors: `RefusedError`."""
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(errors="replace"), token.encode()):
        return "the token's bearer"
    raise RefusedError("this needs the agent's token", "send `Authorization: Bearer TOKEN`")


def read_token(path: Path) -> str:
    """Errors: `UsageError`."""
    refuse_open(path)
    try:
        with path.open("rb") as file:
            token = file.read(_LONGEST_TOKEN + 1).decode("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} cannot be read: {error}", "one line of ASCII text, as `openssl rand -hex 32` writes"
        ) from None
    if not _SHORTEST_TOKEN <= len(token) <= _LONGEST_TOKEN or not token.isprintable() or " " in token:
        raise UsageError(
            f"{path} has no token of {_SHORTEST_TOKEN} to {_LONGEST_TOKEN} characters in one word",
            f"openssl rand -hex 32 > {path}",
        )
    return token


def refuse_open(path: Path) -> None:
    """A secret that everybody can read is none. Errors: `UsageError`."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}", "check the path") from None
    if mode & (stat.S_IROTH | stat.S_IWOTH):
        raise UsageError(f"{path} can be read or written by everybody", f"chmod 600 {path}, and make a new secret")
