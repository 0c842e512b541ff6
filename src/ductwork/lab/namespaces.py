"""The lab's network namespaces: made, found and removed by a mark that they carry in the kernel.

Invariant: a namespace gets its mark (the alias of its `lo`) before it gets a name, so that whatever the moment of a crash,
what has a name of ours and our mark was made by `lab up`, and what lacks the mark was not.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from ipaddress import ip_interface
from pathlib import Path
from typing import TypeVar

from ductwork import netns
from ductwork.errors import ApplyError, MissingToolError
from ductwork.resources import IPInterface

T = TypeVar("T")

DIRECTORY = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_IFA_F_TENTATIVE = 0x40
_MS_BIND, _MS_REC, _MS_SHARED, _MNT_DETACH = 0x1000, 0x4000, 0x100000, 2
_libc = ctypes.CDLL(None, use_errno=True)


def mark(site_name: str) -> str:
    return f"ductwork-lab:{site_name}"


def create(names: Iterable[str], site_name: str, sysctls: Mapping[str, str]) -> None:
    """Make namespaces, with `lo` up; `sysctls`: paths below /proc/sys → values, set before any link is there.

    Errors: `MissingToolError` without root; `ApplyError` where a name is taken.
    """
    _prepare_directory()
    with ThreadPoolExecutor(1) as pool:  # a thread of its own: unshare() does not lead back
        for name in names:
            pool.submit(_create, name, site_name, sysctls).result()


def delete(name: str) -> None:
    """Take a namespace's name away; the namespace goes with its last process and socket. A missing name is no error."""
    path = DIRECTORY / name
    _libc.umount2(os.fsencode(path), _MNT_DETACH)
    path.unlink(missing_ok=True)


def owned(prefix: str, site_name: str) -> list[str]:
    """Names that begin with `prefix` and carry the site's mark, or that a crash left before they led anywhere."""
    names = sorted(path.name for path in DIRECTORY.glob(f"{prefix}*"))
    with ThreadPoolExecutor(4) as pool:
        marks = list(pool.map(_mark_of, names))
    return [name for name, found in zip(names, marks, strict=True) if found in {mark(site_name), ""}]


def exists(name: str) -> bool:
    return (DIRECTORY / name).exists()


def processes(names: Iterable[str]) -> dict[str, list[int]]:
    """Namespace → PIDs of the processes in it; namespaces without any are left out."""
    by_inode = {(DIRECTORY / name).stat().st_ino: name for name in names if _leads_somewhere(name)}
    found: dict[str, list[int]] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            inode = (process / "ns/net").stat().st_ino
        except OSError:
            continue  # it has ended meanwhile
        if inode in by_inode:
            found.setdefault(by_inode[inode], []).append(int(process.name))
    return {name: sorted(found[name]) for name in by_inode.values() if name in found}


def open_namespace(name: str) -> int:
    return os.open(DIRECTORY / name, os.O_RDONLY | os.O_CLOEXEC)


def run_inside(name: str, work: Callable[[], T]) -> T:
    """Run `work` in a namespace, in a thread of its own (`netns.inside`)."""
    fd = open_namespace(name)
    try:
        return netns.inside(fd, work)
    finally:
        os.close(fd)


def cookies(names: Iterable[str]) -> list[int]:
    """The cookies of namespaces; those that lead nowhere are left out."""
    return [cookie for cookie in _visit(names, netns.cookie) if isinstance(cookie, int)]


def wait_for_ipv6(names: Iterable[str], seconds: float) -> bool:
    """Until no IPv6 address is tentative any more; False if that takes longer. Even without duplicate address detection
    the kernel makes addresses usable from one work queue for all namespaces, which may be busy with others'."""
    waiting, deadline = list(names), time.monotonic() + seconds
    while waiting := [n for n, found in zip(waiting, _visit(waiting, _is_tentative), strict=True) if found is True]:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def addresses(name: str, ifname: str) -> tuple[IPInterface, ...]:
    """The global addresses of an interface, none where it is not there."""
    argv = ["ip", "-netns", name, "-json", "address", "show", "dev", ifname, "scope", "global"]
    done = subprocess.run(argv, capture_output=True, check=False)
    infos = [] if done.returncode else json.loads(done.stdout)[0].get("addr_info", [])
    # `ip` leaves an empty object for each address that the scope excludes.
    return tuple(ip_interface(f"{info['local']}/{info['prefixlen']}") for info in infos if "local" in info)


def ip_batch(lines: Iterable[str], name: str = "", version: int | None = None) -> None:
    """Have one `ip -batch` do all `lines`, in a namespace. `version`: of IP, where the lines do not tell.

    Errors: `ApplyError` with the words of `ip`.
    """
    argv = ["ip", *([f"-{version}"] if version else []), *(["-netns", name] if name else []), "-batch", "-"]
    done = subprocess.run(argv, input="\n".join(lines) + "\n", text=True, capture_output=True, check=False)
    if done.returncode:
        where = f" in {name}" if name else ""
        raise ApplyError(f"the lab could not be built{where}: {done.stderr.strip()}")


def _visit(names: Iterable[str], work: Callable[[], T]) -> list[T | Exception]:
    with closing(netns.Visitor()) as visitor:
        return visitor.visit([(partial(open_namespace, name), work) for name in names])


def _is_tentative() -> bool:
    """Whether the calling thread's namespace has an address with IFA_F_TENTATIVE; the fifth column is its flags."""
    lines = Path("/proc/thread-self/net/if_inet6").read_text().splitlines()
    return any(int(line.split()[4], 16) & _IFA_F_TENTATIVE for line in lines)


def _create(name: str, site_name: str, sysctls: Mapping[str, str]) -> None:
    if _libc.unshare(_CLONE_NEWNET):
        raise _refused("making a network namespace")
    ip_batch([f"link set dev lo up alias {mark(site_name)}"])
    for path, value in sysctls.items():
        with suppress(FileNotFoundError):  # a kernel without IPv6
            Path("/proc/sys", path).write_text(value)
    target = DIRECTORY / name
    try:
        os.close(os.open(target, os.O_RDONLY | os.O_CREAT | os.O_EXCL, 0))
    except FileExistsError:
        raise ApplyError(f"{target} is there already") from None
    if _libc.mount(b"/proc/thread-self/ns/net", os.fsencode(target), b"none", _MS_BIND, None):
        raise _refused("naming a network namespace")


def _prepare_directory() -> None:
    """A shared mount, as `ip netns add` makes it: names that go here go in other mount namespaces too."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    place = os.fsencode(DIRECTORY)
    if _libc.mount(b"", place, b"none", _MS_SHARED | _MS_REC, None) == 0:
        return
    bound = _libc.mount(place, place, b"none", _MS_BIND | _MS_REC, None)
    if bound or _libc.mount(b"", place, b"none", _MS_SHARED | _MS_REC, None):
        raise _refused(f"mounting {DIRECTORY}")


def _mark_of(name: str) -> str | None:
    """The alias of a namespace's `lo`; "" for a name that leads nowhere; None for no mark."""
    if not _leads_somewhere(name):
        return ""
    argv = ["ip", "-netns", name, "-json", "link", "show", "dev", "lo"]
    done = subprocess.run(argv, capture_output=True, check=False)
    return None if done.returncode else json.loads(done.stdout)[0].get("ifalias")


def _leads_somewhere(name: str) -> bool:
    """Whether a name is mounted: an unmounted one is a plain file of the directory's own file system."""
    try:
        return (DIRECTORY / name).stat().st_dev != DIRECTORY.stat().st_dev
    except FileNotFoundError:
        return False


def _refused(what: str) -> Exception:
    code = ctypes.get_errno()
    if code == 1:
        return MissingToolError(f"{what} needs root (CAP_SYS_ADMIN)", "run it as root, or with sudo")
    return ApplyError(f"{what}: {os.strerror(code)}")
