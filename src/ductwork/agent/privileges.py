"""What the agent gives up at its start: all capabilities that it has no use for, and the way to get them back.

Invariant: called before there is a second thread, since each has its own; the programs that are started later (nft, iptables)
get no more than what is left. Source: capabilities(7), prctl(2), include/uapi/linux/capability.h.
"""

from __future__ import annotations

import ctypes
import os
import struct
from errno import EINVAL, EPERM
from pathlib import Path

KEPT = {
    "CAP_CHOWN": 0,
    "CAP_DAC_OVERRIDE": 1,
    "CAP_NET_BIND_SERVICE": 10,
    "CAP_NET_ADMIN": 12,
    "CAP_NET_RAW": 13,
    "CAP_SYS_PTRACE": 19,
    "CAP_SYS_ADMIN": 21,
}
"""In this order: the API's socket is given to a group; site files and sockets (Open vSwitch's on Fedora) may be another
user's; published ports below 1024 that we relay; links, addresses, routes, rules; asking for addresses, iptables;
/proc/PID/ns of containers; setns."""

_NO_NEW_PRIVILEGES, _BOUNDING_SET_DROP, _AMBIENT, _AMBIENT_CLEAR_ALL = 38, 24, 47, 4
_VERSION_3 = 0x20080522
_HEADER = struct.pack("=Ii", _VERSION_3, 0)
_SETS = struct.Struct("=IIIIII")
"""Effective, permitted, inheritable: the lower 32 bits of each, then the upper."""
_libc = ctypes.CDLL(None, use_errno=True)


def drop() -> None:
    """Errors: `OSError`. Who has little to begin with keeps no more than that."""
    _prctl(_NO_NEW_PRIVILEGES, 1)
    _prctl(_AMBIENT, _AMBIENT_CLEAR_ALL)
    last = int(Path("/proc/sys/kernel/cap_last_cap").read_text())
    for capability in range(last + 1):
        if capability not in KEPT.values():
            _prctl(_BOUNDING_SET_DROP, capability, harmless=EPERM)  # without CAP_SETPCAP: not root, who has none to lose
    kept = sum(1 << capability for capability in KEPT.values())
    sets = ctypes.create_string_buffer(_SETS.size)
    _check(_libc.capget(_HEADER, sets))
    effective, permitted, *_ = _SETS.unpack(sets.raw)
    sets = ctypes.create_string_buffer(_SETS.pack(effective & kept, permitted & kept, 0, 0, 0, 0), _SETS.size)
    _check(_libc.capset(_HEADER, sets))


def _prctl(option: int, value: int, harmless: int = EINVAL) -> None:
    _check(_libc.prctl(option, value, 0, 0, 0), harmless)


def _check(result: int, harmless: int = 0) -> None:
    code = ctypes.get_errno()
    if result and code != harmless:
        raise OSError(code, os.strerror(code))
