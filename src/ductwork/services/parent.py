"""The device of a host's that macvlan and ipvlan interfaces are made on: a NIC, or a VLAN's sub-interface on it.

Invariant: pure. What the kernel would refuse, or would quietly do otherwise than asked, is said here, before anything is
touched.
"""

from __future__ import annotations

from dataclasses import dataclass

from ductwork.drivers import View
from ductwork.errors import ConflictError, DuctworkError
from ductwork.resources import IpvlanSpec, Link, MacvlanSpec, NicFacts, VlanSpec

PASSTHRU = "passthru"
WITH_ARTICLE = {"macvlan": "a macvlan", "ipvlan": "an ipvlan"}


@dataclass(frozen=True, slots=True)
class Parent:
    """`name`: what interfaces are made on: `nic` itself where `vid` is 0, else the sub-interface of that VLAN. `made`: whether
    the sub-interface is ours to make: one that is there already and is somebody else's is used as it is."""

    nic: Link
    vid: int
    name: str
    mtu_bytes: int
    made: bool

    @property
    def mac(self) -> str:
        """A sub-interface has its NIC's."""
        return self.nic.mac

    @property
    def probe(self) -> tuple[str, int]:
        """Where others may hold an address: the sub-interface need not be there yet."""
        return (self.nic.name, self.vid)


def device_of(nic: str, vid: int) -> str:
    """The NIC, or its VLAN's sub-interface; `site.check_bridges` sees to it that the name is not too long."""
    return f"{nic}.{vid}" if vid else nic


def find_parent(nic: str, vid: int, network: str, view: View) -> Parent:
    """The device, if anything can be made on it.

    Errors: `DuctworkError`, `ConflictError`: nothing was touched.
    """
    link = view.facts.links.get(nic)
    if link is None:
        hint = f"`ip link` shows the NICs; correct `parent` of network {network}"
        raise DuctworkError(f"network {network}: there is no NIC {nic} here to be its parent", hint)
    if isinstance(link.spec, MacvlanSpec | IpvlanSpec):
        message = (
            f"network {network}: {nic}, its parent, is {WITH_ARTICLE[link.kind]}, and Linux would take what that is on instead"
        )
        raise DuctworkError(message, f"write `parent: {link.spec.parent}`")
    _refuse_down(link, network)
    present = _sub_interface(nic, vid, network, view) if vid else link
    if present is None or present.owner is not None:
        made = bool(vid)
        return Parent(link, vid, device_of(nic, vid), link.mtu_bytes, made)
    _refuse_down(present, network)
    _refuse_port(present, network, view)
    return Parent(link, vid, present.name, present.mtu_bytes, made=False)


def _sub_interface(nic: str, vid: int, network: str, view: View) -> Link | None:
    """What stands for the VLAN already: a NIC has one sub-interface for each."""
    found = next((link for link in view.facts.links.values() if link.spec == VlanSpec(nic, vid)), None)
    if found is not None and found.name != device_of(nic, vid):
        message = f"network {network}: VLAN {vid} of {nic} is on {found.name} already: nothing was touched"
        raise ConflictError(message, f"write `parent: {found.name}`, without `vlan`")
    return found


def _refuse_down(link: Link, network: str) -> None:
    if not link.up:
        hint = f"`ip link set dev {link.name} up`, then apply again"
        raise DuctworkError(f"network {network}: {link.name}, its parent, is down", hint)


def _refuse_port(link: Link, network: str, view: View) -> None:
    """One function at most sees a device's frames first (netdev_rx_handler_register): a bridge's, a bond's, or macvlan's."""
    bridge = view.facts.moved.get(link.name, "")
    if link.master_index and not bridge:
        bridge = next((other.name for other in view.facts.links.values() if other.index == link.master_index), "")
    if link.master_index or bridge:
        what = f"a port of {bridge}" if bridge else "a port of a bridge or bond"
        hint = f"write `parent: {bridge}`, or name another NIC" if bridge else "name another NIC as `parent`"
        raise ConflictError(f"network {network}: {link.name}, its parent, is {what}: nothing was touched", hint)


def refuse_mtu(mtu_bytes: int, what: str, parent: Parent) -> None:
    if mtu_bytes > parent.mtu_bytes:
        message = f"{what}: an mtu of {mtu_bytes} is more than that of {parent.name}, its parent"
        raise DuctworkError(message, f"at most {parent.mtu_bytes}, or leave the key out")


def refuse_neighbours(kind: str, mode: str, parent: Parent, network: str, view: View) -> None:
    """What others have on the same device. Of this site's own, the file has been checked; and what is in other namespaces is
    not seen: there the kernel refuses."""
    for other in view.facts.links.values():
        if not isinstance(other.spec, MacvlanSpec | IpvlanSpec) or other.spec.parent != parent.name:
            continue
        if other.owner is not None and other.owner.site == view.site.name:
            continue
        message = f"network {network}: {other.name} is {WITH_ARTICLE[other.kind]} on {parent.name}"
        if other.kind != kind:
            hint = f"use `driver: {other.kind}`, another parent, or a `vlan`"
            raise ConflictError(f"{message}, and a device carries either macvlan or ipvlan: nothing was touched", hint)
        if kind == "ipvlan" and other.spec.mode != mode:
            reason = f"of mode {other.spec.mode}, which this one's would silently change"
            raise ConflictError(f"{message} {reason}: nothing was touched", f"write `mode: {other.spec.mode}`, or a `vlan`")
        if PASSTHRU in (mode, other.spec.mode):
            reason = f"and {PASSTHRU} needs the device for itself"
            raise ConflictError(f"{message}, {reason}: nothing was touched", "use another mode, another parent, or a `vlan`")


def refuse_passthru(parent: Parent, network: str, view: View) -> None:
    """It takes every unicast frame that the device receives, the host's own among them."""
    held = [address for address in view.facts.addresses if address.link == parent.name and not address.address.is_link_local]
    if held:
        message = (
            f"network {network}: the host has {held[0].address} on {parent.name}, and {PASSTHRU} would take all its packets"
        )
        hint = "use `mode: bridge`, or a NIC that the host does not use itself"
        raise ConflictError(f"{message}: nothing was touched", hint)


def refuse_wireless(parent: Parent, network: str, view: View) -> None:
    if view.facts.nics.get(parent.nic.name, NicFacts()).wireless:
        message = (
            f"network {network}: {parent.nic.name} is a Wi-Fi NIC: an access point lets no other MACs than its own through"
        )
        raise DuctworkError(message, "use `driver: ipvlan`, whose containers share the NIC's MAC")
