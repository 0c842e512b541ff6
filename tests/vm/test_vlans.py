"""VLANs of a Linux bridge (`driver: bridge` with `vlan`, `trunk` and `native`), which needs one that filters them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from conftest import ping, sh
from host import World, build_world, same
from lan import streams
from parent_hosts import Hosts, link, planned, settled, type_in
from test_crash import moments, nothing
from test_parents import captured, trunks

from ductwork.engine import AttachRequest

pytestmark = pytest.mark.netns

PLAIN = """
hosts: {alpha: {address: 192.168.1.10/24}, beta: {address: 192.168.1.11/24}}
networks:
  lan: {driver: bridge, bridge: br0, uplink: eth0, subnet: 192.168.1.0/24, gateway: 192.168.1.254}
attachments:
  - {container: "netns:<web>", host: alpha, network: lan, address: 192.168.1.50}
"""
_NETWORKS = """
  v100: {driver: bridge, bridge: br0, uplink: eth0, vlan: 100, subnet: 192.168.1.0/24, gateway: 192.168.1.254OPTIONS}
  v200: {driver: bridge, bridge: br0, uplink: eth0, vlan: 200, subnet: 192.168.1.0/24, gateway: 192.168.1.254}
attachments:"""
_ATTACHMENTS = """
  - {container: "netns:<one>", host: alpha, network: v100, address: 192.168.1.1}
  - {container: "netns:<two>", host: alpha, network: v200, address: 192.168.1.2}
  - {container: "netns:<three>", host: beta, network: v100, address: 192.168.1.3}
  - {container: "netns:<four>", host: beta, network: v200, address: 192.168.1.4}
"""
VLANS = PLAIN.replace("\nattachments:", _NETWORKS.replace("OPTIONS", "")) + _ATTACHMENTS.lstrip("\n")
TRUNK = VLANS.replace("uplink: eth0, vlan: 100", "uplink: eth0, trunk: [100, 200-205], vlan: 100")
ALPHAS = ("192.168.1.10", "fd00:1::10")


@pytest.fixture
def hosts(netns: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hosts:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    made = Hosts(netns, tmp_path)
    for world, names in ((made.alpha, ("one", "two")), (made.beta, ("three", "four"))):
        for name in names:
            world.container(name)
    made.alpha.names = made.beta.names = made.alpha.names | made.beta.names
    trunks(made.lan, 100, 200)
    return made


def vlans(ns: str) -> dict[str, list[str]]:
    """Port, or bridge → its VLANs as `bridge` tells them: `100`, `200-205`, `1 pvid untagged`."""
    found = {}
    for port in json.loads(sh(ns, "bridge", "-j", "-compressvlans", "vlan", "show") or "[]"):
        found[port["ifname"]] = [
            " ".join([_numbers(vlan), *(["pvid", "untagged"] if vlan.get("flags") else [])]) for vlan in port["vlans"]
        ]
    return found


def _numbers(vlan: dict[str, Any]) -> str:
    return f"{vlan['vlan']}-{vlan['vlanEnd']}" if "vlanEnd" in vlan else str(vlan["vlan"])


def state(world: World) -> dict[str, Any]:
    """All, and the VLANs of ports, also where the bridge does not look at them."""
    return settled(world) | {"vlans": vlans(world.host)}


def test_two_hosts_on_a_trunk(hosts: Hosts, tmp_path: Path) -> None:
    """Scenarios A5 and A6. The same subnet thrice: what keeps them apart is the tag alone."""
    alpha, beta, lan = hosts.alpha, hosts.beta, hosts.lan
    before = state(alpha), state(beta)
    with streams(alpha.host, hosts.other, *ALPHAS) as found:
        hosts.settle(VLANS)
        with ExitStack() as stack:
            heard, trunk = (
                stack.enter_context(captured(ns, device, tmp_path / device))
                for ns, device in ((hosts.ns("four"), "eth1"), (lan.switch, lan.ports[0]))
            )
            assert hosts.ping("one", "192.168.1.3") and hosts.ping("two", "192.168.1.4")
            assert hosts.ping("web", "192.168.1.9") and hosts.ping("other", "192.168.1.50")
            assert not hosts.ping("one", "192.168.1.4") and not hosts.ping("web", "192.168.1.3")
        assert any("tell 192.168.1.2" in frame for frame in heard), heard
        assert not any(f"192.168.1.{number}" in frame for frame in heard for number in ("1,", "1 ", "50", "9 ")), heard
        for address, tag in (("192.168.1.1 ", "vlan 100,"), ("192.168.1.2 ", "vlan 200,")):
            own = [frame for frame in trunk if f"{address}>" in frame]
            assert own and all(tag in frame for frame in own), trunk
        others = [frame for frame in trunk if "192.168.1.50" in frame]
        assert others and not any("vlan" in frame for frame in others)

        alpha.kill("one")
        alpha.container("one")
        assert alpha.settle(VLANS, host="alpha").operations
        assert hosts.ping("one", "192.168.1.3"), "after it was started anew"
        request = AttachRequest("netns:" + alpha.names["db"], "v200", addresses=(ip_address("192.168.1.7"),))
        alpha.engine(lambda engine: engine.attach(request))
        assert hosts.ping("db", "192.168.1.4") and not hosts.ping("db", "192.168.1.3"), "attached by hand"
        alpha.engine(lambda engine: engine.detach(request.container, "v200"))
        alpha.destroy()
        beta.destroy()
    assert [each.error for each in found] == ["", ""]
    for world, was in zip((alpha, beta), before, strict=True):
        world.kill("one") if "one" not in was else None
        same(was, state(world))


def test_a_bridge_begins_and_ceases_to_tell_vlans_apart(hosts: Hosts) -> None:
    """In place, with ports on it and a connection through it."""
    alpha = hosts.alpha
    before = state(alpha)
    with streams(alpha.host, hosts.other, *ALPHAS) as found:
        alpha.settle(PLAIN, host="alpha")
        plain, made = state(alpha), link(alpha.host, "br0")["ifindex"]
        alpha.settle(VLANS, host="alpha")
        applied = state(alpha)
        assert vlans(alpha.host)["eth0"] == ["1 pvid untagged", "100", "200"]
        alpha.settle(TRUNK, host="alpha")
        assert vlans(alpha.host)["eth0"] == ["1 pvid untagged", "100", "200-205"]
        sh(alpha.host, "ip", "link", "add", "name", "guest", "type", "veth", "peer", "name", "guest-in")
        sh(alpha.host, "ip", "link", "set", "dev", "guest", "master", "br0")
        assert not alpha.apply(TRUNK, host="alpha").operations
        assert vlans(alpha.host)["guest"] == ["1 pvid untagged"], "somebody else's port"
        sh(alpha.host, "ip", "link", "del", "dev", "guest")
        alpha.engine(lambda engine: engine.undo())
        same(applied, state(alpha))
        alpha.settle(PLAIN, host="alpha")
        assert link(alpha.host, "br0")["ifindex"] == made
        same(plain, state(alpha))
        assert hosts.ping("other", "192.168.1.50")
        alpha.settle(VLANS, host="alpha")
        same(applied, state(alpha))
        alpha.destroy()
    assert [each.error for each in found] == ["", ""]
    same(before, state(alpha))


def test_nothing_untagged(hosts: Hosts) -> None:
    """`native: none`: the uplink carries tags alone, and the host itself has no part in what is untagged."""
    alpha = hosts.alpha
    before = state(alpha)
    text = """
networks: {v100: {driver: bridge, bridge: br0, uplink: eth0, native: none, vlan: 100, subnet: 172.16.1.0/24,
  gateway: 172.16.1.254, host_addresses: 172.16.1.10}}
attachments: [{container: "netns:<one>", network: v100, address: 172.16.1.1}]
"""
    sh(hosts.other, "ip", "link", "add", "link", "eth0", "name", "eth0.100", "type", "vlan", "id", "100")
    sh(hosts.other, "ip", "link", "set", "dev", "eth0.100", "up")
    sh(hosts.other, "ip", "address", "add", "172.16.1.9/24", "dev", "eth0.100")
    alpha.settle(text)
    assert vlans(alpha.host)["eth0"] == ["100"] and vlans(alpha.host)["br0"] == ["100"]
    assert hosts.ping("other", "172.16.1.1") and hosts.ping("other", "172.16.1.10") and hosts.ping("one", "172.16.1.10")
    assert not hosts.ping("other", "192.168.1.10")
    alpha.destroy()
    same(before, state(alpha))


ROUTED = """
networks:
  v100: {driver: bridge, bridge: br0, vlan: 100, subnets: [10.5.0.0/24, "fd00:5::/64"]}
  v200: {driver: bridge, bridge: br0, vlan: 200, subnet: 10.6.0.0/24, host_addresses: 10.6.0.77}
attachments:
  - {container: "netns:<web>", network: v100, address: [10.5.0.2, "fd00:5::2"], gateway: true}
  - {container: "netns:<db>", network: v200, address: 10.6.0.2, gateway: true}
"""


def test_the_host_routes_vlans(netns: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an uplink: a device of the host's for each VLAN, with NAT."""
    monkeypatch.setattr(shutil, "which", lambda _: None)
    world = build_world(netns, tmp_path)
    world.uplink()
    before = state(world)
    world.settle(ROUTED)
    applied = state(world)
    assert vlans(world.host)["br0"] == ["1 pvid untagged", "100", "200"]
    assert link(world.host, "br0.100")["linkinfo"]["info_data"]["id"] == 100
    assert link(world.host, "br0")["promiscuity"] == 0, "it would flood what is for the host"
    assert world.ping("web", "192.0.2.2") and world.ping("web", "2001:db8::2") and world.ping("db", "192.0.2.2")
    assert world.ping("db", "10.6.0.77") and ping(world.host, "10.5.0.2")
    world.destroy()
    same(before, state(world))
    type_in(world, planned(world, lambda engine: engine.plan(world.site(ROUTED), "")))
    same(applied, state(world))


def test_the_printed_commands_do_the_same(hosts: Hosts) -> None:
    alpha = hosts.alpha
    plain, wanted = alpha.site(PLAIN), alpha.site(TRUNK)
    before = state(alpha)
    alpha.apply(TRUNK, host="alpha")
    applied = state(alpha)
    type_in(alpha, planned(alpha, lambda engine: engine.plan(plain, "alpha")))
    assert not alpha.apply(PLAIN, host="alpha").operations
    assert vlans(alpha.host)["eth0"] == ["1 pvid untagged"], "none is left, though the bridge would not look at it"
    type_in(alpha, planned(alpha, lambda engine: engine.plan(wanted, "alpha")))
    same(applied, state(alpha))
    type_in(alpha, planned(alpha, lambda engine: engine.plan_destroy("office")))
    same(before, state(alpha))
    type_in(alpha, planned(alpha, lambda engine: engine.plan(wanted, "alpha")))
    same(applied, state(alpha))
    alpha.destroy()


STRIDE = 9


def test_killed_at_a_few_sends(hosts: Hosts) -> None:
    """From a bridge that does not tell VLANs apart to one that does."""
    alpha = hosts.alpha
    before = state(alpha)
    site = alpha.site(VLANS)
    alpha.apply(VLANS, host="alpha")
    wanted = state(alpha)
    with streams(alpha.host, hosts.other, *ALPHAS) as found:
        alpha.apply(PLAIN, host="alpha")
        for moment in moments(alpha, lambda engine: engine.apply(site, "alpha"), nothing, stride=STRIDE):
            assert all(ping(hosts.other, address) for address in ALPHAS), f"unreachable after death {moment}"
            alpha.settle(VLANS, host="alpha")
            same(wanted, state(alpha))
            alpha.apply(PLAIN, host="alpha")
        for moment in moments(alpha, lambda engine: engine.destroy("office"), nothing, stride=STRIDE):
            assert all(ping(hosts.other, address) for address in ALPHAS), f"unreachable after death {moment}"
            alpha.apply(VLANS, host="alpha")
    assert [each.error for each in found] == ["", ""]
    alpha.destroy()
    same(before, state(alpha))
