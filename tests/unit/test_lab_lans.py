"""The lab's LANs: which NICs and switches it has, who plays what, and who must reach whom on networks of somebody else's."""

from __future__ import annotations

from ipaddress import ip_interface

import pytest

from ductwork.errors import UsageError
from ductwork.lab.expect import Pair, expectations
from ductwork.lab.lans import Segment
from ductwork.lab.runtime import runtimes
from ductwork.lab.topology import Topology, topology
from ductwork.runtimes.resolver import Resolver
from ductwork.site.load import load_text
from ductwork.site.model import Site

HOSTS = "hosts: {alpha: {address: 192.168.1.10/24}, beta: {address: 192.168.1.11/24}}"
AWAY = "hosts: {alpha: {address: 10.99.0.1/24}, beta: {address: 10.99.0.2/24}}"
LAN = "subnet: 192.168.1.0/24, gateway: 192.168.1.254"
BRIDGE = f"driver: bridge, uplink: eth0, {LAN}"
MACVLAN = f"driver: macvlan, parent: eth0, {LAN}"
OUTSIDE, ROUTER = "203.0.113.10", "192.168.1.254"


def site(networks: list[str], plugs: str, hosts: str = HOSTS) -> Site:
    """`networks`: `NAME: KEYS`. `plugs`: `HOST/CONTAINER NETWORK ADDRESS…`, one a line or between semicolons."""
    lines = [hosts, "networks:"]
    for network in networks:
        name, _, keys = network.partition(": ")
        lines.append(f"  {name}: {{{keys}}}")
    lines.append("attachments:")
    for plug in plugs.split(";"):
        where, network, *addresses = plug.split()
        host, _, container = where.partition("/")
        listed = ", ".join(f'"{address}"' for address in addresses)
        of_host = f"host: {host}, " if hosts else ""
        address = f", address: [{listed}]" if addresses else ""
        lines.append(f"  - {{container: '{container}', {of_host}network: {network}{address}}}")
    return load_text("\n".join(lines), "office.yaml", "machine")


def pairs(of: Topology) -> dict[tuple[str, str], Pair]:
    addresses = {(a.host, *a.id): a.addresses for a in of.site.attachments}
    return {(p.source.label, str(p.address)): p for p in expectations(of, addresses)}


TWO = "alpha/web lan 192.168.1.150; alpha/api lan 192.168.1.151; beta/db lan 192.168.1.152"


# What there is.


def test_the_lan_s_gateway_is_the_hosts_and_the_router_s() -> None:
    found = topology(site([f"lan: {BRIDGE}"], TWO))
    assert [str(g) for g in found.hosts["alpha"].nics["eth0"].gateways] == [ROUTER]
    assert [str(a) for a in found.router.inner.addresses] == [f"{ROUTER}/24"]
    assert [(leg.plug, leg.nic.name) for leg in found.router.legs] == [("eth0", "eth0")]
    assert found.is_gateway("lan", 4)
    assert not found.is_gateway("lan", 6)


def test_another_machine_is_on_each_lan() -> None:
    found = topology(site([f"lan: {BRIDGE}"], TWO))
    (machine,) = found.lans
    assert (machine.label, machine.netns) == ("lan-lan", "lab-office-lan-lan")
    assert machine.leg.nic.addresses == (ip_interface("192.168.1.253/24"),)
    assert [str(g) for g in machine.leg.nic.gateways] == [ROUTER]
    assert "lan-lan" in found.labels()
    assert found.netns_of("lan-lan") == machine.netns
    assert machine.netns in found.namespaces()


def test_it_has_an_address_that_nobody_in_the_file_has_or_may_get() -> None:
    taken = ", allocate: {alpha: 192.168.1.240/29, beta: 192.168.1.248-192.168.1.252}, host_access: {alpha: 192.168.1.253, "
    network = f"lan: {MACVLAN}{taken}beta: 192.168.1.239}}"
    found = topology(site([network], "alpha/web lan; beta/db lan 192.168.1.238"))
    assert [str(a) for a in found.lans[0].leg.nic.addresses] == ["192.168.1.237/24"]


def test_nor_does_the_router_take_one() -> None:
    network = "lan: driver: bridge, uplink: eth0, subnet: 192.168.1.0/24, allocate: {alpha: 192.168.1.128/25}"
    found = topology(site([network], "alpha/web lan"))
    assert [str(a) for a in found.router.inner.addresses] == ["192.168.1.127/24"]
    assert found.router.legs == ()


def test_a_container_of_that_name_is_told_apart() -> None:
    found = topology(site([f"lan: {BRIDGE}"], "alpha/lan-lan lan 192.168.1.150"))
    assert found.labels() == ("alpha", "beta", "alpha/lan-lan", "lan-lan", "router", "outside")


def test_each_nic_name_is_a_switch() -> None:
    networks = [f"lan: {BRIDGE}", "far: driver: macvlan, parent: eth1, subnet: 10.7.0.0/24, gateway: 10.7.0.254"]
    found = topology(site(networks, "alpha/web lan 192.168.1.150; beta/db far 10.7.0.2"))
    assert list(found.hosts["alpha"].nics) == ["eth0"]
    assert list(found.hosts["beta"].nics) == ["eth0", "eth1"]
    assert found.switches == {"eth0": ("alpha", "beta"), "eth1": ("beta",)}
    assert found.segments == {"lan": Segment("eth0", 0), "far": Segment("eth1", 0)}
    assert [(leg.plug, leg.nic.name) for leg in found.router.legs] == [("eth0", "eth0"), ("eth2", "eth2")]


def test_nics_of_one_network_are_on_one_switch() -> None:
    network = "lan: driver: macvlan, parent: {alpha: eth1, beta: enp3s0}, subnet: 10.7.0.0/24"
    found = topology(site([network], "alpha/web lan 10.7.0.1; beta/db lan 10.7.0.2"))
    assert found.switch_of == {"eth0": "eth0", "eth1": "eth1", "enp3s0": "eth1"}
    assert found.switches == {"eth0": ("alpha", "beta"), "eth1": ("alpha", "beta")}


def test_a_host_s_address_is_on_the_nic_of_its_lan() -> None:
    found = topology(site([f"lan: {BRIDGE.replace('eth0', '{alpha: enp0s3, beta: eno1}')}"], TWO))
    assert (found.hosts["alpha"].main, found.hosts["beta"].main) == ("enp0s3", "eno1")
    assert found.hosts["alpha"].nics["enp0s3"].addresses == (ip_interface("192.168.1.10/24"),)
    assert found.switch_of == {"enp0s3": "enp0s3", "eno1": "enp0s3"}
    assert found.main_switch == "enp0s3"
    elsewhere = topology(site([f"lan: {BRIDGE.replace('eth0', 'enp0s3')}"], TWO, hosts=AWAY))
    assert elsewhere.hosts["alpha"].main == "eth0"
    assert list(elsewhere.hosts["alpha"].nics) == ["eth0", "enp0s3"]


def test_a_tunnel_s_nic_has_the_host_s_address() -> None:
    network = "pods: driver: vxlan, vni: 7, subnet: 10.5.0.0/24, underlay: {alpha: eth3, beta: eth4}"
    found = topology(site([network], "alpha/web pods 10.5.0.2; beta/db pods 10.5.0.3"))
    assert [list(host.nics) for host in found.hosts.values()] == [["eth3"], ["eth4"]]
    assert found.switches == {"eth3": ("alpha", "beta")}


def test_a_host_address_without_a_prefix_lies_in_its_lan() -> None:
    hosts = "hosts: {alpha: {address: 192.168.1.10}, beta: {address: 192.168.1.11}}"
    found = topology(site([f"lan: {BRIDGE}"], TWO, hosts=hosts))
    assert found.hosts["alpha"].nics["eth0"].addresses == (ip_interface("192.168.1.10/24"),)


VLANS = [f"v{vlan}: driver: ovs, uplink: eth0, vlan: {vlan}, {LAN}" for vlan in (100, 200)]
TAGGED = "alpha/one v100 192.168.1.1; beta/two v100 192.168.1.2; alpha/three v200 192.168.1.3"


def test_in_a_vlan_the_lab_s_machines_are_tagged() -> None:
    found = topology(site(VLANS, TAGGED, hosts=AWAY))
    assert found.segments == {"v100": Segment("eth0", 100), "v200": Segment("eth0", 200)}
    assert [leg.nic.name for leg in found.router.legs] == ["eth0.100", "eth0.200"]
    assert [machine.leg.nic.name for machine in found.lans] == ["eth0.100", "eth0.200"]
    assert [str(machine.leg.nic.addresses[0]) for machine in found.lans] == ["192.168.1.253/24", "192.168.1.252/24"]
    assert found.left_out == ()


def test_without_802_1q_they_are_left_out() -> None:
    plain = "flat: driver: ovs, uplink: eth0, subnet: 10.7.0.0/24, gateway: 10.7.0.254"
    found = topology(site([*VLANS, plain], f"{TAGGED}; alpha/four flat 10.7.0.1", hosts=AWAY), vlans=False)
    assert found.left_out == ("v100", "v200")
    assert [machine.label for machine in found.lans] == ["lan-flat"]
    assert [leg.nic.name for leg in found.router.legs] == ["eth0"]
    assert not found.is_gateway("v100", 4)


def test_ipvlan_without_layer_2_has_no_lan() -> None:
    found = topology(site(["l3: driver: ipvlan, parent: eth0, mode: l3, subnet: 10.7.0.0/24"], "alpha/web l3 10.7.0.1"))
    assert (found.segments, found.lans, found.router.legs) == ({}, (), ())


def test_containers_of_other_files_are_not_running() -> None:
    """The engine asks for them where it has found their marks on this machine."""
    resolver = Resolver(runtimes(topology(site([f"lan: {BRIDGE}"], "alpha/docker:web lan 192.168.1.150")), "alpha"))
    found = resolver.resolve(["docker:web", "docker:db", "netns:web", "podman:web", "pid:1"])
    assert {name for name, sandbox in found.items() if sandbox} == {"docker:web"}


# Who reaches whom.


def macvlan(mode: str = "bridge", more: str = "", hosts: str = HOSTS) -> Topology:
    return topology(site([f"lan: {MACVLAN}, mode: {mode}{more}"], TWO, hosts=hosts))


UPLINK = topology(site([f"lan: {BRIDGE}"], TWO))
AWAY_FROM_IT = topology(site([f"lan: {BRIDGE}, host_addresses: {{beta: 192.168.1.11}}"], TWO, hosts=AWAY))
ACCESS = macvlan(more=", host_access: {alpha: 192.168.1.20, beta: 192.168.1.21}")
ISOLATED = topology(site([f"lan: {BRIDGE}, isolated: true"], TWO))
SAME_SUBNET = topology(site(VLANS, TAGGED, hosts=AWAY))
UNTAGGED_HOSTS = topology(site(VLANS, TAGGED))
NO_802_1Q = topology(site(VLANS, TAGGED, hosts=AWAY), vlans=False)
NO_GATEWAY = topology(site(["lan: driver: bridge, uplink: eth0, subnet: 192.168.1.0/24"], TWO))
TWO_LANS = topology(
    site([f"lan: {BRIDGE}", "far: driver: bridge, uplink: eth1, subnet: 10.7.0.0/24, gateway: 10.7.0.254"],
         "alpha/web lan 192.168.1.150; alpha/api far 10.7.0.1; beta/db far 10.7.0.2")
)  # fmt: skip
ONE_WIRE = topology(
    site([f"lan: {MACVLAN}", "more: driver: macvlan, parent: eth0, subnet: 172.16.5.0/24"],
         "alpha/web lan 192.168.1.150; beta/db lan 192.168.1.152; beta/db more 172.16.5.3; alpha/x more 172.16.5.2")
)  # fmt: skip
OPEN = "open: driver: bridge, nat: none, subnet: 10.6.0.0/24"
BESIDE = topology(
    site([f"lan: {BRIDGE}", "pods: driver: bridge, subnet: 10.5.0.0/24", OPEN],
         "alpha/web lan 192.168.1.150; beta/db lan 192.168.1.152; alpha/pod pods 10.5.0.2; alpha/o open 10.6.0.2")
)  # fmt: skip
L3 = topology(
    site(["l3: driver: ipvlan, parent: eth0, mode: l3s, subnet: 10.7.0.0/24, host_access: 10.7.0.9"],
         "alpha/web l3 10.7.0.1; alpha/api l3 10.7.0.2")
)  # fmt: skip
L3_PLAIN = topology(site(["l3: driver: ipvlan, parent: eth0, mode: l3, subnet: 10.7.0.0/24"], "alpha/web l3 10.7.0.1"))
L3_ELSEWHERE = topology(site(["l3: driver: ipvlan, parent: eth1, mode: l3, subnet: 10.7.0.0/24"], "alpha/web l3 10.7.0.1"))
DUAL = topology(site(
    [f"lan: driver: bridge, uplink: eth0, subnets: [192.168.1.0/24, 'fd00:1::/64'], gateway: {ROUTER}"],
    "alpha/web lan 192.168.1.150 fd00:1::150; beta/db lan fd00:1::152",
))  # fmt: skip
OTHER_NIC = topology(site(
    ["lan: driver: macvlan, parent: {alpha: eth1, beta: eth0}, subnet: 192.168.1.0/24"],
    "alpha/web lan 192.168.1.150; beta/db lan 192.168.1.152",
))  # fmt: skip

TABLE: list[tuple[str, Topology, str, str, bool | None]] = [
    ("uplink: one host", UPLINK, "web", "192.168.1.151", True),
    ("uplink: two hosts", UPLINK, "web", "192.168.1.152", True),
    ("uplink: the own host, which is on the LAN", UPLINK, "web", "192.168.1.10", True),
    ("uplink: another host", UPLINK, "web", "192.168.1.11", True),
    ("uplink: a host to its container", UPLINK, "alpha", "192.168.1.150", True),
    ("uplink: a host to another's container", UPLINK, "beta", "192.168.1.150", True),
    ("uplink: hosts", UPLINK, "alpha", "192.168.1.11", True),
    ("uplink: out", UPLINK, "web", OUTSIDE, True),
    ("uplink: in", UPLINK, "outside", "192.168.1.150", True),
    ("uplink: from the LAN", UPLINK, "lan-lan", "192.168.1.150", True),
    ("uplink: to the LAN", UPLINK, "web", "192.168.1.253", True),
    ("uplink: a host to the LAN", UPLINK, "alpha", "192.168.1.253", True),
    ("uplink: the LAN to a host", UPLINK, "lan-lan", "192.168.1.10", True),
    ("uplink: outside to the LAN", UPLINK, "outside", "192.168.1.253", None),
    ("a host elsewhere: to its container", AWAY_FROM_IT, "alpha", "192.168.1.150", False),
    ("a host elsewhere: from its container", AWAY_FROM_IT, "web", "10.99.0.1", False),
    ("a host elsewhere: from the LAN", AWAY_FROM_IT, "lan-lan", "10.99.0.1", None),
    ("a host elsewhere, with an address there", AWAY_FROM_IT, "beta", "192.168.1.150", True),
    ("a host elsewhere, at its address there", AWAY_FROM_IT, "db", "192.168.1.11", True),
    ("no gateway: out", NO_GATEWAY, "web", OUTSIDE, False),
    ("no gateway: in", NO_GATEWAY, "outside", "192.168.1.150", False),
    ("no gateway: the LAN", NO_GATEWAY, "lan-lan", "192.168.1.150", True),
    ("macvlan: one host", macvlan(), "web", "192.168.1.151", True),
    ("macvlan: two hosts", macvlan(), "web", "192.168.1.152", True),
    ("macvlan: its own host", macvlan(), "web", "192.168.1.10", False),
    ("macvlan: from its own host", macvlan(), "alpha", "192.168.1.150", False),
    ("macvlan: another host", macvlan(), "web", "192.168.1.11", True),
    ("macvlan: from another host", macvlan(), "beta", "192.168.1.150", True),
    ("macvlan: from a host elsewhere", macvlan(hosts=AWAY), "beta", "192.168.1.150", False),
    ("macvlan: out", macvlan(), "web", OUTSIDE, True),
    ("macvlan: in", macvlan(), "outside", "192.168.1.150", True),
    ("host_access: from the host", ACCESS, "alpha", "192.168.1.150", True),
    ("host_access: to the host", ACCESS, "web", "192.168.1.20", True),
    ("host_access: to the host's other address", ACCESS, "web", "192.168.1.10", False),
    ("host_access: of another host", ACCESS, "web", "192.168.1.21", None),
    ("host_access: from the LAN", ACCESS, "lan-lan", "192.168.1.20", None),
    ("private: one host", macvlan("private"), "web", "192.168.1.151", False),
    ("private: two hosts", macvlan("private"), "web", "192.168.1.152", True),
    ("private: the LAN", macvlan("private"), "lan-lan", "192.168.1.150", True),
    ("vepa: one host", macvlan("vepa"), "web", "192.168.1.151", False),
    ("vepa: two hosts", macvlan("vepa"), "db", "192.168.1.151", True),
    ("a parent by another name has the host's address", OTHER_NIC, "alpha", "192.168.1.150", False),
    ("isolated: one host", ISOLATED, "web", "192.168.1.151", False),
    ("isolated: two hosts", ISOLATED, "web", "192.168.1.152", False),
    ("isolated: out", ISOLATED, "web", OUTSIDE, True),
    ("isolated: the LAN", ISOLATED, "web", "192.168.1.253", None),
    ("same subnet, same VLAN", SAME_SUBNET, "one", "192.168.1.2", True),
    ("same subnet, other VLAN", SAME_SUBNET, "one", "192.168.1.3", False),
    ("same subnet, other VLAN: its machine", SAME_SUBNET, "one", "192.168.1.252", False),
    ("the VLAN's machine", SAME_SUBNET, "one", "192.168.1.253", True),
    ("VLAN: from it", SAME_SUBNET, "lan-v100", "192.168.1.2", True),
    ("VLAN: from the other's", SAME_SUBNET, "lan-v200", "192.168.1.2", False),
    ("VLAN: out", SAME_SUBNET, "one", OUTSIDE, True),
    ("VLAN: in", SAME_SUBNET, "outside", "192.168.1.3", True),
    ("VLAN: its own host", SAME_SUBNET, "one", "10.99.0.1", False),
    ("VLAN: from its own host", SAME_SUBNET, "alpha", "192.168.1.1", False),
    ("VLAN: its host, in that subnet but untagged", UNTAGGED_HOSTS, "one", "192.168.1.10", False),
    ("VLAN: from its host, in that subnet but untagged", UNTAGGED_HOSTS, "alpha", "192.168.1.1", False),
    ("no 802.1q: out", NO_802_1Q, "one", OUTSIDE, None),
    ("no 802.1q: in", NO_802_1Q, "outside", "192.168.1.1", None),
    ("no 802.1q: same VLAN", NO_802_1Q, "one", "192.168.1.2", True),
    ("two LANs", TWO_LANS, "web", "10.7.0.1", False),
    ("two LANs, two hosts", TWO_LANS, "web", "10.7.0.2", False),
    ("two LANs: the host of one", TWO_LANS, "api", "192.168.1.10", False),
    ("two LANs: to the other's machine", TWO_LANS, "web", "10.7.0.253", False),
    ("two LANs: the machine of one", TWO_LANS, "lan-lan", "10.7.0.1", False),
    ("one wire: the second network, by the first's gateway", ONE_WIRE, "web", "172.16.5.3", False),
    ("one wire: from outside", ONE_WIRE, "outside", "172.16.5.3", False),
    ("one wire: from a host", ONE_WIRE, "alpha", "172.16.5.3", False),
    ("one wire: its other LAN's machine", ONE_WIRE, "lan-lan", "172.16.5.3", None),
    ("NAT: to a container on the LAN", BESIDE, "pod", "192.168.1.152", True),
    ("NAT: to a machine on the LAN", BESIDE, "pod", "192.168.1.253", True),
    ("NAT: to the own host's container on the LAN", BESIDE, "pod", "192.168.1.150", None),
    ("no NAT: to the LAN", BESIDE, "o", "192.168.1.152", None),
    ("from the LAN into it", BESIDE, "db", "10.6.0.2", False),
    ("from the LAN's machine into it", BESIDE, "lan-lan", "10.6.0.2", False),
    ("ipvlan l3s: one host", L3, "web", "10.7.0.2", True),
    ("ipvlan l3s: out", L3, "web", OUTSIDE, True),
    ("ipvlan l3s: in, by the host", L3, "outside", "10.7.0.1", True),
    ("ipvlan l3s: host_access", L3, "alpha", "10.7.0.1", True),
    ("ipvlan l3s: to the host by it", L3, "web", "10.7.0.9", True),
    ("ipvlan l3: its own host, by the router's route", L3_PLAIN, "alpha", "10.7.0.1", None),
    ("ipvlan l3: another NIC than the router's way", L3_ELSEWHERE, "web", OUTSIDE, None),
    ("ipvlan l3: in by another NIC", L3_ELSEWHERE, "outside", "10.7.0.1", None),
    ("ipvlan l3: another host", L3_PLAIN, "beta", "10.7.0.1", None),
    ("IPv6: the LAN", DUAL, "lan-lan", "fd00:1::152", True),
    ("IPv6: a host without an address there", DUAL, "alpha", "fd00:1::150", False),
    ("IPv6: no gateway", DUAL, "web", "2001:db8:ffff::10", False),
    ("IPv6 alone to IPv4", DUAL, "db", "192.168.1.253", None),
]


@pytest.mark.parametrize(("lab", "source", "address", "expected"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE])
def test_pair(lab: Topology, source: str, address: str, expected: bool | None) -> None:
    found = pairs(lab)
    assert source in lab.labels()
    pair = found.get((source, address))
    assert (pair.expected if pair else None) is expected, pair


def test_the_gateway_of_a_lan_is_nobody_s_in_the_file() -> None:
    assert not [address for _, address in pairs(UPLINK) if address == ROUTER]


def test_a_lan_without_room_has_no_other_machine() -> None:
    network = "lan: driver: bridge, uplink: eth1, subnet: 10.7.0.0/30, gateway: 10.7.0.1"
    assert topology(site([network], "alpha/web lan 10.7.0.2", hosts=AWAY)).lans == ()


def test_room_for_the_hosts_router_is_still_needed() -> None:
    network = "lan: driver: bridge, uplink: eth0, subnet: 10.7.0.0/30"
    hosts = "hosts: {alpha: {address: 10.7.0.1/30}}"
    with pytest.raises(UsageError, match="no subnet for the host address"):
        topology(site([network], "alpha/web lan 10.7.0.2", hosts=hosts))
