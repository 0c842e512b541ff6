"""Any process as a container, by its PID.

Invariant: a PID's next holder is never entered. A process is known by more than its PID, and while its namespace is
opened a pidfd pins it: if it lives when all is done, everything in between was about it.
"""

from __future__ import annotations

import os
import re
import select
from collections.abc import Callable
from functools import partial
from typing import ClassVar, NamedTuple

from ductwork.errors import ContainerError, MissingToolError
from ductwork.runtimes import Sandbox

PID = re.compile("[1-9][0-9]{0,8}")


class _Process(NamedTuple):
    """What tells a process from the next one with its PID. `started`: clock ticks since boot (field 22 of proc_pid_stat(5)),
    too coarse where a PID is used again within 10 ms. `inode`: its pidfd's, never used again (kernel 6.9; before, all
    pidfds have the same)."""

    state: str
    started: int
    inode: int


class PidRuntime:
    name: ClassVar[str] = "pid"

    def find(self, names: list[str]) -> dict[str, Sandbox | None]:
        own = _netns_id("self")
        found: dict[str, Sandbox | None] = {}
        for name in names:
            if not PID.fullmatch(name):
                continue
            process = _identify(int(name))
            if process:
                found[name] = None if process.state in "ZX" else self._sandbox(name, process, own)
        return found

    def _sandbox(self, name: str, process: _Process, own: tuple[int, int] | None) -> Sandbox:
        pid = int(name)
        open_netns = partial(open_process_netns, pid, f"pid:{name}", partial(_is_still, pid, process))
        mode = "host" if own is not None and _netns_id(name) == own else "none"
        return Sandbox(self.name, name, f"/proc/{name}/ns/net", open_netns, mode)


def open_process_netns(pid: int, who: str, is_it: Callable[[], bool]) -> int:
    """A descriptor of the network namespace of the process that has `pid` and for which `is_it` holds.

    Errors: `ContainerError`, naming `who`, when it died or another process has the PID by now.
    """
    gone = ContainerError(f"{who} is gone: its process {pid} has ended", "it is attached by the next apply that finds it")
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        raise gone from None
    except OSError as error:  # EINVAL before kernel 6.9: a thread's ID
        raise ContainerError(f"{who}: {pid} cannot be opened: {error.strerror}", "name the process's own PID") from error
    try:
        fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            if not is_it() or ended(pidfd):
                raise gone
        except BaseException:
            os.close(fd)
            raise
        return fd
    except PermissionError as error:
        raise MissingToolError(f"{who}: opening its network namespace needs root", "run it as root, or with sudo") from error
    except (FileNotFoundError, ProcessLookupError):
        raise gone from None
    finally:
        os.close(pidfd)


def ended(pidfd: int) -> bool:
    """A pidfd is readable once its process has ended, a zombie included (pidfd_open(2))."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def _identify(pid: int) -> _Process | None:
    """None: no such process, or a thread's number."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()  # the program's name may hold blanks and parentheses
        return _Process(fields[0].decode(), int(fields[19]), os.fstat(pidfd).st_ino)
    except (FileNotFoundError, ProcessLookupError):
        return None
    finally:
        os.close(pidfd)


def _is_still(pid: int, before: _Process) -> bool:
    now = _identify(pid)
    return now is not None and now[1:] == before[1:]


def _netns_id(process: str) -> tuple[int, int] | None:
    """What tells living namespaces apart; None where that of another user's process cannot be seen."""
    try:
        stat = os.stat(f"/proc/{process}/ns/net")
    except OSError:
        return None
    return stat.st_dev, stat.st_ino
