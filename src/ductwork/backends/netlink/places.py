"""Where requests go: the host's namespace and the containers', and by which indexes links are known there.

Invariant: we choose the index of every link that we make, in each namespace from a range of our own.
"""

from __future__ import annotations

import fcntl
import os
import secrets
from collections.abc import Callable, Iterable

from ductwork.backends.netlink import decode_link, encode, encode_link
from ductwork.backends.netlink.wire import NetlinkSocket, text
from ductwork.resources import Link

INDEX_SPAN = 1 << 30
_INDEX_BASE = 1 << 16
_SIOCGSKNS = 0x894C
"""A descriptor of the namespace that a socket is in (include/uapi/linux/sockios.h)."""


class Places:
    """`open_netns`: a container's name → a new descriptor of its namespace; raises where the container is gone. `gate` is
    called with "before" and "after" around each send that changes anything."""

    def __init__(self, open_netns: Callable[[str], int], gate: Callable[[str], None]) -> None:
        self.open_netns = open_netns
        self.gate = gate
        self.host = NetlinkSocket()
        self.host.enlarge()
        self._indexes: dict[str, dict[str, int]] = {}
        self._next_index = _INDEX_BASE + secrets.randbelow(INDEX_SPAN)

    def close(self) -> None:
        self.host.close()

    def know(self, netns: str, links: Iterable[Link], *, all_of_them: bool) -> None:
        """Links that were read."""
        if all_of_them:
            self._indexes[netns] = {}
        self._indexes.setdefault(netns, {}).update((link.name, link.index) for link in links)

    def index(self, netns: str, name: str) -> int:
        """The index of a link that was read or made; 0 where it is not known."""
        return self._indexes.get(netns, {}).get(name, 0)

    def learn(self, netns: str, name: str, index: int) -> None:
        self._indexes.setdefault(netns, {})[name] = index

    def new_index(self) -> int:
        self._next_index += 1
        return self._next_index

    def reserve_index(self, netns: str, name: str) -> int:
        """For a link that is about to be made."""
        self.learn(netns, name, self.new_index())
        return self._next_index

    def look_up(self, opened: NetlinkSocket, netns: str, name: str) -> int:
        """The index of a link that something else has made since the reading; 0 where there is none."""
        answer = opened.get(encode.RTM_GETLINK, encode_link.ifinfo() + text(3, name))
        if answer is not None:
            self.learn(netns, name, decode_link.index(answer))
        return self.index(netns, name) if answer is not None else 0

    def open_host(self) -> int:
        """A new descriptor of the host's namespace, which the calling thread may be away from."""
        return self.open_of(self.host)

    @staticmethod
    def open_of(opened: NetlinkSocket) -> int:
        """A new descriptor of the very namespace that a socket is in, whatever has its name by now."""
        return fcntl.ioctl(opened.socket, _SIOCGSKNS)

    def host_nsid(self, opened: NetlinkSocket, *, give: bool = False) -> int:
        """By which number the socket's namespace knows the host's; `give`: it gets one if it has none."""
        fd = self.open_host()
        try:
            nsid = _ask_nsid(opened, fd)
            if nsid == decode_link.NO_NAMESPACE and give:
                opened.execute([encode_link.give_nsid(fd)])
                nsid = _ask_nsid(opened, fd)
            return nsid
        finally:
            os.close(fd)


def _ask_nsid(opened: NetlinkSocket, fd: int) -> int:
    answer = opened.get(encode.RTM_GETNSID, encode_link.ask_nsid(fd))
    return decode_link.nsid(answer) if answer is not None else decode_link.NO_NAMESPACE
