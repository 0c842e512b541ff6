"""Our tables in a real kernel: made, mended, read, taken away, each in one transaction."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from conftest import inside, run, sh

from ductwork.backends.nftables import NftablesBackend
from ductwork.errors import MissingToolError
from ductwork.resources import HOST, Create, Delete, NftElement, NftTable, Operation, Owner, Resource, Update, state
from ductwork.services import antispoof, nat, ports
from ductwork.services.ruleset import bridge_table, inet_table
from ductwork.site.model import Attachment, Nat, Network, PublishedPort

pytestmark = pytest.mark.netns

OWNER = Owner("office", "site", "pods")
TABLES = [inet_table(OWNER), bridge_table(OWNER)]


def everything() -> list[Resource]:
    """Elements in each of the sets, intervals and maps and both families among them."""
    found: list[Resource] = []
    modes = (Nat("masquerade"), Nat("snat", ip_address("192.0.2.9")), Nat("snat", ip_address("2001:db8::9")), Nat("none"))
    for number, mode in enumerate(modes, 1):
        subnets = (ip_network(f"10.1.{number}.0/24"), ip_network(f"fd00:{number}::/64"), ip_network(f"10.2.0.{number}/32"))
        gateways = (subnets[0][1], subnets[1][1])
        network = Network(f"net{number}", "vxlan", subnets, gateways, nat=mode)
        owner = Owner("office", "site", network.name)
        found += nat.network_elements(network, f"dw-net{number}", owner, device=f"dw-net{number}")
        found += nat.gateway_guard(network, f"vx-net{number}", owner)
    inner = Network("in", "bridge", (ip_network("10.9.0.0/16"),), internal=True, isolated=True)
    found += nat.network_elements(inner, "dw-in", OWNER, device="dw-in")
    found += [NftElement("inet", "ductwork", name, ("eth0",), owner=OWNER) for name in ("lent4", "lent6")]
    found += [NftElement("inet", "ductwork", "lent_bridges", ("br0", "br0"), owner=OWNER)]
    lan = Network("lan", "bridge", (ip_network("10.1.9.0/24"), ip_network("fd00:9::/64")))
    plugged = Attachment("netns:web", "", "lan", "eth1", "02:00:00:00:00:09")
    found += [NftElement("bridge", "ductwork", "apart", ("dwweb-1234567",), owner=OWNER)]
    peers = {"peers_mac": "02:00:00:00:00:09", "peers4": "10.1.9.2", "peers6": "fd00:9::2"}
    found += [NftElement("bridge", "ductwork", name, (value,), owner=OWNER) for name, value in peers.items()]
    for addresses in ((), (ip_address("10.1.9.2"), ip_address("fd00:9::2"))):
        found += antispoof.elements(lan, plugged, addresses, OWNER)
    legs = {"leg_nets4": ("10.1.9.0/24", "dw-lan"), "leg_nets6": ("fd00:9::/64", "dw-lan"), "lan_legs": ("dw-lan",)}
    legs |= {"legs": ("dw-lan",), "masked_legs": ("dw-lan",), "routed": ("dw-lan", "br0")}
    found += [NftElement("inet", "ductwork", name, parts, owner=OWNER) for name, parts in legs.items()]
    found += published()
    return sorted(state(found).values(), key=lambda r: isinstance(r, NftElement))  # as the planner has them


def published() -> list[NftElement]:
    """In every map, and in every set that ports need."""
    addresses = {4: ip_address("10.1.9.2"), 6: ip_address("fd00:9::2")}
    places = (None, ip_address("192.0.2.1"), ip_address("2001:db8::1"))
    ranges = ((8088, 8088, 80, True), (8090, 8092, 80, True), (9000, 9999, 9000, False), (7000, 7002, 7001, False))
    given = [
        PublishedPort("netns:web", "eth1", "lan", "", "udp", *numbers, address=place) for place in places for numbers in ranges
    ]
    found = [element for port in given for element in ports.elements(port, addresses, OWNER.site)]
    keys = {"served": ("dw-lan",), "no_loopback": ("dw-lan",), "closed": ("dw-lan",)}
    keys |= dict.fromkeys(("beside4", "behind4"), ("10.1.9.0/24", "dw-lan"))
    keys |= dict.fromkeys(("beside6", "behind6"), ("fd00:9::/64", "dw-lan"))
    keys |= {"elsewhere4": ("10.1.9.2", "dw-lan"), "elsewhere6": ("fd00:9::2", "dw-lan")}
    return found + [NftElement("inet", "ductwork", name, parts, owner=OWNER) for name, parts in keys.items()]


class Host:
    def __init__(self, ns: str) -> None:
        self.ns = ns
        self.gates: list[str] = []
        self.backend = NftablesBackend(self.gates.append)

    def errors(self, *operations: Operation) -> list[str]:
        return [o.error for o in inside(self.ns, lambda: self.backend.apply(HOST, operations))]

    def apply(self, *operations: Operation) -> None:
        assert self.errors(*operations) == [""] * len(operations)

    def read(self, links: frozenset[str] | None = None) -> dict[object, Resource]:
        return dict(state(inside(self.ns, lambda: self.backend.read(HOST, links))))

    def nft(self, *words: str) -> str:
        return sh(self.ns, "nft", *words)


@pytest.fixture
def host(netns: Callable[[str], str]) -> Host:
    return Host(netns("host"))


def test_what_is_applied_is_read_back(host: Host) -> None:
    assert host.read() == {}
    wanted = everything()
    assert {r.set_name for r in wanted if isinstance(r, NftElement)} == declared_sets(), "every set is tried"
    host.apply(*map(Create, wanted))
    assert host.read() == state(wanted)
    assert host.gates == ["before", "after"] * 2, "one run of nft, one transaction of elements"


def test_nft_has_what_the_codec_writes(host: Host, netns: Callable[[str], str]) -> None:
    """The commands that are printed make the same, octet for octet."""
    wanted = everything()
    host.apply(*map(Create, wanted))
    other = netns("other")
    sh(other, "nft", "\n".join(argv[1] for r in wanted for argv in Create(r).argv(str)))
    assert host.nft("list", "ruleset") == sh(other, "nft", "list", "ruleset")


def declared_sets() -> set[str]:
    words = [line.split() for table in TABLES for line in table.script.splitlines()]
    return {line[4] for line in words if line[1] in ("set", "map")}


def test_applying_twice_and_deleting_leave_nothing(host: Host) -> None:
    host.nft("add table inet other; add chain inet other forward")
    before = host.nft("list", "ruleset")
    wanted = everything()
    host.apply(*map(Create, wanted))
    once = host.nft("list", "ruleset")
    host.apply(*map(Create, wanted))
    assert host.nft("list", "ruleset") == once
    host.apply(*(Delete(r) for r in reversed(wanted)))
    assert host.nft("list", "ruleset") == before


def test_only_one_of_the_tables_is_there(host: Host) -> None:
    host.apply(Create(TABLES[1]))
    assert list(host.read().values()) == [TABLES[1]]


@pytest.mark.parametrize(
    "damage",
    [
        "flush chain inet ductwork forward",
        "add rule inet ductwork forward drop",
        "insert rule inet ductwork postrouting counter",
        "add chain inet ductwork of_another_version; add rule inet ductwork of_another_version drop",
        "flush chain inet ductwork forward; add chain inet ductwork extra; add rule inet ductwork forward jump extra",
        "flush table inet ductwork; delete chain inet ductwork postrouting; delete set inet ductwork guarded",
    ],
)
def test_mending_keeps_elements(host: Host, damage: str) -> None:
    wanted = everything()
    host.apply(*map(Create, wanted))
    host.nft(damage)
    found = host.read()
    assert found[TABLES[0].key] != TABLES[0], "the damage shows"
    host.apply(Update(found[TABLES[0].key], TABLES[0]))
    lost = {r.key for r in wanted if isinstance(r, NftElement) and r.set_name == "guarded" and "guarded" in damage}
    assert host.read() == {key: r for key, r in state(wanted).items() if key not in lost}


def test_printed_commands_do_the_same(host: Host) -> None:
    wanted = everything()
    for argv in [argv for r in wanted for argv in Create(r).argv(str)]:
        run("sh", "-ec", f"ip netns exec {host.ns} {shlex.join(argv)}")
    assert host.read() == state(wanted)
    for argv in [argv for r in reversed(wanted) for argv in Delete(r).argv(str)]:
        run("sh", "-ec", f"ip netns exec {host.ns} {shlex.join(argv)}")
    assert host.nft("list", "ruleset") == ""


def test_a_change_of_value_or_owner_is_one_transaction(host: Host) -> None:
    wanted = everything()
    host.apply(*map(Create, wanted))
    host.gates.clear()
    other = Owner("office", "site", "renamed")
    changed = [replace(r, owner=other, value="192.0.2.10" if r.set_name == "snat4" else r.value) for r in elements(wanted)]
    host.apply(*map(Delete, elements(wanted)), *map(Create, changed))
    assert host.gates == ["before", "after"]
    assert [r for r in host.read().values() if isinstance(r, NftElement)] == unordered(changed)
    host.apply(*(Update(after, before) for before, after in zip(elements(wanted), changed, strict=True)))
    assert host.read() == state(wanted)


def elements(found: list[Resource]) -> list[NftElement]:
    return [r for r in found if isinstance(r, NftElement)]


class unordered(list[NftElement]):
    """Equal to any list of the same elements."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, list) and {r.key: r for r in self} == {r.key: r for r in other} and len(self) == len(other)

    __hash__ = None  # type: ignore[assignment]


def test_deleting_what_is_absent_is_success_and_the_rest_is_done(host: Host) -> None:
    wanted = everything()
    gone = next(r for r in elements(wanted) if r.set_name == "snat4")
    host.apply(Delete(gone), Delete(TABLES[0]))
    host.apply(*(Create(r) for r in wanted if r is not gone))
    there = next(r for r in elements(wanted) if r.set_name == "bridges")
    brief = NftElement("inet", "ductwork", "bridges", ("dw-brief",), owner=OWNER)
    host.apply(Delete(gone), Delete(there), Create(gone), Create(brief), Delete(brief))
    assert host.read() == {key: r for key, r in state(wanted).items() if key != there.key}


def test_an_element_deleted_with_its_table(host: Host) -> None:
    """Deletion of an element after that of its table: it has gone with it."""
    host.apply(*map(Create, everything()))
    some = elements(everything())[0]
    host.apply(Delete(TABLES[0]), Delete(some))
    assert TABLES[0].key not in host.read()


def test_an_error_aborts_everything_and_says_what(host: Host) -> None:
    host.apply(Create(TABLES[0]))
    first = NftElement("inet", "ductwork", "snat4", ("10.1.1.0/24",), "192.0.2.1", OWNER)
    host.apply(Create(first))
    fine = NftElement("inet", "ductwork", "bridges", ("dw-x",), owner=OWNER)
    errors = host.errors(Create(fine), Create(replace(first, value="192.0.2.2")))
    assert len(set(errors)) == 1
    assert errors[0].startswith("File exists: add element inet ductwork snat4")
    host.nft("flush table inet ductwork; delete set inet ductwork closed")
    gone = "table inet ductwork has no set closed any more: apply the network's site again"
    assert host.errors(Create(replace(fine, set_name="closed"))) == [gone]
    assert elements(list(host.read().values())) == [first], "nothing of it happened"


def test_foreign_elements_have_no_owner(host: Host) -> None:
    host.apply(Create(TABLES[0]))
    host.nft('add element inet ductwork bridges { "br-x", "br-y" comment "mine" }')
    host.nft("add element inet ductwork masquerade4 { 10.0.0.1-10.0.0.5 }")
    found = elements(list(host.read().values()))
    assert {(r.parts, r.owner) for r in found} == {(("br-x",), None), (("br-y",), None), (("10.0.0.1-10.0.0.5",), None)}
    host.nft("add element inet ductwork masquerade4 { 10.0.0.6, 10.0.0.8/31, 255.255.255.255, 254.0.0.0/8 }")
    host.nft("add element inet ductwork masquerade6 { ffff::/16 }")
    trees = [r.parts[0] for r in elements(list(host.read().values())) if r.set_name.startswith("masquerade")]
    assert trees == ["10.0.0.1-10.0.0.5", "10.0.0.6", "10.0.0.8/31", "254.0.0.0/8", "255.255.255.255", "ffff::/16"]
    host.apply(*(Delete(r) for r in elements(list(host.read().values())) if r.set_name.startswith("masquerade")))
    assert {r.parts for r in elements(list(host.read().values()))} == {("br-x",), ("br-y",)}


def test_scope(host: Host) -> None:
    wanted = everything()
    host.apply(*map(Create, wanted))
    found = host.read(frozenset({"vx-net1", "dw-in"}))
    assert {r.key for r in TABLES} <= set(found)
    assert {r.set_name for r in elements(list(found.values()))} == {
        *("gateway4", "gateway6", "bridges", "isolated", "internal")
    }
    assert inside(host.ns, lambda: host.backend.read("web", None)) == [], "containers have none of ours"


def test_without_nft(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert host.read() == {}
    with pytest.raises(MissingToolError) as caught:
        host.errors(Create(TABLES[0]))
    assert caught.value.hint == "apt install nftables"
    assert isinstance(TABLES[0], NftTable)
