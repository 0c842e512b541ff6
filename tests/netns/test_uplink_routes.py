"""A NIC's rarer belongings when it becomes a bridge's port: they go along and come back, or are named before anything moves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import sh, until
from host import World, build_world, same, snapshot
from lan import Lan

from ductwork.errors import ConflictError

pytestmark = pytest.mark.netns

SITE = """
networks:
  lan: {driver: bridge, bridge: br0, uplink: eth0, subnets: [192.168.1.0/24, "2001:db8:1::/64"]}
attachments:
  - {container: "netns:<web>", network: lan, address: [192.168.1.150, "2001:db8:1::150"]}
"""


@pytest.fixture
def world(netns: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A host on a LAN by `eth0`, with an address of each family, and `other` beside it."""
    monkeypatch.setattr(shutil, "which", lambda _: None)
    made = build_world(netns, tmp_path)
    lan = Lan(netns)
    lan.plug_in(made.host)
    made.names["other"] = lan.machine("other", "192.168.1.9/24", "2001:db8:1::9/64")
    ip(made, "address add 192.168.1.2/24 dev eth0", "address add 2001:db8:1::2/64 dev eth0 nodad")
    return made


def ip(world: World, *commands: str) -> None:
    for command in commands:
        sh(world.host, "ip", *command.split())
    assert until(lambda: "tentative" not in sh(world.host, "ip", "address"))


def test_a_gateway_that_a_route_alone_makes_known(world: World) -> None:
    """As cloud providers have it: the host's address has no subnet."""
    ip(world, "address flush dev eth0 scope global", "address add 192.168.1.2/32 dev eth0")
    ip(world, "address add 2001:db8:1::2/128 dev eth0 nodad")
    ip(world, "route add 192.168.1.9 dev eth0 scope link", "route add default via 192.168.1.9")
    ip(world, "-6 route add 2001:db8:1::9 dev eth0", "-6 route add default via 2001:db8:1::9")
    before = snapshot(world.host)
    world.settle(SITE)
    assert "via 192.168.1.9 dev br0" in sh(world.host, "ip", "route", "show", "default")
    assert "via 2001:db8:1::9 dev br0" in sh(world.host, "ip", "-6", "route", "show", "default")
    world.destroy()
    same(before, snapshot(world.host))


@pytest.mark.parametrize(
    ("commands", "said"),
    [
        (
            (
                "-6 route add default via 2001:db8:1::9",
                "address del 2001:db8:1::2/64 dev eth0",
                "address add 2001:db8:7::2/64 dev eth0 nodad",
            ),
            "default via 2001:db8:1::9",
        ),
        (("route add local 192.0.2.0/24 dev eth0",), "local 192.0.2.0/24 on eth0"),
        (("-6 route add local 2001:db8:5::/64 dev eth0",), "local 2001:db8:5::/64 on eth0"),
        (("neighbour add 192.168.1.9 lladdr 02:00:00:00:00:09 dev eth0 nud permanent",), "permanent neighbour 192.168.1.9"),
        (("neighbour add proxy 2001:db8:1::77 dev eth0",), "neighbour proxy 2001:db8:1::77"),
    ],
)
def test_what_would_be_lost_is_said_before_anything_is_touched(world: World, commands: tuple[str, ...], said: str) -> None:
    ip(world, *commands)
    before = snapshot(world.host)
    with pytest.raises(ConflictError, match=said) as caught:
        world.apply(SITE)
    assert caught.value.hint
    same(before, snapshot(world.host))


def test_a_group_that_an_address_joins(world: World) -> None:
    ip(world, "address add 239.1.2.3/32 dev eth0 autojoin", "address add ff05::123/128 dev eth0 autojoin")
    before = snapshot(world.host)
    world.settle(SITE)
    [br0] = json.loads(sh(world.host, "ip", "-j", "address", "show", "dev", "br0"))
    assert {address["local"] for address in br0["addr_info"] if address.get("autojoin")} == {"239.1.2.3", "ff05::123"}
    world.destroy()
    same(before, snapshot(world.host))


def test_a_secret_for_stable_addresses(world: World) -> None:
    sh(world.host, "sysctl", "-qw", "net.ipv6.conf.eth0.stable_secret=2001:db8::1234")
    world.settle(SITE)
    conf = "/proc/sys/net/ipv6/conf/br0"
    assert sh(world.host, "cat", f"{conf}/stable_secret", f"{conf}/addr_gen_mode").split() == [
        "2001:0db8:0000:0000:0000:0000:0000:1234",
        "2",
    ]
    world.destroy()


def test_another_bridge_for_the_same_nic(world: World) -> None:
    ip(world, "route add default via 192.168.1.9", "-6 route add default via 2001:db8:1::9")
    sh(world.host, "sysctl", "-qw", "net.ipv4.conf.eth0.rp_filter=2")
    before = world.snapshot()
    world.settle(SITE)
    world.settle(SITE.replace("br0", "br9"))
    assert "dev br9" in sh(world.host, "ip", "route", "show", "default")
    assert sh(world.host, "cat", "/proc/sys/net/ipv4/conf/br9/rp_filter").strip() == "2"
    assert world.ping("other", "192.168.1.2") and world.ping("other", "2001:db8:1::150")
    world.destroy()
    same(before, world.snapshot())


MACVLAN = """
networks:
  lan: {driver: macvlan, parent: eth0, subnet: 192.168.1.0/24}
attachments:
  - {container: "netns:<db>", network: lan, address: 192.168.1.160}
"""


def test_what_another_site_has_on_the_nic(world: World) -> None:
    """In a container, where the host does not see it; and one function alone takes a NIC's frames first."""
    world.apply(MACVLAN, "branch")
    before = world.snapshot()
    with pytest.raises(ConflictError, match=r"of netns:\S+db on top of eth0"):
        world.apply(SITE)
    same(before, world.snapshot())
    world.settle(SITE, "branch")  # the same site may: its own leave first


def test_what_a_container_has_on_the_nic_by_somebody_else(world: World) -> None:
    ip(world, f"link add link eth0 name up netns {world.names['web']} type macvlan mode bridge")
    before = world.snapshot()
    with pytest.raises(ConflictError, match=r"up of netns:\S+web on top of eth0"):
        world.apply(SITE)
    same(before, world.snapshot())
