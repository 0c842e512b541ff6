"""The programs that configure NICs by themselves: managers (NetworkManager, systemd-networkd, dhcpcd) and DHCP clients.

Invariant: a program counts only if it lives in the network namespace of the calling thread; elsewhere the same name and index
are another NIC's. A program whose namespace we may not see counts, since it may be ours. One that is in another PID namespace
is not seen at all.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from ductwork.backends.program import run
from ductwork.errors import MissingToolError

_NETWORK_MANAGER, _NETWORKD, _DHCPCD = "NetworkManager", "systemd-network", "dhcpcd"
_CLIENTS = ("dhclient", "udhcpc", _DHCPCD)
_KNOWN = frozenset({_NETWORK_MANAGER, _NETWORKD, *_CLIENTS, "busybox"})
"""By /proc/PID/comm, of which there are 15 letters (TASK_COMM_LEN)."""
_NM_UNMANAGED = 10
"""NM_DEVICE_STATE_UNMANAGED; whatever is above it is managed (nm-dbus-interface.h)."""
_UDHCPC_DEFAULT = "eth0"
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_LONGEST_BYTES = 1 << 16


class Process(NamedTuple):
    """`name`: its program's; `words`: its command line."""

    pid: int
    name: str
    words: tuple[str, ...]


def processes() -> list[Process]:
    """Those programs that run here."""
    own = _namespace("thread-self")
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        name = _text(f"/proc/{pid}/comm").rstrip("\n")
        if name in _KNOWN and _namespace(pid) in (own, None):
            # dhcpcd writes its own command line, with blanks in it: `dhcpcd: eth0 [ip4] [ip6]`.
            words = tuple(_text(f"/proc/{pid}/cmdline").replace("\0", " ").split())
            if words:  # a process that has ended has none
                found.append(Process(int(pid), _applet(words) if name == "busybox" else name, words))
    return found


def manager(nic: str, index: int, running: Sequence[Process]) -> str:
    """Which of them has this NIC in its care; "" for none."""
    for process in running:
        if process.name == _NETWORK_MANAGER and _network_manager_has(nic, index, process.pid):
            return "NetworkManager"
        if process.name == _NETWORKD and _networkd_has(index, process.pid):
            return "systemd-networkd"
        if process.name == _DHCPCD and _is_meant(nic, process.words):
            return "dhcpcd"
    return ""


def client(nic: str, running: Sequence[Process]) -> str:
    """Which DHCP client's command line names this NIC, or leaves it to the client; "" for none."""
    return next((p.name for p in running if p.name in _CLIENTS and _is_client_of(nic, p)), "")


def _is_client_of(nic: str, process: Process) -> bool:
    if process.name != "udhcpc":
        return _is_meant(nic, process.words)
    options = " ".join(process.words).replace("--interface=", "-i ").replace("--interface", "-i").split()
    named = [word.removeprefix("-i") or value for word, value in pairwise([*options, ""]) if word.startswith("-i")]
    return nic in (named or [_UDHCPC_DEFAULT])


def _is_meant(nic: str, words: Sequence[str]) -> bool:
    """Whether the command line of dhcpcd or dhclient names this NIC, or none: then it sees to all that there are."""
    named = {name for _, name in socket.if_nameindex()}.intersection(words[1:])
    return nic in named or not named


def _network_manager_has(nic: str, index: int, pid: int) -> bool:
    """NetworkManager itself is asked. What it keeps in its run directory is older where it has been started anew (1.42), so
    that counts only where it does not answer. What it merely sees as "connected (externally)" it leaves as it is."""
    try:
        answer = run(["nmcli", "-g", "GENERAL.STATE", "device", "show", nic], package="network-manager")
    except MissingToolError:
        pass
    else:
        state = answer.out.split(maxsplit=1)[0] if answer.out.strip() else ""
        if not answer.code and state.isdigit():
            return int(state) > _NM_UNMANAGED and "(externally)" not in answer.out
    return "managed=true" in _of_its_run_directory(pid, f"NetworkManager/devices/{index}").splitlines()


def _networkd_has(index: int, pid: int) -> bool:
    """Its state of a link, as `networkctl` shows it; `unmanaged` where no .network file matches or one says so, `linger`
    where the link is gone. Before it has decided (`pending`, `initialized`) it may still come to have it."""
    lines = _of_its_run_directory(pid, f"systemd/netif/links/{index}").splitlines()
    state = next((line.partition("=")[2] for line in lines if line.startswith("ADMIN_STATE=")), "unmanaged")
    return state not in ("unmanaged", "linger")


def _of_its_run_directory(pid: int, path: str) -> str:
    """A file below /run as the process sees it. It may be a container's that shares the host's network: what is no plain file
    is not opened, and symbolic links, which would lead about in our own tree, are not followed."""
    opened: list[int] = []
    try:
        opened.append(os.open(f"/proc/{pid}/root", _FOLDER))
        for name in ("run", *path.split("/")[:-1]):
            opened.append(os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=opened[-1]))
        opened.append(os.open(os.path.basename(path), _FILE, dir_fd=opened[-1]))
        is_file = stat.S_ISREG(os.fstat(opened[-1]).st_mode)
        return os.read(opened[-1], _LONGEST_BYTES).decode(errors="replace") if is_file else ""
    except OSError:
        return ""
    finally:
        for fd in opened:
            os.close(fd)


def _applet(words: Sequence[str]) -> str:
    """`busybox udhcpc …` is udhcpc."""
    return words[1] if len(words) > 1 and os.path.basename(words[0]) == "busybox" else words[0]


def _namespace(process: str) -> tuple[int, int] | None:
    """What tells living namespaces apart; None where that of another user's process cannot be seen, or is no more."""
    try:
        found = os.stat(f"/proc/{process}/ns/net")
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _text(path: str) -> str:
    """A file's content, "" where there is none to be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
