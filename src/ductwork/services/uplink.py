"""A host's NIC as the uplink of a bridge: what the bridge takes over besides addresses and routes, and what forbids it.

Invariant: pure. Moving addresses and routes is not said here: it follows from the port (`relocation.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ductwork.drivers import View
from ductwork.errors import ConflictError, DuctworkError
from ductwork.resources import HOST, IpvlanSpec, Link, MacvlanSpec, NicFacts, Owner, Resource, Sysctl, VlanSpec, VxlanSpec
from ductwork.resources.nic import unmanaged_drop_in
from ductwork.resources.route import ANY_LINK

_CONF = {
    "ipv4": (
        *("accept_local", "accept_redirects", "accept_source_route", "arp_accept", "arp_announce", "arp_filter", "arp_ignore"),
        *("arp_notify", "disable_policy", "disable_xfrm", "drop_gratuitous_arp", "drop_unicast_in_l2_multicast", "forwarding"),
        *("igmpv2_unsolicited_report_interval", "igmpv3_unsolicited_report_interval", "log_martians", "medium_id"),
        *("promote_secondaries", "proxy_arp", "proxy_arp_pvlan", "route_localnet", "rp_filter", "secure_redirects"),
        *("send_redirects", "shared_media", "src_valid_mark"),
    ),
    "ipv6": (
        *("accept_dad", "accept_ra", "accept_ra_defrtr", "accept_ra_from_local", "accept_ra_min_hop_limit", "accept_ra_mtu"),
        *("accept_ra_pinfo", "accept_ra_rt_info_max_plen", "accept_ra_rt_info_min_plen", "accept_ra_rtr_pref"),
        *("accept_redirects", "accept_source_route", "accept_untracked_na", "stable_secret", "addr_gen_mode", "autoconf"),
        *("dad_transmits", "disable_ipv6", "enhanced_dad", "force_forwarding", "hop_limit", "keep_addr_on_down"),
        *("max_addresses", "proxy_ndp", "router_solicitations", "temp_prefered_lft", "temp_valid_lft", "use_optimistic"),
        *("use_tempaddr",),
    ),
}
"""A device's own parameters that decide how it speaks IP (Documentation/networking/ip-sysctl.rst), in the order of writing:
without `stable_secret`, which cannot be read where it was never set, the kernel refuses an `addr_gen_mode` of 2."""


def sysctl_paths(nics: Iterable[str]) -> Iterator[str]:
    """Every path below /proc/sys that `takeover` looks up in `facts.sysctls`."""
    devices = list(nics)
    return device_paths([*devices, "default"] if devices else [])


def device_paths(devices: Iterable[str]) -> Iterator[str]:
    """Below /proc/sys: all that a NIC may hand to its bridge."""
    for device in devices:
        for family, names in _CONF.items():
            yield from (f"net/{family}/conf/{device}/{name}" for name in names)


def no_ipv6_path(nic: str) -> str:
    """Below /proc/sys: what makes a NIC a mere port, since the kernel gives every device that is up a link-local address."""
    return f"net/ipv6/conf/{nic}/disable_ipv6"


def takeover(nic: str, bridge: str, view: View, owner: Owner) -> Iterator[Resource]:
    """The NIC's own parameters, where they are not what a new device gets, for the bridge; and no IPv6 on the NIC."""
    known = view.facts.sysctls
    for family, names in _CONF.items():
        for name in names:
            value = known.get(f"net/{family}/conf/{nic}/{name}")
            if value is not None and value != known.get(f"net/{family}/conf/default/{name}"):
                yield Sysctl(HOST, f"net/{family}/conf/{bridge}/{name}", value, link=bridge, owner=owner)
    if no_ipv6_path(nic) in known:
        yield Sysctl(HOST, no_ipv6_path(nic), "1", owner=owner)


def uplink_nic(nic: str, bridge: str, network: str, view: View) -> Link:
    """The NIC, if the bridge has taken it over or may.

    Errors: `DuctworkError`, `ConflictError`: nothing was touched.
    """
    link = view.facts.links.get(nic)
    if link is None:
        message = f"network {network}: there is no NIC {nic} here to be the uplink of {bridge}"
        raise DuctworkError(message, "`ip link` shows the NICs; correct `uplink`")
    if nic in view.facts.taken:
        return link
    _refuse_kind(link, network)
    refuse_what_is_on_it(link, network, view)
    refuse_management(link, view.facts.nics.get(nic, NicFacts()), bridge, network)
    return link


def _refuse_kind(link: Link, network: str) -> None:
    if link.name == "lo" or link.kind == "bridge" or link.owner:
        what = "the loopback" if link.name == "lo" else "a bridge" if link.kind == "bridge" else "ductwork's own"
        raise DuctworkError(f"network {network}: {link.name} is {what}, which cannot be an uplink", "name a NIC in `uplink`")
    if link.master_index:
        message = f"network {network}: {link.name} is a port of another bridge or bond already: nothing was touched"
        hint = f"`ip link show dev {link.name}` tells of which; take it out of that one, or use that bridge's NIC no further"
        raise ConflictError(message, hint)


def refuse_what_is_on_it(link: Link, network: str, view: View) -> None:
    """What would not go along. Errors: `ConflictError`."""
    on_top = [other.name for other in view.facts.links.values() if _rides_on(other, link.name)]
    # Our own site's leave before the NIC goes.
    others = (other for other in view.facts.inside if not (other.owner and other.owner.site == view.site.name))
    on_top += [f"{other.name} of {other.netns}" for other in others if _rides_on(other, link.name)]
    if on_top:
        message = f"network {network}: {', '.join(on_top)} on top of {link.name} would lose its way: nothing was touched"
        raise ConflictError(message, f"remove it, or carry its VLAN by `trunk` of network {network}")
    lost = [route for route in view.facts.routes if not route.carried and {link.name, ANY_LINK} & {*route.links}]
    if lost:
        to = "the default route" if lost[0].is_default else f"the route to {lost[0].to}"
        message = (
            f"network {network}: {to} (table {lost[0].table}) cannot be moved from {link.name} as it is: nothing was touched"
        )
        hint = "it has several next hops, an encapsulation or a next-hop object; replace it by a plain route"
        raise ConflictError(message, hint)
    stays = view.facts.nics.get(link.name, NicFacts()).stays
    if stays:
        message = f"network {network}: {stays[0]} on {link.name} would not go along: nothing was touched"
        raise ConflictError(message, "delete it, and add it again afterwards where it is needed")
    _refuse_stranded(link, network, view)


def _refuse_stranded(link: Link, network: str, view: View) -> None:
    """The kernel keeps a route whose gateway's subnet has gone, but does not take it anew, neither there nor back."""
    devices = {link.name, view.facts.moved.get(link.name, link.name)}
    routes = [route for route in view.facts.routes if route.link in devices]
    near = {route.to for route in routes if route.via is None}
    near |= {own.subnet for own in view.facts.addresses if own.link in devices and own.makes_prefix_route}
    for route in routes:
        if route.owner or route.via is None or route.via.is_link_local or (route.details and route.details.onlink):
            continue
        if not any(route.via in subnet for subnet in near):
            to = "default" if route.is_default else str(route.to)
            message = (
                f"network {network}: the kernel would not take the route {to} via {route.via} (table {route.table}) again, "
                f"since {link.name} has no address or route by which {route.via} is near: nothing was touched"
            )
            raise ConflictError(message, f"delete it, or make its gateway known: ip route add {route.via} dev {link.name}")


def _rides_on(link: Link, nic: str) -> bool:
    match link.spec:
        case VlanSpec(parent=parent) | MacvlanSpec(parent=parent) | IpvlanSpec(parent=parent):
            return parent == nic
        case VxlanSpec(underlay=underlay):
            return underlay == nic and not link.owner
    return False


def refuse_management(link: Link, known: NicFacts, bridge: str, network: str) -> None:
    """Who else sees to the NIC. `bridge`: where it is to go. Errors: `DuctworkError`, `ConflictError`."""
    name = link.name
    if known.wireless:
        message = f"network {network}: {name} is a Wi-Fi NIC: an access point lets no other MACs than its own through"
        raise DuctworkError(f"{message}, so it cannot be bridged", "use `driver: ipvlan` with `parent`, or a routed network")
    if known.manager:
        message = f"network {network}: {known.manager} manages {name}, and would take its addresses back: nothing was touched"
        path, text = unmanaged_drop_in(known.manager, [name, bridge])
        told = f"make it leave {name} and {bridge} alone, then apply again"
        raise ConflictError(message, f"{told}. For that, {path}:\n{text}" if path else told)
    if known.lease:
        message = f"network {network}: {name} has its address by DHCP, and {known.lease} would go on renewing it there"
        hint = f"give {name} a fixed address, or run the DHCP client on {bridge} from now on, then apply again"
        raise ConflictError(f"{message}: nothing was touched", hint)
