"""The lab's machines, names and addresses, worked out from site records."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

import pytest

from ductwork.errors import UsageError
from ductwork.lab.topology import NIC, Topology, topology
from ductwork.site.model import Attachment, Host, Nat, Network, Site

Address = str | None


def lab(hosts: dict[str, Address], subnets: str = "10.1.1.0/24", snat: str = "", containers: str = "alpha/web") -> Topology:
    nat = Nat("snat", ip_address(snat)) if snat else Nat("masquerade")
    net = Network("lan", "bridge", tuple(ip_network(s) for s in subnets.split()), (ip_address("10.1.1.1"),), nat=nat)
    attachments = tuple(
        Attachment(ref, host, "lan", f"eth{number}", "02:00:00:00:00:01")
        for number, (host, _, ref) in enumerate(word.partition("/") for word in containers.split())
    )
    named = {name: Host(name, ip_interface(a) if a else None) for name, a in hosts.items()}
    return topology(Site("office", named, {"lan": net}, attachments))


def addresses(of: Topology, host: str) -> list[str]:
    return [str(a) for a in of.hosts[host].nics[NIC].addresses]


def gateways(of: Topology, host: str) -> list[str]:
    return [str(g) for g in of.hosts[host].nics[NIC].gateways]


def test_hosts_keep_their_addresses_and_leave_by_the_router() -> None:
    found = lab({"alpha": "10.99.0.1/24", "beta": "10.99.0.254/24"})
    assert addresses(found, "alpha") == ["10.99.0.1/24"]
    assert addresses(found, "beta") == ["10.99.0.254/24"]
    assert gateways(found, "alpha") == ["10.99.0.253"], "the highest address that nobody has"
    assert [str(a) for a in found.router.inner.addresses] == ["10.99.0.253/24"]
    assert str(found.outside.nic.addresses[0]) == "203.0.113.10/24"
    assert found.outside.nic.gateways == (found.router.outer.addresses[0].ip,)


def test_a_file_without_hosts_gets_one() -> None:
    found = lab({}, containers="/web")
    assert list(found.hosts) == [""]
    assert found.hosts[""].label == "host"
    assert addresses(found, "") == ["198.51.100.1/24"]


def test_full_length_prefixes_share_a_subnet_or_are_routed() -> None:
    found = lab({"alpha": "10.99.0.1/32", "beta": "10.99.0.2/32", "gamma": "10.98.0.1/32"})
    assert [addresses(found, h) for h in found.hosts] == [["10.99.0.1/24"], ["10.99.0.2/24"], ["10.98.0.1/24"]]
    assert {str(a) for a in found.router.inner.addresses} == {"10.99.0.254/24", "10.98.0.254/24"}


def test_a_full_length_prefix_goes_into_a_written_subnet() -> None:
    found = lab({"alpha": "10.99.0.1/32", "beta": "10.99.7.2/16"})
    assert addresses(found, "alpha") == ["10.99.0.1/16"]


def test_a_guessed_subnet_keeps_clear_of_the_networks() -> None:
    found = lab({"alpha": "10.1.1.200/32"}, subnets="10.1.1.0/25")
    assert addresses(found, "alpha") == ["10.1.1.200/25"]


def test_a_subnet_without_a_free_address_is_widened_for_the_router() -> None:
    found = lab({"alpha": "10.99.0.1/30", "beta": "10.99.0.2/30"})
    assert addresses(found, "alpha") == ["10.99.0.1/24"]
    assert gateways(found, "beta") == ["10.99.0.254"]


def test_no_room_for_a_router_is_the_file_s_mistake() -> None:
    with pytest.raises(UsageError, match=r"no subnet for the host address 10\.1\.1\.9"):
        lab({"alpha": "10.1.1.9/32"}, subnets="10.1.1.8/29 10.1.1.0/29")


def test_spare_subnets_keep_clear_of_the_file() -> None:
    found = lab({"alpha": None}, subnets="198.51.100.0/24 203.0.113.0/28")
    assert addresses(found, "alpha") == ["198.18.0.1/16"]
    assert str(found.outside.nic.addresses[0]) == "192.0.2.10/24"
    with pytest.raises(UsageError, match="subnet of its own"):
        lab({"alpha": None}, subnets="198.51.100.0/24 198.18.0.0/15")


def test_two_hundred_hosts_without_addresses() -> None:
    found = lab({f"h{i}": None for i in range(300)}, containers="h0/web")
    assert len({addresses(found, h)[0] for h in found.hosts}) == 300


def test_ipv6_only_where_the_file_has_it() -> None:
    assert len(lab({"alpha": "10.99.0.1/24"}).outside.nic.addresses) == 1
    found = lab({"alpha": "10.99.0.1/24"}, subnets="10.1.1.0/24 fd00:1::/64")
    assert addresses(found, "alpha") == ["10.99.0.1/24", "fd64:6c61:6200::1/64"]
    assert gateways(found, "alpha") == ["10.99.0.254", "fd64:6c61:6200::fffe"]
    assert str(found.outside.nic.addresses[1]) == "2001:db8:ffff::10/64"


def test_an_ipv6_underlay_gets_ipv4_besides() -> None:
    found = lab({"alpha": "2001:db8::1/64"})
    assert addresses(found, "alpha") == ["2001:db8::1/64", "198.51.100.1/24"]


@pytest.mark.parametrize(("snat", "held"), [("10.99.0.50", "10.99.0.50/24"), ("192.0.2.9", "192.0.2.9/32")])
def test_an_snat_address_is_put_on_its_host(snat: str, held: str) -> None:
    found = lab({"alpha": "10.99.0.1/24", "beta": "10.99.0.2/24"}, snat=snat)
    assert addresses(found, "alpha") == ["10.99.0.1/24", held]
    assert addresses(found, "beta") == ["10.99.0.2/24"]
    assert gateways(found, "alpha") == ["10.99.0.254"]


def test_an_snat_address_that_a_host_has_stays_there() -> None:
    assert addresses(lab({"alpha": "10.99.0.1/24"}, snat="10.99.0.1"), "alpha") == ["10.99.0.1/24"]


def test_namespaces_are_named_after_what_they_stand_for() -> None:
    found = lab({"alpha": "10.99.0.1/24"}, containers="alpha/netns:web alpha/docker:db")
    assert found.namespaces() == (
        *("lab-office-h-alpha", "lab-office-c-alpha-web", "lab-office-c-alpha-db"),
        *("lab-office-router", "lab-office-outside", "lab-office-switch"),
    )


def test_names_stay_unique_and_short() -> None:
    hosts: dict[str, Address] = {"alpha": None, "alpha-b": None, "x" * 80: None}
    words = "alpha/b-web alpha-b/web alpha/netns:web alpha/docker:web", f"alpha/{'c' * 200} {'x' * 80}/{'c' * 201} alpha/pid:7"
    found = lab(hosts, containers=" ".join(words))
    names = found.namespaces()
    assert len(set(names)) == len(names) == len(hosts) + 7 + 3
    assert max(map(len, names)) < 100
    assert not [n for n in names if "/" in n or ":" in n]


def test_a_bare_name_is_the_same_container_unless_two_have_it() -> None:
    assert len(lab({"alpha": None}, containers="alpha/web alpha/netns:web").containers) == 1
    assert len(lab({"alpha": None}, containers="alpha/web alpha/netns:web alpha/docker:web").containers) == 3


def test_people_find_nodes_by_what_they_call_them() -> None:
    found = lab({"alpha": None, "beta": None}, containers="alpha/netns:web beta/netns:web beta/docker:db beta/router")
    assert found.labels() == ("alpha", "beta", "alpha/web", "beta/web", "db", "beta/router", "router", "outside")
    assert found.netns_of("alpha") == "lab-office-h-alpha"
    assert found.netns_of("db") == found.netns_of("docker:db") == found.netns_of("beta/docker:db")
    assert found.netns_of("beta/netns:web") == "lab-office-c-beta-web"
    assert found.netns_of("netns:web") is None, "there are two"
    assert found.netns_of("router") == "lab-office-router"
    assert found.netns_of("nobody") is None
