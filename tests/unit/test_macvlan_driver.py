"""What macvlan and ipvlan networks ask of a host, and what they refuse before anything is touched."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from ductwork import desire
from ductwork.drivers import ContainerFacts, Facts, View
from ductwork.errors import DuctworkError
from ductwork.naming import mac_address
from ductwork.resources import (
    HOST,
    Address,
    IpvlanSpec,
    Key,
    Link,
    MacvlanSpec,
    NicFacts,
    Owner,
    Resource,
    Route,
    Sysctl,
    VlanSpec,
)
from ductwork.resources.link import Spec
from ductwork.resources.sysctl import promisc_path
from ductwork.site.load import load_text

NIC_MAC = "02:aa:00:00:00:01"
ETH0 = Link(HOST, "eth0", "", NIC_MAC, 1500, index=2)
OURS = Owner("office", "site", "lan")
THEIRS = Owner("other", "site", "lan")
WEB = "netns:web"

LAN = "{driver: macvlan, parent: eth0, subnet: 10.0.0.0/24, gateway: 10.0.0.1}"
PLUGS = "[{container: 'netns:web', network: lan, address: 10.0.0.50}]"


def sight(networks: str, links: Iterable[Link] = (), plugs: str = PLUGS, host: str = "", **facts: object) -> View:
    """What the host `host` sees of a site whose network `lan` is `networks`, or which has all that `networks` lists."""
    text = networks if networks.startswith("networks:") else f"networks: {{lan: {networks}}}"
    site = load_text(f"{text}\nattachments: {plugs}", "office.yaml", "machine")
    containers = {plug.container: ContainerFacts(7) for plug in site.on(host)}
    known = Facts(links={link.name: link for link in (ETH0, *links)}, containers=containers, **facts)  # type: ignore[arg-type]
    addresses = {plug.id: plug.addresses for plug in site.on(host)}
    return desire.view(site, host, "machine", known, addresses)


def wanted(*arguments: object, **more: object) -> dict[Key, Resource]:
    return desire.desired_on_host(sight(*arguments, **more))  # type: ignore[arg-type]


def link(found: dict[Key, Resource], netns: str, name: str) -> Link:
    resource = found[Key("link", netns, (name,))]
    assert isinstance(resource, Link)
    return resource


def sysctls(found: dict[Key, Resource], netns: str = HOST) -> dict[str, str]:
    return {r.path: r.value for r in found.values() if isinstance(r, Sysctl) and r.netns == netns}


def refused(*arguments: object, **more: object) -> tuple[str, str]:
    with pytest.raises(DuctworkError) as caught:
        wanted(*arguments, **more)
    return caught.value.message, caught.value.hint


def made(name: str, kind: str, spec: Spec, owner: Owner | None = None, **more: object) -> Link:
    return Link(HOST, name, kind, NIC_MAC, 1500, spec=spec, owner=owner, **more)  # type: ignore[arg-type]


# what is asked for


def test_a_macvlan_is_born_in_its_container_and_the_nic_takes_any_mac() -> None:
    found = wanted(LAN)
    inner = link(found, WEB, "eth1")
    mac = mac_address("machine", WEB, "eth1")
    owner = Owner("office", "site", "lan", WEB, "eth1", 7)
    assert inner == Link(WEB, "eth1", "macvlan", mac, 1500, spec=MacvlanSpec("eth0", "bridge"), owner=owner)
    assert inner.is_born_inside and inner.requires() == (ETH0.key,)
    assert sysctls(found) == {promisc_path("eth0"): "1"}
    address = found[Key("address", WEB, ("eth1", "10.0.0.50"))]
    assert isinstance(address, Address) and address.probe == ("eth0", 0)
    assert Route(WEB, ip_network("0.0.0.0/0"), "eth1", ip_address("10.0.0.1")) in found.values()
    assert {key.kind for key in found if key.netns == HOST} == {"sysctl"}, "the host itself has nothing in it"


@pytest.mark.parametrize("mode", ["bridge", "private", "vepa"])
def test_each_mode_is_asked_for(mode: str) -> None:
    assert link(wanted(f"{{driver: macvlan, parent: eth0, mode: {mode}, subnet: 10.0.0.0/24}}"), WEB, "eth1").spec == (
        MacvlanSpec("eth0", mode)
    )


def test_without_promisc_the_nic_is_left_alone() -> None:
    assert not sysctls(wanted("{driver: macvlan, parent: eth0, promisc: false, subnet: 10.0.0.0/24}"))


def test_the_only_one_on_a_parent_has_its_mac() -> None:
    """Whatever it is told (macvlan_common_newlink), and a plan that wanted another would never be done."""
    inner = link(wanted("{driver: macvlan, parent: eth0, mode: passthru, subnet: 10.0.0.0/24}"), WEB, "eth1")
    assert inner.mac == NIC_MAC


@pytest.mark.parametrize("mode", ["l2", "l3", "l3s"])
def test_an_ipvlan_has_the_nics_mac_and_leaves_it_alone(mode: str) -> None:
    found = wanted(f"{{driver: ipvlan, parent: eth0, mode: {mode}, subnet: 10.0.0.0/24}}")
    inner = link(found, WEB, "eth1")
    assert (inner.kind, inner.mac, inner.spec) == ("ipvlan", NIC_MAC, IpvlanSpec("eth0", mode))
    assert not sysctls(found)


def test_a_vlan_is_made_on_the_nic_and_probed_for_through_it() -> None:
    found = wanted("{driver: macvlan, parent: eth0, vlan: 100, subnet: 10.0.0.0/24}")
    assert link(found, HOST, "eth0.100") == made("eth0.100", "vlan", VlanSpec("eth0", 100), Owner("office"))
    assert link(found, WEB, "eth1").spec == MacvlanSpec("eth0.100", "bridge")
    assert sysctls(found) == {
        promisc_path("eth0"): "1",
        "net/ipv6/conf/eth0.100/disable_ipv6": "1",
        "net/ipv6/conf/eth0.100/accept_ra": "0",
        "net/ipv6/conf/eth0.100/autoconf": "0",
    }, "promiscuous is the NIC, and the VLAN's router does not configure the host"
    address = found[Key("address", WEB, ("eth1", "10.0.0.50"))]
    assert isinstance(address, Address) and address.probe == ("eth0", 100)


def test_networks_that_share_a_vlan_share_its_sub_interface() -> None:
    text = """networks:
  lan: {driver: macvlan, parent: eth0, vlan: 100, subnet: 10.0.0.0/24}
  two: {driver: macvlan, parent: eth0, vlan: 100, subnet: 10.0.1.0/24, mode: private, mtu: 1400}
  three: {driver: macvlan, parent: eth0, vlan: 200, subnet: 10.0.1.0/24}"""
    plugs = """
  - {container: 'netns:c', network: lan, address: 10.0.0.9}
  - {container: 'netns:c', network: two, address: 10.0.1.9}
  - {container: 'netns:d', network: three, address: 10.0.1.9}"""
    view = sight(text, plugs=plugs)
    every = [r for name in ("lan", "two") for r in desire.DRIVERS["macvlan"].host_resources(view.site.networks[name], view)]
    shared = [r for r in every if r.key == Key("link", HOST, ("eth0.100",))]
    assert len(shared) == 2 and shared[0] == shared[1] and shared[0].owner == Owner("office")
    assert {"eth0.100", "eth0.200"} <= {key.ident[0] for key in desire.desired_on_host(view)}


def test_a_sub_interface_of_somebody_elses_is_used_and_not_claimed() -> None:
    theirs = replace(made("eth0.100", "vlan", VlanSpec("eth0", 100)), mtu_bytes=1400)
    found = wanted("{driver: macvlan, parent: eth0, vlan: 100, subnet: 10.0.0.0/24}", [theirs])
    assert theirs.key not in found
    assert link(found, WEB, "eth1").mtu_bytes == 1400
    assert sysctls(found) == {promisc_path("eth0"): "1"}


def test_one_of_ours_is_asked_for_again() -> None:
    ours = made("eth0.100", "vlan", VlanSpec("eth0", 100), Owner("office"))
    found = wanted("{driver: macvlan, parent: eth0, vlan: 100, subnet: 10.0.0.0/24}", [ours])
    assert link(found, HOST, "eth0.100") == ours


def test_each_host_has_its_parent_and_its_part() -> None:
    text = """networks:
  lan: {driver: macvlan, parent: {alpha: eth0, beta: enp3s0}, subnet: 10.0.0.0/24, host_access: {beta: 10.0.0.251}}
hosts: {alpha: {address: 10.0.0.10/24}, beta: {address: 10.0.0.11/24}}"""
    plugs = """
  - {container: 'netns:web', host: alpha, network: lan, address: 10.0.0.50}
  - {container: 'netns:db', host: beta, network: lan, address: 10.0.0.51}"""
    alpha = wanted(text, plugs=plugs, host="alpha")
    beta = wanted(text, [made("enp3s0", "", None)], plugs=plugs, host="beta")
    assert link(alpha, WEB, "eth1").spec == MacvlanSpec("eth0", "bridge")
    assert link(beta, "netns:db", "eth1").spec == MacvlanSpec("enp3s0", "bridge")
    assert Key("link", HOST, ("dw-lan",)) in beta and Key("link", HOST, ("dw-lan",)) not in alpha


ACCESS = "{driver: %s, parent: eth0, subnet: [10.0.0.0/24, 'fd00::/64'], host_access: '%s'}"
BOTH = "[{container: 'netns:web', network: lan, address: [10.0.0.50, 'fd00::50']}]"


@pytest.mark.parametrize(("address", "to", "metric"), [("10.0.0.250", "10.0.0.50/32", 0), ("fd00::250", "fd00::50/128", 1024)])
def test_host_access_is_an_interface_beside_the_containers_and_a_way_to_each(address: str, to: str, metric: int) -> None:
    found = wanted(ACCESS % ("macvlan", address), plugs=BOTH)
    beside = link(found, HOST, "dw-lan")
    mac = mac_address("machine", "lan", "access")
    assert beside == Link(HOST, "dw-lan", "macvlan", mac, 1500, spec=MacvlanSpec("eth0", "bridge"), owner=OURS)
    own = [r for r in found.values() if isinstance(r, Address) and r.netns == HOST]
    assert [(r.link, str(r.address), r.probe) for r in own] == [("dw-lan", address, ("eth0", 0))]
    assert own[0].prefixlen == own[0].address.max_prefixlen, "the host's other ways stay as they are"
    assert [r for r in found.values() if isinstance(r, Route) and r.netns == HOST] == [
        Route(HOST, ip_network(to), "dw-lan", metric=metric)
    ]


def test_the_lan_hears_one_answer() -> None:
    found = sysctls(wanted(ACCESS % ("macvlan", "10.0.0.250"), plugs=BOTH))
    assert found["net/ipv4/conf/dw-lan/arp_ignore"] == "1", "the host's other addresses are the parent's to answer for"
    assert found["net/ipv4/conf/eth0/arp_ignore"] == "1", "and this one is not"
    assert "net/ipv4/conf/eth0/arp_ignore" not in sysctls(wanted(ACCESS % ("macvlan", "fd00::250"), plugs=BOTH))
    assert "net/ipv4/conf/eth0/arp_ignore" not in sysctls(wanted(ACCESS % ("ipvlan", "10.0.0.250"), plugs=BOTH))


def test_a_stricter_host_stays_as_strict() -> None:
    path = "net/ipv4/conf/eth0/arp_ignore"
    assert path not in sysctls(wanted(ACCESS % ("macvlan", "10.0.0.250"), plugs=BOTH, sysctls={path: "2"}))


def test_without_layer_2_there_is_no_next_hop_and_nobody_to_ask() -> None:
    found = wanted("{driver: ipvlan, parent: eth0, mode: l3, subnet: 10.0.0.0/24, host_access: 10.0.0.250}")
    assert Route(WEB, ip_network("0.0.0.0/0"), "eth1") in found.values()
    assert all(r.probe is None for r in found.values() if isinstance(r, Address))


def test_without_layer_2_a_containers_other_default_route_stays_unless_asked() -> None:
    docker = Route("docker:web", ip_network("0.0.0.0/0"), "eth0", ip_address("172.17.0.1"), protocol=3)
    for asked, count in (("", 0), (", gateway: true", 2)):
        plugs = f"[{{container: 'docker:web', network: lan, address: 10.0.0.50{asked}}}]"
        view = sight("{driver: ipvlan, parent: eth0, mode: l3s, subnet: 10.0.0.0/24}", plugs=plugs)
        view = replace(view, facts=replace(view.facts, containers={"docker:web": ContainerFacts(7, (docker,))}))
        routes = [r for r in desire.desired_on_host(view).values() if isinstance(r, Route)]
        assert len(routes) == count, "ours, and Docker's, parked"


def test_the_sub_interface_that_routes_for_containers_keeps_ipv6() -> None:
    found = sysctls(wanted("{driver: ipvlan, parent: eth0, vlan: 9, mode: l3, subnet: 10.0.0.0/24}"))
    assert found["net/ipv6/conf/eth0.9/disable_ipv6"] == "0"


def test_the_mtu_is_the_parents_unless_said() -> None:
    assert link(wanted("{driver: macvlan, parent: eth0, mtu: 1400, subnet: 10.0.0.0/24}"), WEB, "eth1").mtu_bytes == 1400


# what is refused


MACVLAN = made("mv", "macvlan", MacvlanSpec("eth0", "bridge"))
IPVLAN = made("iv", "ipvlan", IpvlanSpec("eth0", "l2"))
VLAN = "{driver: macvlan, parent: eth0, vlan: 100, subnet: 10.0.0.0/24}"
HELD = (Address(HOST, "eth0", ip_address("192.0.2.1"), 24),)


@pytest.mark.parametrize(
    ("network", "links", "facts", "message", "hint"),
    [
        ("{driver: macvlan, parent: eth7}", [], {}, "no NIC eth7 here", "`ip link`"),
        (LAN, [replace(ETH0, up=False)], {}, "eth0, its parent, is down", "ip link set dev eth0 up"),
        (LAN, [replace(ETH0, master_index=9), made("br0", "bridge", None, index=9)], {}, "a port of br0", "`parent: br0`"),
        (LAN, [replace(ETH0, master_index=9)], {}, "a port of a bridge or bond", "another NIC"),
        (LAN, [], {"moved": {"eth0": "dw-x"}}, "a port of dw-x", "`parent: dw-x`"),
        (LAN, [IPVLAN], {}, "iv is an ipvlan on eth0", "`driver: ipvlan`"),
        ("{driver: ipvlan, parent: eth0}", [MACVLAN], {}, "mv is a macvlan on eth0", "`driver: macvlan`"),
        ("{driver: ipvlan, parent: eth0, mode: l3}", [IPVLAN], {}, "of mode l2, which this one's would", "`mode: l2`"),
        ("{driver: macvlan, parent: eth0, mode: passthru}", [MACVLAN], {}, "passthru needs the device", "another mode"),
        ("{driver: macvlan, parent: eth0, mode: passthru}", [], {"addresses": HELD}, "has 192.0.2.1 on eth0", "mode: bridge"),
        (LAN, [replace(MACVLAN, spec=MacvlanSpec("eth0", "passthru"))], {}, "passthru needs the device", "another mode"),
        (LAN, [], {"nics": {"eth0": NicFacts(wireless=True)}}, "eth0 is a Wi-Fi NIC", "`driver: ipvlan`"),
        ("{driver: macvlan, parent: mv}", [MACVLAN], {}, "mv, its parent, is a macvlan", "`parent: eth0`"),
        ("{driver: macvlan, parent: eth0, mtu: 9000}", [], {}, "an mtu of 9000 is more than that of eth0", "at most 1500"),
        (VLAN, [made("v100", "vlan", VlanSpec("eth0", 100))], {}, "VLAN 100 of eth0 is on v100 already", "`parent: v100`"),
        (VLAN, [made("eth0.100", "vlan", VlanSpec("eth0", 100), up=False)], {}, "eth0.100, its parent, is down", "up"),
        (VLAN, [made("eth0.100", "vlan", VlanSpec("eth0", 100), master_index=4)], {}, "eth0.100, its parent, is a port", "NIC"),
    ],
)
def test_what_the_kernel_would_refuse_is_refused_before(
    network: str, links: list[Link], facts: dict[str, object], message: str, hint: str
) -> None:
    plugs = PLUGS if "subnet" in network else "[{container: 'netns:web', network: lan}]"
    said, advice = refused(network, links, plugs, **facts)
    assert message in said and hint in advice, (said, advice)


@pytest.mark.parametrize(
    ("network", "links", "facts"),
    [
        (LAN, [MACVLAN], {}),
        ("{driver: ipvlan, parent: eth0, subnet: 10.0.0.0/24}", [IPVLAN], {}),
        ("{driver: ipvlan, parent: eth0, subnet: 10.0.0.0/24}", [], {"nics": {"eth0": NicFacts(wireless=True)}}),
        (LAN, [made("iv", "ipvlan", IpvlanSpec("eth0", "l2"), OURS)], {}),
        (LAN, [made("iv", "ipvlan", IpvlanSpec("eth1", "l2"))], {}),
        (VLAN, [replace(ETH0, master_index=9)], {}),
        ("{driver: macvlan, parent: eth0, vlan: 100, mode: passthru, subnet: 10.0.0.0/24}", [], {"addresses": HELD}),
    ],
)
def test_what_goes_together_is_not_refused(network: str, links: list[Link], facts: dict[str, object]) -> None:
    assert wanted(network, links, **facts)


def test_what_another_site_has_there_counts() -> None:
    assert "iv is an ipvlan" in refused(LAN, [made("iv", "ipvlan", IpvlanSpec("eth0", "l2"), THEIRS)])[0]


def test_an_attachments_mtu_fits_the_parent() -> None:
    plugs = "[{container: 'netns:web', network: lan, address: 10.0.0.50, mtu: 2000}]"
    message, hint = refused(LAN, plugs=plugs)
    assert message == "eth1 of netns:web: an mtu of 2000 is more than that of eth0, its parent"
    assert hint == "at most 1500, or leave the key out"
