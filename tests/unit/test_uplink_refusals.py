"""Which NICs a bridge does not take over, and what is said then, before anything is touched."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest

from ductwork import desire
from ductwork.drivers import Facts, View
from ductwork.errors import ConflictError, DuctworkError
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
    VlanSpec,
    VxlanSpec,
)
from ductwork.resources.link import Spec
from ductwork.site.load import load_text

NIC_MAC = "02:aa:00:00:00:01"
ETH0 = Link(HOST, "eth0", "", NIC_MAC, 1500, index=2)
OWN_ADDRESS = Address(HOST, "eth0", ip_address("192.168.1.2"), 24)
DRIVERS = ("bridge", "ovs")


def sight(*links: Link, driver: str = "bridge", **facts: object) -> View:
    """What a host with these links sees of a site that makes its eth0 the uplink of br0. (Where nobody is plugged in, nothing
    is made.)"""
    text = f"""
networks: {{lan: {{driver: {driver}, bridge: br0, uplink: eth0, subnet: 192.168.1.0/24}}}}
attachments: [{{container: 'netns:web', network: lan, address: 192.168.1.150}}]"""
    known = Facts(links={link.name: link for link in links}, addresses=(OWN_ADDRESS,), **facts)  # type: ignore[arg-type]
    return desire.view(load_text(text, "office.yaml"), "", "machine", known, {})


def wanted(driver: str = "bridge", *links: Link, **facts: object) -> dict[Key, Resource]:
    """Of a host with eth0 and `links`, which replace it if they have its name."""
    return desire.desired_on_host(sight(ETH0, *links, driver=driver, **facts))


def refused(driver: str, *links: Link, **facts: object) -> DuctworkError:
    with pytest.raises(DuctworkError) as caught:
        wanted(driver, *links, **facts)
    assert caught.value.message.startswith("network lan: ")
    return caught.value


def seen(nic: NicFacts) -> dict[str, object]:
    return {"nics": {"eth0": nic}}


def made(name: str, kind: str, spec: Spec, **more: object) -> Link:
    return Link(HOST, name, kind, NIC_MAC, 1500, spec=spec, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_nic_that_nobody_cares_for_is_taken_over(driver: str) -> None:
    assert Key("link", HOST, ("br0",)) in wanted(driver)


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(
    ("manager", "path", "lines"),
    [
        (
            "NetworkManager",
            "/etc/NetworkManager/conf.d/90-ductwork.conf",
            ["[keyfile]", "unmanaged-devices+=interface-name:eth0;interface-name:br0"],
        ),
        (
            "systemd-networkd",
            "/etc/systemd/network/05-ductwork.network",
            ["[Match]", "Name=eth0 br0", "[Link]", "Unmanaged=yes"],
        ),
        ("dhcpcd", "/etc/dhcpcd.conf", ["denyinterfaces eth0 br0"]),
    ],
)
def test_a_nic_that_is_managed_and_how_its_manager_is_told(driver: str, manager: str, path: str, lines: list[str]) -> None:
    """The hint is a file to be written: its path, and all of its text, for the NIC and the bridge."""
    error = refused(driver, **seen(NicFacts(manager=manager)))
    assert isinstance(error, ConflictError)
    assert error.message == (f"network lan: {manager} manages eth0, and would take its addresses back: nothing was touched")
    told, _, text = error.hint.partition("\n")
    assert told == f"make it leave eth0 and br0 alone, then apply again. For that, {path}:"
    comment, *rest = text.splitlines()
    assert comment.startswith("# "), "how it takes effect, as the file may say itself"
    assert [line for line in rest if line] == lines


def test_a_manager_that_we_do_not_know_has_no_file() -> None:
    assert refused("bridge", **seen(NicFacts(manager="connman"))).hint == "make it leave eth0 and br0 alone, then apply again"


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("client", ["dhclient", "an unknown client"])
def test_a_lease_that_would_be_renewed_on_a_port(driver: str, client: str) -> None:
    error = refused(driver, **seen(NicFacts(lease=client)))
    assert isinstance(error, ConflictError)
    assert f"eth0 has its address by DHCP, and {client} would go on renewing it there" in error.message
    assert error.hint == "give eth0 a fixed address, or run the DHCP client on br0 from now on, then apply again"


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_wireless_nic_cannot_be_bridged_whoever_manages_it(driver: str) -> None:
    error = refused(driver, **seen(NicFacts(wireless=True, manager="NetworkManager", lease="NetworkManager")))
    assert "eth0 is a Wi-Fi NIC" in error.message and "cannot be bridged" in error.message
    assert error.hint == "use `driver: ipvlan` with `parent`, or a routed network"


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize(
    ("name", "kind", "spec"),
    [
        ("eth0.100", "vlan", VlanSpec("eth0", 100)),
        ("mv0", "macvlan", MacvlanSpec("eth0", "bridge")),
        ("iv0", "ipvlan", IpvlanSpec("eth0", "l2")),
        ("vx0", "vxlan", VxlanSpec(42, 4789, None, "eth0")),
    ],
)
def test_what_is_on_top_of_it_would_lose_its_way(driver: str, name: str, kind: str, spec: Spec) -> None:
    error = refused(driver, made(name, kind, spec))
    assert isinstance(error, ConflictError)
    assert error.message == f"network lan: {name} on top of eth0 would lose its way: nothing was touched"
    assert error.hint == "remove it, or carry its VLAN by `trunk` of network lan"


def test_all_that_is_on_top_of_it_is_named() -> None:
    error = refused("bridge", made("eth0.5", "vlan", VlanSpec("eth0", 5)), made("mv0", "macvlan", MacvlanSpec("eth0", "vepa")))
    assert "eth0.5, mv0 on top of eth0" in error.message


@pytest.mark.parametrize(
    ("message", "hint", "links", "facts"),
    [
        ("no NIC eth0 here", "`ip link`", [replace(ETH0, name="wan0")], {}),
        ("eth0 is a bridge", "name a NIC", [replace(ETH0, kind="bridge")], {}),
        ("eth0 is ductwork's own", "name a NIC", [replace(ETH0, kind="veth", owner=Owner("other"))], {}),
        ("eth0 is a port of another bridge or bond", "`ip link show dev eth0`", [replace(ETH0, master_index=9)], {}),
        (
            "the default route (table 254) cannot be moved",
            "plain route",
            [ETH0],
            {"routes": (Route(HOST, ip_network("0.0.0.0/0"), "eth0 eth1", carried=False),)},
        ),
        ("local 192.0.2.0/24 on eth0 would not go along", "delete it", [ETH0], seen(NicFacts(stays=("local 192.0.2.0/24",)))),
        (
            "the route 10.0.0.0/8 via 10.9.9.9 (table 254) again",
            "ip route add 10.9.9.9 dev eth0",
            [ETH0],
            {"routes": (Route(HOST, ip_network("10.0.0.0/8"), "eth0", ip_address("10.9.9.9")),)},
        ),
    ],
)
def test_what_else_is_refused(message: str, hint: str, links: list[Link], facts: dict[str, object]) -> None:
    """`links` are all that there are."""
    with pytest.raises(DuctworkError) as caught:
        desire.desired_on_host(sight(*links, **facts))
    assert message in caught.value.message and hint in caught.value.hint, (caught.value.message, caught.value.hint)


@pytest.mark.parametrize(
    ("links", "facts"),
    [
        ([made("eth1.100", "vlan", VlanSpec("eth1", 100))], {}),
        ([made("mv1", "macvlan", MacvlanSpec("eth1", "bridge"))], {}),
        ([made("dw-vx", "vxlan", VxlanSpec(42, 4789, None, "eth0"), owner=Owner("other", "site", "pods"))], {}),
        ([], {"nics": {"eth1": NicFacts(manager="NetworkManager", wireless=True, lease="dhclient")}}),
        ([], seen(NicFacts(virtual=True))),
        ([], {"routes": (Route(HOST, ip_network("0.0.0.0/0"), "eth0", ip_address("192.168.1.254")),)}),
    ],
)
def test_what_goes_together_is_not_refused(links: list[Link], facts: dict[str, object]) -> None:
    """Another NIC's own affairs, our own VXLAN, which is made anew on the bridge, and a NIC that dies with its namespace."""
    wanted("bridge", *links, **facts)


def test_a_nic_that_is_ours_already_is_not_asked_about_again() -> None:
    """Its manager may have come later; that the bridge stays as it is asks nobody."""
    nic = NicFacts(manager="NetworkManager", lease="dhclient", stays=("local 192.0.2.0/24",))
    bridge = made("br0", "bridge", None, owner=Owner("office", "site", interface="eth0"), index=9)
    wanted("bridge", replace(ETH0, master_index=9), bridge, taken={"eth0": "br0"}, moved={"eth0": "br0"}, **seen(nic))
