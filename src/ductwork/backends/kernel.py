"""What this kernel can do, found out by trying: what it lacks is said before anything is touched.

Invariant: it is tried in a network namespace that nobody else sees and that is gone with the thread that made it. Trying
loads a missing module, if there is one for it (request_module).
"""

from __future__ import annotations

import ctypes
import os
import struct
import threading
from collections.abc import Callable, Iterable
from errno import EPERM
from typing import NamedTuple

from ductwork.backends.netlink import tc
from ductwork.backends.netlink.wire import NLM_F_CREATE, NLM_F_EXCL, Message, NetlinkSocket, attribute, nested, text, u32
from ductwork.errors import MissingToolError
from ductwork.resources import HOST, Shaper

_CLONE_NEWNET = 0x40000000
_RTM_NEWLINK = 16
_NETLINK_GENERIC = 16
_GENL_ID_CTRL, _CTRL_CMD_GETFAMILY, _CTRL_ATTR_FAMILY_NAME = 0x10, 3, 2
_IFLA_IFNAME, _IFLA_LINK, _IFLA_LINKINFO = 3, 5, 18
_IFLA_INFO_KIND, _IFLA_INFO_DATA = 1, 2
_VLAN_ID_7 = attribute(1, struct.pack("=H", 7))
_FILTERING = attribute(7, b"\1")
"""IFLA_VLAN_ID; IFLA_BR_VLAN_FILTERING."""
_FIRST_INDEX = 4711


class _Trial(NamedTuple):
    """A link to make: `kind` and `data` as rtnetlink has them. `remedy`: what to do where it cannot be made."""

    kind: str
    remedy: str
    data: bytes = b""
    on_parent: bool = False


_TRIALS = {
    "vlan": _Trial(
        "vlan", "this kernel has no 802.1q (vlan): `modprobe 8021q`, or one with CONFIG_VLAN_8021Q", _VLAN_ID_7, on_parent=True
    ),
    "macvlan": _Trial("macvlan", "this kernel has no macvlan: `modprobe macvlan`, or one with CONFIG_MACVLAN", on_parent=True),
    "ipvlan": _Trial("ipvlan", "this kernel has no ipvlan: `modprobe ipvlan`, or one with CONFIG_IPVLAN", on_parent=True),
    "vlan_filtering": _Trial(
        "bridge",
        "this kernel's bridges cannot tell VLANs apart: take one with CONFIG_BRIDGE_VLAN_FILTERING, or `driver: ovs`",
        _FILTERING,
    ),
    "ifb": _Trial("ifb", "this kernel has no ifb: `modprobe ifb`, or one with CONFIG_IFB"),
}
_LOOPBACK = 1
_QUEUEING = {
    "tbf": (
        "this kernel has no token buckets: `modprobe sch_tbf`, or one with CONFIG_NET_SCH_TBF",
        (tc.new_shaper(Shaper(HOST, "lo", 8_000, 4096), _LOOPBACK),),
    ),
    "mirred": (
        "this kernel cannot redirect what comes in: `modprobe -a sch_ingress cls_u32 act_mirred`, or one with "
        "CONFIG_NET_SCH_INGRESS, CONFIG_NET_CLS_U32 and CONFIG_NET_ACT_MIRRED",
        (tc.new_ingress(_LOOPBACK), tc.new_redirect(_LOOPBACK, _LOOPBACK)),
    ),
}
_OPEN_VSWITCH = "this kernel has no Open vSwitch: `modprobe openvswitch`, or write `datapath: netdev`"

_libc = ctypes.CDLL(None, use_errno=True)
_known: dict[str, bool] = {}


def missing(features: Iterable[str]) -> dict[str, str]:
    """Feature → what to do, of those that this kernel has not: `vlan`, `macvlan`, `ipvlan`, `vlan_filtering`, `ifb`,
    `tbf`, `mirred`, `openvswitch`. Each is tried once in a process's life. Errors: `MissingToolError` without root."""
    wanted = list(dict.fromkeys(features))
    untried = [feature for feature in wanted if feature not in _known]
    if untried:
        _known.update(_in_scratch_namespace(lambda: _tried(untried)))
    return {feature: _remedy(feature) for feature in wanted if not _known[feature]}


def _remedy(feature: str) -> str:
    if feature == "openvswitch":
        return _OPEN_VSWITCH
    return _QUEUEING[feature][0] if feature in _QUEUEING else _TRIALS[feature].remedy


def _in_scratch_namespace(work: Callable[[], dict[str, bool]]) -> dict[str, bool]:
    results: list[dict[str, bool]] = []
    errors: list[Exception] = []

    def run() -> None:
        try:
            if _libc.unshare(_CLONE_NEWNET):
                code = ctypes.get_errno()
                if code == EPERM:
                    raise MissingToolError("trying what the kernel can do needs root (CAP_SYS_ADMIN)", "run it as root")
                raise OSError(code, os.strerror(code))
            results.append(work())
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="kernel")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]


def _tried(features: Iterable[str]) -> dict[str, bool]:
    with NetlinkSocket() as route:
        return {feature: _can(feature, number, route) for number, feature in enumerate(features)}


def _can(feature: str, number: int, route: NetlinkSocket) -> bool:
    if feature == "openvswitch":
        return _has_open_vswitch()
    if feature in _QUEUEING:
        return not any(answer.code for answer in route.execute(_QUEUEING[feature][1]))
    return _can_be_made(_TRIALS[feature], number, route)


def _can_be_made(trial: _Trial, number: int, route: NetlinkSocket) -> bool:
    """Each on a parent of its own: what one kind has taken (rx_handler), another cannot have."""
    parent = _FIRST_INDEX + number if trial.on_parent else 0
    if parent:
        route.execute([_new_link(f"parent{number}", "veth", index=parent)])
    (answer,) = route.execute([_new_link(f"trial{number}", trial.kind, trial.data, parent=parent)])
    return not answer.code


def _new_link(name: str, kind: str, data: bytes = b"", *, parent: int = 0, index: int = 0) -> Message:
    body = struct.pack("=BxHiII", 0, 0, index, 0, 0) + text(_IFLA_IFNAME, name)
    body += u32(_IFLA_LINK, parent) if parent else b""
    body += nested(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, kind), nested(_IFLA_INFO_DATA, data))
    return Message(_RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def _has_open_vswitch() -> bool:
    """Asking for its family by name loads its module (ctrl_getfamily in net/netlink/genetlink.c)."""
    with NetlinkSocket(_NETLINK_GENERIC) as generic:
        head = struct.pack("=BBH", _CTRL_CMD_GETFAMILY, 1, 0)
        (answer,) = generic.execute([Message(_GENL_ID_CTRL, 0, head + text(_CTRL_ATTR_FAMILY_NAME, "ovs_datapath"))])
        return not answer.code
