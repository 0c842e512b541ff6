"""A NIC of the host's on its way into a container and back.

Invariant: it is moved only where its name is free on the other side: the kernel moves first and renames then, and a NIC whose
renaming was refused would stand there under another name. It has its mark as soon as it is there: the next process knows it,
whenever this one is killed.
"""

from __future__ import annotations

import errno
import os

from ductwork.backends.netlink import encode, encode_link
from ductwork.backends.netlink.places import Places
from ductwork.backends.netlink.wire import DONE, Message, NetlinkSocket, text
from ductwork.resources import HOST, Link


def move_in(places: Places, opened: NetlinkSocket, link: Link, device: str) -> str:
    """From the host into the container that `opened` is of; the kernel's words where it refuses. It keeps its index where
    that is free, so that rules which name it hold when it is back."""
    index = places.index(HOST, device)
    if not index:
        return os.strerror(errno.ENODEV)
    if _is_there(opened, encode_link.ifinfo() + text(3, link.name)):
        return os.strerror(errno.EEXIST)
    inner = places.new_index() if _is_there(opened, encode_link.ifinfo(index)) else index
    fd = places.open_of(opened)
    places.gate("before")
    [answer] = places.host.execute([encode_link.move(index, fd, link, inner)])
    places.gate("after")
    os.close(fd)
    if answer == DONE:
        places.learn(link.netns, link.name, inner)
        return ""
    if _is_there(opened, encode_link.ifinfo(inner)):  # somebody took the name in between
        _send_home(places, opened, inner, device)
    return str(answer)


def way_back(places: Places, link: Link, device: str, fd: int) -> Message | None:
    """The request that moves it home, `fd` being a descriptor of the host's namespace; None where its name is taken there. One
    whose container has died is there already, under the name that it had in it (default_device_exit_net)."""
    if _is_there(places.host, encode_link.ifinfo() + text(3, device)):
        return None
    return encode_link.move_home(link.index, fd, device)


def _send_home(places: Places, opened: NetlinkSocket, index: int, device: str) -> None:
    fd = places.open_host()
    opened.execute([encode_link.move_home(index, fd, device)])
    os.close(fd)


def _is_there(opened: NetlinkSocket, request: bytes) -> bool:
    return opened.get(encode.RTM_GETLINK, request) is not None
