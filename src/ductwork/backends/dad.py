"""Asking the wire whether addresses are free before they are used: ARP probes and neighbour solicitations, all at once.

Invariant: the host is left as it is. No address, neighbour entry or sub-interface is made: frames are built by hand, and
packet sockets of the calling thread's namespace, one per link, send and hear them. What this host itself sends is never
heard: its own addresses, and those of macvlan and ipvlan interfaces on the link, are for the caller to compare.

A packet socket is bound to all protocols, since only then does it see tags (one bound to ARP gets the frames of a VLAN without
sub-interface as if they were untagged: __netif_receive_skb_core clears the tag); a filter in the kernel keeps all but ARP and
neighbour discovery away. Closing one waits for an RCU grace period (packet_release; 8 to 16 ms on 6.18, one after the
other), so a thread closes them, and nobody waits.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import select
import socket
import struct
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import NamedTuple

from ductwork.backends.dad_frames import (
    ALL_NODES_MAC,
    ETH_P_8021Q,
    ETH_P_ARP,
    ETH_P_IPV6,
    ICMPV6,
    NEIGHBOUR_ADVERTISEMENT,
    NEIGHBOUR_SOLICITATION,
    Claim,
    claim_of,
    group_mac,
    question,
)
from ductwork.errors import ApplyError, DuctworkError, MissingToolError
from ductwork.resources import IPAddress, Probe

WINDOW_SECONDS = 0.2
ROUNDS = 3
"""A frame may be lost. All rounds go out in the first half of the window, so that the last can be answered too."""

_SLACK_SECONDS = 0.004
"""poll(2) counts in milliseconds, and sleepers wake late; the caller's limit is one."""
_ETH_P_ALL, _ARPHRD_ETHER = 3, 1
_SOL_PACKET, _ADD_MEMBERSHIP, _AUXDATA, _IGNORE_OUTGOING = 263, 1, 8, 23
_MR_MULTICAST, _MR_PROMISC = 0, 1
_MEMBERSHIP = struct.Struct("=iHH8s")
_AUX = struct.Struct("=IIIHHHH")
_VLAN_VALID, _VLAN_ID = 1 << 4, 0xFFF
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE = 26, 33
_RECEIVE_BUFFER_BYTES = 1 << 22
"""The default, 208 KiB, holds 90 to 270 frames; a `Watch` may not be read for seconds."""
_FRAME_BYTES = 256
_QUEUED_FRAMES, _FRAMES_AT_ONCE = 10_000, 100
_SIOCGIFINDEX, _SIOCGIFFLAGS, _IFF_RUNNING = 0x8933, 0x8913, 0x40
_IFNAMSIZ = 16
_IFREQ = struct.Struct(f"={_IFNAMSIZ}s24x")

_LOAD_HALF, _LOAD_BYTE, _JUMP_IF_EQUAL, _RETURN = 0x28, 0x30, 0x15, 0x06
_FILTER = (
    (_LOAD_HALF, 0, 0, 12),  # the protocol: tags are stripped before
    (_JUMP_IF_EQUAL, 6, 0, ETH_P_ARP),
    (_JUMP_IF_EQUAL, 0, 6, ETH_P_IPV6),
    (_LOAD_BYTE, 0, 0, 20),  # the next header
    (_JUMP_IF_EQUAL, 0, 4, ICMPV6),
    (_LOAD_BYTE, 0, 0, 54),
    (_JUMP_IF_EQUAL, 1, 0, NEIGHBOUR_SOLICITATION),
    (_JUMP_IF_EQUAL, 0, 1, NEIGHBOUR_ADVERTISEMENT),
    (_RETURN, 0, 0, _FRAME_BYTES),
    (_RETURN, 0, 0, 0),
)
"""Classic BPF: code, how many instructions to skip where true, where false, operand (networking/filter.rst)."""


def probe(probes: Sequence[Probe], seconds: float = WINDOW_SECONDS) -> dict[Probe, str]:
    """Of those in use: probe → MAC of the machine that has the address, or that is about to take it like us.

    Takes at most `seconds`, notably less only where all are in use. Raises what `Watch` raises.
    """
    if not probes:
        return {}
    deadline = time.monotonic() + seconds - _SLACK_SECONDS
    with Watch(p.link for p in probes) as watch:
        watch.start(probes, seconds=seconds)
        return watch.conflicts(deadline)


class Watch:
    """Hears from its making on; asks when told to; tells what came in. In between the caller does other work."""

    def __init__(self, links: Iterable[str]) -> None:
        """In the calling thread's namespace. Raises ApplyError where a link is gone, down or no Ethernet."""
        self._wires: dict[str, _Wire] = {}
        self._poll = select.poll()
        self._asked: dict[_Question, list[tuple[Probe, bool]]] = {}
        self._rounds: list[tuple[float, list[_Question]]] = []
        self._found: dict[Probe, str] = {}
        with ExitStack() as undo:
            undo.callback(self.close)
            for link in dict.fromkeys(links):
                self._wires[link] = wire = _Wire(link)
                self._poll.register(wire.socket, select.POLLIN)
            undo.pop_all()

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Without waiting for the kernel to let the sockets go."""
        wires, self._wires = list(self._wires.values()), {}
        threading.Thread(target=_close, args=(wires,), name="dad-close").start()

    def start(self, probes: Iterable[Probe], held: bool = False, seconds: float = WINDOW_SECONDS) -> None:
        """Ask for each, at once; `conflicts` asks again at a quarter and at half of `seconds`.

        `held`: the addresses are in use by us already, so somebody who probes for one of them is no conflict: they get
        their answer from our container (RFC 5227, section 2.1.1). Raises ApplyError.
        """
        questions: dict[_Question, None] = {}
        for asked in probes:
            asking = _Question(asked.link, asked.vlan, asked.address)
            self._asked.setdefault(asking, []).append((asked, held))
            self._wires[asked.link].listen_for(asking)
            questions[asking] = None
        now = time.monotonic()
        spacing = seconds / 2 / (ROUNDS - 1)
        self._rounds += [(now + spacing * number, list(questions)) for number in range(ROUNDS)]
        self._ask_what_is_due(now)

    def conflicts(self, deadline: float) -> dict[Probe, str]:
        """Probe → MAC of each known until `deadline` (time.monotonic(); may be past: then what came in meanwhile).

        Returns before only where all are in use. Raises ApplyError where a link went down.
        """
        self._hear(0, _QUEUED_FRAMES)
        wanted = {asked for its in self._asked.values() for asked, _ in its}
        while len(self._found) < len(wanted) and (now := time.monotonic()) < deadline:
            self._ask_what_is_due(now)
            self._hear(min([deadline, *(due for due, _ in self._rounds)]) - now, _FRAMES_AT_ONCE)
        return dict(self._found)

    def unplugged(self) -> list[str]:
        """Links without carrier now: nobody behind them can have heard a question."""
        return [link for link, wire in self._wires.items() if not wire.has_carrier()]

    def _ask_what_is_due(self, now: float) -> None:
        due = [questions for when, questions in self._rounds if when <= now]
        self._rounds = [(when, questions) for when, questions in self._rounds if when > now]
        for asking in dict.fromkeys(asking for questions in due for asking in questions):
            if any(asked not in self._found for asked, _ in self._asked[asking]):
                self._wires[asking.link].ask(asking)

    def _hear(self, seconds: float, most: int) -> None:
        """Wait for frames, and take those that are there; `most`: from each link."""
        if not self._poll.poll(max(0.0, seconds) * 1000):
            return
        for wire in self._wires.values():
            for vlan, claim in wire.claims(most):
                for asked, held in self._asked.get(_Question(wire.link, vlan, claim.address), ()):
                    ours = claim.mac in (asked.mac.lower(), wire.mac.hex(":"))
                    if not ours and not (held and claim.probing):
                        self._found.setdefault(asked, claim.mac)


class _Question(NamedTuple):
    link: str
    vlan: int
    address: IPAddress


class _Wire:
    """One link's packet socket. Questions carry the link's own MAC: no NIC, switch or hypervisor refuses that one."""

    def __init__(self, link: str) -> None:
        self.link = link
        self.socket = _unbound()
        try:
            self._bind()
        except OSError as error:
            self.socket.close()
            raise _told(link, error) from None
        except DuctworkError:
            self.socket.close()
            raise
        self._groups: set[bytes] = set()

    def _bind(self) -> None:
        self.socket.bind((self.link, _ETH_P_ALL))
        self.mac: bytes
        *_, hardware, self.mac = self.socket.getsockname()
        if hardware != _ARPHRD_ETHER:
            text = f"{self.link}: wanted an Ethernet link to look for duplicate addresses on, got one of type {hardware}"
            raise ApplyError(text, "name another uplink or parent, or use --no-dad")
        if down := self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            raise OSError(down, "")

    def listen_for(self, asking: _Question) -> None:
        """Let the link's filters pass what others say of the address. Without IPv6 on the link nobody else has joined
        these groups; a tag that no sub-interface has is filtered by many a NIC unless it is promiscuous."""
        try:
            if asking.address.version == 6:
                self._join(_MR_MULTICAST, ALL_NODES_MAC)
                self._join(_MR_MULTICAST, group_mac(asking.address))
            if asking.vlan:
                self._join(_MR_PROMISC, b"")
        except OSError as error:
            raise _told(self.link, error) from None

    def _join(self, kind: int, group: bytes) -> None:
        if group not in self._groups:
            self._groups.add(group)
            index = self._interface(_SIOCGIFINDEX, "=i")
            membership = _MEMBERSHIP.pack(index, kind, len(group), group)
            self.socket.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, membership)

    def ask(self, asking: _Question) -> None:
        try:
            self.socket.send(question(asking.address, self.mac, asking.vlan))
        except OSError as error:
            # a full queue is a lost frame: there are more rounds
            if error.errno not in (errno.ENOBUFS, errno.EAGAIN):
                raise _told(self.link, error) from None

    def claims(self, most: int) -> Iterator[tuple[int, Claim]]:
        """(VLAN, claim) of what has arrived."""
        for _ in range(most):
            try:
                frame, ancillary, _, _ = self.socket.recvmsg(_FRAME_BYTES, socket.CMSG_SPACE(_AUX.size))
            except BlockingIOError:
                return
            except OSError as error:
                raise _told(self.link, error) from None
            vlan = _vlan_of(ancillary)
            claim = claim_of(frame)
            if claim and vlan is not None:
                yield vlan, claim

    def has_carrier(self) -> bool:
        try:
            return bool(self._interface(_SIOCGIFFLAGS, "=H") & _IFF_RUNNING)
        except OSError as error:
            raise _told(self.link, error) from None

    def _interface(self, request: int, form: str) -> int:
        """A number of struct ifreq (netdevice(7)), asked of the socket, which knows its namespace."""
        answer = fcntl.ioctl(self.socket, request, _IFREQ.pack(self.link.encode()))
        number: int = struct.unpack_from(form, answer, _IFNAMSIZ)[0]
        return number


def _close(wires: Sequence[_Wire]) -> None:
    for wire in wires:
        wire.socket.close()


def _unbound() -> socket.socket:
    """A packet socket that hears nothing yet: the filter is there before the first frame."""
    try:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, 0)
    except PermissionError:
        text = "looking for duplicate addresses needs root (CAP_NET_RAW)"
        raise MissingToolError(text, "run it as root, or with sudo") from None
    program = b"".join(struct.pack("=HBBI", *instruction) for instruction in _FILTER)
    buffer = ctypes.create_string_buffer(program, len(program))
    opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(_FILTER), ctypes.addressof(buffer)))
    opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
    opened.setsockopt(_SOL_PACKET, _AUXDATA, 1)
    opened.setsockopt(_SOL_PACKET, _IGNORE_OUTGOING, 1)  # kernel 4.20
    return opened


def _vlan_of(ancillary: Iterable[tuple[int, int, bytes]]) -> int | None:
    """The tag that the kernel took off; 0: none, or a mere priority; None: one of another kind (802.1ad)."""
    for level, kind, data in ancillary:
        if (level, kind) == (_SOL_PACKET, _AUXDATA):
            status, *_, tag, protocol = _AUX.unpack(data)
            if status & _VLAN_VALID:
                return tag & _VLAN_ID if protocol == ETH_P_8021Q else None
    return 0


def _told(link: str, error: OSError) -> ApplyError:
    lead = f"duplicate addresses cannot be looked for on {link}"
    if error.errno in (errno.ENODEV, errno.ENXIO):
        return ApplyError(f"{lead}: there is no such link", "ip link show")
    if error.errno == errno.ENETDOWN:
        return ApplyError(f"{lead}: it is down, or went down meanwhile", f"ip link set dev {link} up")
    return ApplyError(f"{lead}: {(error.strerror or str(error)).lower()}", f"ip -d link show dev {link}")
