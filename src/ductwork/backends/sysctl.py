"""Kernel parameters below /proc/sys, written as files, and what is there in name alone: `link/NAME/promisc` and
the like (`resources/sysctl.py`).

Invariant: nothing is read that was not asked for. /proc/sys/net shows the namespace of the thread that opens it, so a thread
that has done setns reads and writes that of its container; so does a socket.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterable, Sequence

from ductwork.backends.netlink.wire import Message, NetlinkSocket
from ductwork.resources import Delete, Operation, Outcome, Resource, Sysctl
from ductwork.resources.sysctl import link_setting

ROOT = "/proc/sys"
_LONGEST = 4096
"""Octets: no parameter of the network is longer than a page."""
_RTM_SETLINK = 19
_SIOCGIFFLAGS = 0x8913
_IFF_PROMISC = 0x100
_SIOCETHTOOL = 0x8946
_OFFLOADS = {"tx": (0x16, 0x17), "gro": (0x2B, 0x2C)}
"""ETHTOOL_G… and ETHTOOL_S… of the checksums of what is sent, and of what is put together (include/uapi/linux/ethtool.h)."""


class SysctlBackend:
    """Changes Sysctl. `read` finds nothing by itself: there are thousands, and none carries a mark."""

    kinds: frozenset[type] = frozenset({Sysctl})

    def __init__(self, gate: Callable[[str], None] = lambda _: None) -> None:
        self._gate = gate

    def read(self, netns: str, links: frozenset[str] | None) -> list[Resource]:
        return []

    def read_paths(self, paths: Iterable[str]) -> dict[str, str]:
        """The values of `paths` below /proc/sys; what this kernel or namespace has not is left out."""
        found = {}
        for path in paths:
            try:
                found[path] = _read(path)
            except OSError:
                continue
        return found

    def apply(self, netns: str, operations: Sequence[Operation]) -> list[Outcome]:
        return [Outcome(operation, self._apply(operation)) for operation in operations]

    def _apply(self, operation: Operation) -> str:
        """A deletion does nothing: the parameter goes with its link, or its former value is written by an Update."""
        if isinstance(operation, Delete):
            return ""
        target = operation.target
        assert isinstance(target, Sysctl)
        self._gate("before")
        try:
            _write(target.path, target.value)
        except OSError as error:
            return f"{target.path} = {target.value}: {os.strerror(error.errno or 0).lower()}"
        finally:
            self._gate("after")
        return ""


def _read(path: str) -> str:
    link, setting = link_setting(path)
    if setting:
        return _promiscuity(link) if setting == "promisc" else str(_ethtool(link, _OFFLOADS[setting][0], 0))
    fd = os.open(_file(path), os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(fd, _LONGEST).decode().strip()
    finally:
        os.close(fd)


def _promiscuity(link: str) -> str:
    """The flag that `ip link` sets, which is one, whoever set it; what sockets ask for is counted besides (dev_get_flags)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asking:
        answer = fcntl.ioctl(asking, _SIOCGIFFLAGS, struct.pack("16sH22x", os.fsencode(link), 0))
    flags: int = struct.unpack_from("16xH", answer)[0]
    return "1" if flags & _IFF_PROMISC else "0"


def _write(path: str, value: str) -> None:
    """One write: the kernel takes a value whole or not at all. By system calls, since attaching waits for three of them."""
    link, setting = link_setting(path)
    if setting:
        if setting == "promisc":
            _set_promiscuity(link, value == "1")
        else:
            _ethtool(link, _OFFLOADS[setting][1], int(value))
        return
    fd = os.open(_file(path), os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value.encode())
    finally:
        os.close(fd)


def _set_promiscuity(link: str, on: bool) -> None:
    """With a mask, so that no other flag is touched; by its index: one that is gone has not come back under its name."""
    try:
        index = socket.if_nametoindex(link)
    except OSError:
        raise OSError(errno.ENODEV, link) from None
    body = struct.pack("=BxHiII", 0, 0, index, _IFF_PROMISC if on else 0, _IFF_PROMISC)
    with NetlinkSocket() as route:
        (answer,) = route.execute([Message(_RTM_SETLINK, 0, body)])
    if answer.code:
        raise OSError(answer.code, str(answer))


def _ethtool(link: str, command: int, value: int) -> int:
    """struct ethtool_value, by the ioctl (include/uapi/linux/ethtool.h): what `ethtool -K LINK WHAT on|off` does."""
    wanted = ctypes.create_string_buffer(struct.pack("=II", command, value))
    request = struct.pack("16sQ16x", os.fsencode(link), ctypes.addressof(wanted))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asking:
        fcntl.ioctl(asking, _SIOCETHTOOL, request)
    answer: int = struct.unpack_from("=II", wanted.raw)[1]
    return answer


def _file(path: str) -> str:
    """A link may be called anything but `.`, `..` or what has a slash in it (dev_valid_name), so only we could climb out."""
    assert ".." not in path.split("/"), path
    return f"{ROOT}/{path}"
