"""A site on the real kernel: what it makes, what a change of the file changes, and that nothing is left of it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import ping, run, sh, until
from host import World, build_world, forget, same, snapshot

from ductwork.engine import AttachRequest

pytestmark = pytest.mark.netns

B1 = """
networks:
  lan: {driver: bridge, subnet: 10.1.1.0/24, nat: none}
attachments:
  - {container: "netns:<web>", network: lan, address: 10.1.1.2}
  - {container: "netns:<db>", network: lan, address: 10.1.1.3}
"""
DUAL = """
networks:
  lan: {driver: bridge, subnets: [10.1.1.0/24, "fd00:1::/64"]}
attachments:
  - {container: "netns:<web>", network: lan, address: [10.1.1.2, "fd00:1::2"], gateway: true}
  - {container: "netns:<db>", network: lan, address: [10.1.1.3, "fd00:1::3"]}
"""
SECOND_SITE = """
networks:
  net: {driver: bridge, subnets: [10.2.2.0/24, "fd00:2::/64"]}
attachments:
  - {container: "netns:<web>", network: net, interface: net0, address: [10.2.2.2, "fd00:2::2"]}
"""
FORWARDING = "net/ipv4/conf/eth0/forwarding"


@pytest.fixture
def world(netns: Callable[[str], str], tmp_path: Path) -> World:
    return build_world(netns, tmp_path)


@pytest.fixture
def started() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Starts processes that end with the test."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*argv: str) -> subprocess.Popen[bytes]:
        processes.append(subprocess.Popen(argv, stdin=subprocess.PIPE))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def sysctl(ns: str, path: str, value: str = "") -> str:
    if value:
        sh(ns, "sysctl", "-q", "-w", f"{path}={value}")
    return sh(ns, "sysctl", "-n", path).strip()


def neighbour(ns: str, address: str) -> str:
    return sh(ns, "ip", "neighbour", "show", "to", address)


# scenario B1


def test_two_containers_and_the_host_reach_each_other(world: World) -> None:
    world.settle(B1)
    assert world.ping("web", "10.1.1.3")
    assert world.ping("db", "10.1.1.2")
    assert world.ping("web", "10.1.1.1")
    assert ping(world.host, "10.1.1.3")


def test_the_command_does_the_same_twice_and_takes_it_back(world: World) -> None:
    before = world.snapshot()
    path = world.write(B1)
    world.cli("apply", path)
    assert world.ping("web", "10.1.1.3")
    assert "nothing to do" in world.cli("apply", path).out
    world.cli("destroy", path)
    same(before, world.snapshot())


def test_ipv6_is_usable_at_once(world: World) -> None:
    world.apply(DUAL)
    assert "tentative" not in sh(world.names["web"], "ip", "address", "show", "dev", "eth1", "scope", "global")
    assert world.ping("web", "fd00:1::1")
    assert world.ping("web", "fd00:1::3")


# a file that changes


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(B1.replace("10.1.1.2", "10.1.1.9"), id="address"),
        pytest.param(B1.replace("10.1.1.2", "10.1.1.3X").replace("10.1.1.3}", "10.1.1.2}").replace("3X", "3"), id="swapped"),
        pytest.param(B1.replace("10.1.1.0/24", "10.1.0.0/16"), id="subnet"),
        pytest.param(B1.replace("nat: none", "nat: none, mtu: 1400"), id="mtu"),
        pytest.param(B1.replace("nat: none", "nat: none, bridge: other"), id="bridge"),
        pytest.param(B1.replace("nat: none", "gateway: 10.1.1.254"), id="gateway"),
        pytest.param(B1.replace("nat: none", "internal: true"), id="internal"),
        pytest.param(B1.replace("address: 10.1.1.2", 'address: 10.1.1.2, mac: "02:00:00:00:00:09"'), id="mac"),
        pytest.param(B1.replace("address: 10.1.1.2", "address: 10.1.1.2, interface: net0"), id="interface"),
        pytest.param(
            B1.replace("address: 10.1.1.2", "address: 10.1.1.2, routes: [{to: 10.7.0.0/16, via: 10.1.1.3}]"), id="routes"
        ),
        pytest.param(DUAL, id="family"),
        pytest.param(B1[: B1.index('  - {container: "netns:<db>')], id="attachment"),
        pytest.param("networks:\n  lan: {driver: bridge, subnet: 10.1.1.0/24}\nattachments: []\n", id="nothing"),
    ],
)
def test_a_change_and_the_way_back(world: World, changed: str) -> None:
    """Each in one round, to what applying from nothing gives; undo and the former file lead back alike."""
    world.uplink()
    before = world.snapshot()
    world.settle(changed)
    wanted = world.snapshot()
    world.destroy()
    same(before, world.snapshot())
    world.settle(B1)
    first = world.snapshot()
    assert world.settle(changed).operations
    same(wanted, world.snapshot())
    world.engine(lambda engine: engine.undo())
    same(first, world.snapshot())
    world.settle(changed)
    world.settle(B1)
    same(first, world.snapshot())
    world.destroy()
    same(before, world.snapshot())


@pytest.mark.parametrize("promoted", ["0", "1"])
def test_the_primary_of_a_subnet_changes(world: World, promoted: str) -> None:
    """Its secondary dies with it, or, as systemd sets it, becomes the primary, and the routes behind it stay."""
    for ns in (world.host, world.names["web"]):
        sh(ns, "sysctl", "-qw", f"net.ipv4.conf.all.promote_secondaries={promoted}")
    routed = "routes: [{to: 10.7.0.0/16, via: 10.1.1.3}]"
    text = B1.replace("address: 10.1.1.2", f"address: [10.1.1.2, 10.1.1.5], {routed}")
    world.settle(text)
    before = world.snapshot()
    assert world.settle(text.replace("10.1.1.2", "10.1.1.9")).rounds == 1
    world.settle(text)
    assert ping(world.names["web"], "10.1.1.3")
    assert "10.7.0.0/16" in sh(world.names["web"], "ip", "route")
    assert len(before) == len(world.snapshot())


def test_keys_of_an_attachment(world: World) -> None:
    extra = 'mac: "02:00:00:00:00:0a", mtu: 1300, interface: lan0, routes: [{to: 10.7.0.0/16, via: 10.1.1.3}]'
    world.settle(B1.replace("address: 10.1.1.2", f"address: 10.1.1.2, {extra}"))
    link = sh(world.names["web"], "ip", "-o", "link", "show", "dev", "lan0")
    assert "02:00:00:00:00:0a" in link
    assert "mtu 1300" in link
    assert "via 10.1.1.3 dev lan0" in sh(world.names["web"], "ip", "route", "get", "10.7.1.1")


# nothing is left


@pytest.mark.parametrize("way", ["destroy", "undo"])
def test_all_is_as_before(world: World, way: str) -> None:
    world.uplink()
    world.eth0("web")
    before = world.snapshot()
    world.settle(DUAL)
    assert sysctl(world.host, FORWARDING) == "1"
    if way == "destroy":
        world.destroy()
    else:
        world.engine(lambda engine: engine.undo())
    same(before, world.snapshot())
    assert "formers.json" not in world.remembered()


def test_a_destruction_is_undone(world: World) -> None:
    world.uplink()
    world.eth0("web")
    world.settle(DUAL)
    applied = world.snapshot()
    world.destroy()
    world.engine(lambda engine: engine.undo())
    same(applied, world.snapshot())
    assert not world.apply(DUAL).operations


def test_a_sysctl_of_two_sites_goes_back_with_the_last(world: World) -> None:
    world.uplink()
    before = world.snapshot()
    world.settle(DUAL)
    world.settle(SECOND_SITE, "second")
    world.destroy("office")
    assert sysctl(world.host, FORWARDING) == "1"
    world.destroy("second")
    same(before, world.snapshot())


def test_a_sysctl_that_somebody_else_has_changed_stays_theirs(world: World) -> None:
    world.uplink()
    world.settle(DUAL)
    sysctl(world.host, FORWARDING, "2")
    world.destroy()
    assert sysctl(world.host, FORWARDING) == "2"


def test_a_sysctl_that_was_right_before_stays_as_it_was(world: World) -> None:
    world.uplink()
    sysctl(world.host, FORWARDING, "1")
    world.settle(DUAL)
    world.destroy()
    assert sysctl(world.host, FORWARDING) == "1"


# the default route


def test_a_foreign_default_route_is_parked_and_put_back(world: World) -> None:
    world.eth0("web")
    before = snapshot(world.names["web"])
    world.settle(DUAL)
    assert "via 10.1.1.1 dev eth1" in sh(world.names["web"], "ip", "route", "get", "8.8.8.8", check=False)
    world.settle(DUAL.replace(", gateway: true", ""))  # what was asked for once is not taken away by not saying so
    world.settle(DUAL.replace("gateway: true", "gateway: false"))
    assert "via 172.31.0.1 dev eth0" in sh(world.names["web"], "ip", "route", "get", "8.8.8.8")
    world.destroy()
    same(before, snapshot(world.names["web"]))


def test_a_foreign_default_route_stays_where_nobody_asks(world: World) -> None:
    world.eth0("web")
    world.settle(B1)
    assert "via 172.31.0.1 dev eth0" in sh(world.names["web"], "ip", "route", "get", "8.8.8.8")
    assert "via 10.1.1.1 dev eth1" in sh(world.names["db"], "ip", "route", "get", "8.8.8.8")


# by hand


def test_attach_and_detach_leave_nothing(world: World) -> None:
    api = world.container("api")
    world.eth0("api")
    world.settle(DUAL)
    before = world.snapshot()
    world.engine(lambda engine: engine.attach(AttachRequest(f"netns:{api}", "lan", gateway=True)))
    assert world.ping("api", "10.1.1.3")
    assert "dev eth1" in sh(api, "ip", "route", "get", "8.8.8.8")
    attached = world.snapshot()
    assert not world.apply(DUAL).operations
    again = world.engine(lambda engine: engine.attach(AttachRequest(f"netns:{api}", "lan", gateway=True)))
    assert not again.operations
    world.engine(lambda engine: engine.detach(f"netns:{api}", "lan"))
    same(before, world.snapshot())
    world.engine(lambda engine: engine.undo())
    same(attached, world.snapshot())


def test_what_was_attached_by_hand_comes_back_with_its_container(world: World) -> None:
    api = world.container("api")
    world.settle(B1)
    world.engine(lambda engine: engine.attach(AttachRequest(f"netns:{api}", "lan")))
    attached = sh(api, "ip", "-o", "-4", "address", "show", "dev", "eth1")
    world.kill("api")
    world.container("api")
    world.settle(B1)
    assert sh(api, "ip", "-o", "-4", "address", "show", "dev", "eth1").split()[3] == attached.split()[3]
    assert world.ping("api", "10.1.1.3")


def test_a_container_that_waits_is_attached_later(world: World) -> None:
    world.kill("web")
    report = world.apply(B1)
    assert list(report.waiting) == [f"netns:{world.names['web']}"]
    assert not world.apply(B1).operations
    world.container("web")
    assert not world.apply(B1).waiting
    assert world.ping("web", "10.1.1.3")


# addresses that nobody wrote: scenario C4

ALLOCATED = """
networks:
  lan: {driver: bridge, subnet: 10.1.1.0/24}
attachments:
  - {container: "netns:<web>", network: lan}
  - {container: "netns:<db>", network: lan}
"""
SECOND = ALLOCATED.replace('  - {container: "netns:<web>", network: lan}\n', "")


@pytest.mark.parametrize("store", ["kept", "deleted"])
def test_a_container_made_anew_has_its_address_back(world: World, store: str) -> None:
    world.settle(ALLOCATED)
    if store == "deleted":
        forget(world.state)
        world.settle(ALLOCATED)
    world.settle(SECOND)
    world.kill("db")
    world.container("db")
    world.settle(SECOND)
    assert "10.1.1.3/24" in sh(world.names["db"], "ip", "address")


def test_an_address_is_free_when_the_file_has_its_holder_no_longer(world: World) -> None:
    world.settle(ALLOCATED)
    world.settle(SECOND)
    world.container("api")
    world.settle(SECOND + '  - {container: "netns:<api>", network: lan}\n')
    assert "10.1.1.2/24" in sh(world.names["api"], "ip", "address")
    assert "10.1.1.3/24" in sh(world.names["db"], "ip", "address")


def test_a_lost_store_gives_no_address_twice(world: World) -> None:
    world.settle(ALLOCATED)
    world.settle(SECOND)
    forget(world.state)
    api = world.container("api")
    world.settle(SECOND + f'  - {{container: "netns:{api}", network: lan}}\n')
    assert "10.1.1.3/24" in sh(world.names["db"], "ip", "address")
    assert "10.1.1.3/24" not in sh(api, "ip", "address")
    assert world.ping("api", "10.1.1.3")


# neighbours


@pytest.mark.parametrize("how", ["anew", "in place"])
def test_neighbours_learn_a_new_mac_unasked(world: World, how: str) -> None:
    world.settle(B1)
    assert world.ping("db", "10.1.1.2")
    if how == "anew":
        world.kill("web")
        world.container("web")
    world.apply(B1.replace("address: 10.1.1.2", 'address: 10.1.1.2, mac: "02:00:00:00:00:0b"'))
    assert until(lambda: "02:00:00:00:00:0b" in neighbour(world.names["db"], "10.1.1.2"))


def test_nothing_keeps_a_dead_container_alive(world: World) -> None:
    """Not even an engine that goes on: a namespace's links die with it, so their peers elsewhere tell."""
    fars = {name: world.eth0(name) for name in ("web", "db")}

    def work(engine: Any) -> None:
        site = world.site(DUAL)
        engine.apply(site, "")
        engine.attach(AttachRequest(f"netns:{world.names['db']}", "lan"))
        engine.detach(f"netns:{world.names['db']}", "lan")
        world.kill("db")  # as attached
        assert until(lambda: "eth0" not in sh(fars["db"], "ip", "link"), 2)
        engine.destroy("office")
        world.kill("web")
        assert until(lambda: "eth0" not in sh(fars["web"], "ip", "link"), 2)

    world.engine(work)


# other runtimes


@pytest.mark.skipif(not shutil.which("unshare"), reason="needs unshare")
def test_a_process_as_a_container(world: World, started: Callable[..., subprocess.Popen[bytes]]) -> None:
    process = started("unshare", "--net", "cat")
    own = os.readlink("/proc/self/ns/net")
    assert until(lambda: os.readlink(f"/proc/{process.pid}/ns/net") != own)
    text = B1.replace("netns:<web>", f"pid:{process.pid}")
    before = snapshot(world.host)
    world.settle(text)
    assert ping(world.host, "10.1.1.2")
    process.kill()
    process.wait()
    assert until(lambda: not ping(world.host, "10.1.1.2"), 3)
    assert list(world.apply(text).waiting) == [f"pid:{process.pid}"]
    world.destroy()
    same(before, snapshot(world.host))


def test_the_whole_is_gone_with_all(world: World) -> None:
    world.uplink()
    before = world.snapshot()
    world.settle(DUAL)
    world.settle(SECOND_SITE, "second")
    world.engine(lambda engine: engine.attach(AttachRequest(f"netns:{world.names['web']}", "office/lan", interface="x")))
    world.destroy(None)
    same(before, world.snapshot())
    assert not run("ip", "-n", world.host, "link", "show", "type", "bridge")
