"""Token buckets and detours (`resources/shaper.py`) ↔ netlink requests.

Invariant: ours is what carries our handle or preference; other queueing disciplines and filters are not looked at.
Sources: include/uapi/linux/{rtnetlink,pkt_sched,pkt_cls}.h and tc_act/tc_mirred.h, net/sched/sch_tbf.c.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

from ductwork.backends.netlink.wire import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Message,
    NetlinkSocket,
    attribute,
    attributes,
    nested,
    string,
    text,
    u32,
)
from ductwork.resources import Link, Redirect, Shaper
from ductwork.resources.shaper import BURST_UNIT_BYTES, HANDLE

RTM_NEWQDISC, RTM_DELQDISC, _RTM_GETQDISC = 36, 37, 38
_RTM_NEWTFILTER, _RTM_GETTFILTER = 44, 46
_ROOT, _INGRESS_PARENT, _INGRESS = 0xFFFFFFFF, 0xFFFFFFF1, 0xFFFF0000
_ALL_PROTOCOLS = 0x0300
"""ETH_P_ALL in network order."""
_KIND, _OPTIONS = 1, 2
_TBF_PARMS, _TBF_RATE64, _TBF_BURST = 1, 4, 6
_U32_SEL, _U32_ACT = 5, 7
_ACT_KIND, _ACT_OPTIONS, _MIRRED_PARMS = 1, 2, 2
_TERMINAL, _STOLEN, _EGRESS_REDIRECT = 1, 4, 1
_ETHERNET = 1
_TICK_NS = 64

_TCMSG = struct.Struct("=BxxxiIII")
_RATESPEC = struct.Struct("=BBHhHI")
_TBF_QOPT = struct.Struct("=12s12sIII")
_SELECTOR = struct.Struct("=BBBxHHhhI")
_MATCH = struct.Struct("=IIii")
_MIRRED = struct.Struct("=IIiiiiI")
_U64 = struct.Struct("=Q")


def _tcmsg(index: int = 0, parent: int = 0, handle: int = 0, info: int = 0) -> bytes:
    return _TCMSG.pack(0, index, handle, parent, info)


def new_shaper(shaper: Shaper, index: int, *, change: bool = False) -> Message:
    """Made where there is no root but the kernel's own, or changed in place: what waits in it goes on waiting. The kernel
    reckons with Ethernet's frames by itself, without a table of times (since 3.8)."""
    rate = shaper.bits_per_second // 8
    spec = _RATESPEC.pack(0, _ETHERNET, 0, 0, 0, min(rate, 0xFFFFFFFF))
    options = attribute(_TBF_PARMS, _TBF_QOPT.pack(spec, bytes(12), shaper.queue_bytes, 0, 0))
    options += attribute(_TBF_RATE64, _U64.pack(rate)) if rate > 0xFFFFFFFF else b""
    options += u32(_TBF_BURST, shaper.burst_bytes)
    body = _tcmsg(index, _ROOT, HANDLE << 16) + text(_KIND, "tbf") + nested(_OPTIONS, options)
    return Message(RTM_NEWQDISC, 0 if change else NLM_F_CREATE | NLM_F_EXCL, body)


def delete_shaper(index: int) -> Message:
    return Message(RTM_DELQDISC, 0, _tcmsg(index, _ROOT, HANDLE << 16))


def new_ingress(index: int) -> Message:
    """The place where filters look at what comes in."""
    body = _tcmsg(index, _INGRESS_PARENT, _INGRESS) + text(_KIND, "ingress")
    return Message(RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, body)


def new_redirect(index: int, to: int) -> Message:
    """The one that takes it all."""
    selector = _SELECTOR.pack(_TERMINAL, 0, 1, 0, 0, 0, 0, 0) + _MATCH.pack(0, 0, 0, 0)
    mirred = attribute(_MIRRED_PARMS, _MIRRED.pack(0, 0, _STOLEN, 0, 0, _EGRESS_REDIRECT, to))
    action = nested(1, text(_ACT_KIND, "mirred"), nested(_ACT_OPTIONS, mirred))
    where = _tcmsg(index, _INGRESS, 0, HANDLE << 16 | _ALL_PROTOCOLS)
    body = where + text(_KIND, "u32") + nested(_OPTIONS, attribute(_U32_SEL, selector), nested(_U32_ACT, action))
    return Message(_RTM_NEWTFILTER, NLM_F_CREATE | NLM_F_EXCL, body)


def delete_redirect(index: int) -> Message:
    return Message(RTM_DELQDISC, 0, _tcmsg(index, _INGRESS_PARENT, _INGRESS))


def read(opened: NetlinkSocket, netns: str, links: Sequence[Link]) -> list[Shaper | Redirect]:
    """What there is of it on links of ours: one dump (a device without any is not in it), and one for each detour."""
    ours = {link.index: link for link in links if link.owner}
    names = {link.index: link.name for link in links}
    found: list[Shaper | Redirect] = []
    for answer in opened.dump(_RTM_GETQDISC, _tcmsg()) if ours else ():
        _, index, handle, parent, _ = _TCMSG.unpack_from(answer)
        link = ours.get(index)
        if link is None:
            continue
        told = attributes(answer, _TCMSG.size)
        if parent == _ROOT and handle == HANDLE << 16 and string(told[_KIND]) == "tbf":
            found.append(_shaper(netns, link, attributes(told[_OPTIONS])))
        elif handle == _INGRESS:
            found += _redirects(opened, netns, link, names)
    return found


def _shaper(netns: str, link: Link, told: Mapping[int, bytes]) -> Shaper:
    spec, _, _, ticks, _ = _TBF_QOPT.unpack_from(told[_TBF_PARMS])
    rate = _U64.unpack(told[_TBF_RATE64])[0] if _TBF_RATE64 in told else _RATESPEC.unpack(spec)[-1]
    burst = round(ticks * _TICK_NS * rate / 1e9 / BURST_UNIT_BYTES) * BURST_UNIT_BYTES
    return Shaper(netns, link.name, rate * 8, burst, link.owner)


def _redirects(opened: NetlinkSocket, netns: str, link: Link, names: Mapping[int, str]) -> list[Shaper | Redirect]:
    for answer in opened.dump(_RTM_GETTFILTER, _tcmsg(link.index, _INGRESS)):
        info = _TCMSG.unpack_from(answer)[-1]
        actions = attributes(attributes(answer, _TCMSG.size).get(_OPTIONS, b"")).get(_U32_ACT)
        if info >> 16 == HANDLE and actions:
            options = attributes(attributes(attributes(actions)[1]).get(_ACT_OPTIONS, b""))
            target = _MIRRED.unpack_from(options[_MIRRED_PARMS])[-1] if _MIRRED_PARMS in options else 0
            return [Redirect(netns, link.name, names.get(target, ""), link.owner)]
    return []
