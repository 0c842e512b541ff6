"""Networks on Open vSwitch through the engine (scenarios A5, A6), with the data path in user space."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

import pytest
from conftest import ping, sh, until
from host import World, build_world, same, snapshot
from lan import Lan, streams
from ovs_host import OvsHost
from test_antispoof import NOBODY_MAC, Villain, dishonest, honest, mac_of
from test_crash import moments, nothing
from test_ovs_datapath import arrives

from ductwork.engine import AttachRequest
from ductwork.errors import DuctworkError
from ductwork.services.antispoof import link_local

pytestmark = pytest.mark.netns

VLANS = """
networks:
  v100: {driver: ovs, datapath: netdev, ovsdb: "<db>", vlan: 100, subnet: 192.168.1.0/24, gateway: 192.168.1.254UPLINK}
  v200: {driver: ovs, datapath: netdev, ovsdb: "<db>", vlan: 200, subnet: 192.168.1.0/24, gateway: 192.168.1.254UPLINK}
attachments:
  - {container: "netns:<one>", network: v100, address: 192.168.1.1}
  - {container: "netns:<two>", network: v100, address: 192.168.1.2}
  - {container: "netns:<three>", network: v200, address: 192.168.1.3}
  - {container: "netns:<four>", network: v200, address: 192.168.1.4}
"""


OWN_ADDRESSES = """
networks:
  plain: {driver: ovs, datapath: netdev, ovsdb: "<db>", subnets: [10.1.1.0/24, "fd00:1::/64"]}
attachments:
  - {container: "netns:<one>", network: plain, address: [10.1.1.2, "fd00:1::2"]}
  - {container: "netns:<two>", network: plain, address: [10.1.1.3, "fd00:1::3"]}
"""


@dataclass
class Switched:
    world: World
    ovs: OvsHost
    lan: Lan

    def site(self, text: str = VLANS) -> str:
        return text.replace("<db>", self.ovs.socket).replace("UPLINK", ", uplink: eth0")


@pytest.fixture
def switched(netns: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Switched]:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    world = build_world(netns, tmp_path)
    for name in ("one", "two", "three", "four"):
        world.container(name)
    lan = Lan(netns)
    lan.plug_in(world.host)
    sh(world.host, "ip", "address", "add", "10.9.9.2/24", "dev", "eth0")
    sh(world.host, "ip", "address", "add", "2001:db8:9::2/64", "dev", "eth0", "nodad")
    sh(world.host, "ip", "route", "add", "default", "via", "10.9.9.254")
    world.names["other"] = lan.machine("other", "10.9.9.9/24", "2001:db8:9::9/64")
    sh(world.names["other"], "ethtool", "-K", "eth0", "tx", "off")  # as what comes by a wire has its checksum
    with OvsHost(world.host, tmp_path / "ovs") as ovs:
        assert until(lambda: "tentative" not in sh(world.host, "ip", "address"))
        yield Switched(world, ovs, lan)


def test_vlans_of_one_switch_and_its_uplink(switched: Switched) -> None:
    world = switched.world
    before = snapshot(world.host)
    world.settle(switched.site())
    assert world.ping("one", "192.168.1.2") and world.ping("three", "192.168.1.4")
    assert not world.ping("one", "192.168.1.3")
    assert ping(world.names["other"], "10.9.9.2"), "the host by its switch"
    with streams(world.host, world.names["other"], "10.9.9.2", "2001:db8:9::2") as found:
        world.destroy()
        world.apply(switched.site())
        world.engine(lambda engine: engine.undo())
    assert [each.error for each in found] == ["", ""]
    assert until(lambda: "tentative" not in sh(world.host, "ip", "address"))
    same({"host": before}, {"host": snapshot(world.host)})
    assert switched.ovs.vsctl("list-br").split() == []


def test_two_hosts(switched: Switched, netns: Callable[[str], str], tmp_path: Path) -> None:
    """Scenario A6: the same VLANs on another host, over a trunk; what one VLAN asks, the other does not hear."""
    near, lan = switched.world, switched.lan
    far = World(netns, tmp_path / "far", netns("far"))
    far.directory.mkdir()
    for name in ("five", "six"):
        far.container(name)
    lan.plug_in(far.host)
    sh(far.host, "ip", "address", "add", "10.9.9.3/24", "dev", "eth0")
    near.settle(switched.site())
    with OvsHost(far.host, tmp_path / "far-ovs") as ovs:
        other = type(switched)(far, ovs, lan).site(VLANS[: VLANS.index("attachments:")])
        far.settle(
            other
            + """attachments:
  - {container: "netns:<five>", network: v100, address: 192.168.1.5}
  - {container: "netns:<six>", network: v200, address: 192.168.1.6}
"""
        )
        with heard(far.names["six"], "eth1") as frames:
            assert near.ping("one", "192.168.1.5") and near.ping("four", "192.168.1.6")
            assert not near.ping("one", "192.168.1.6")
        assert any("tell 192.168.1.4" in frame for frame in frames) and not any("192.168.1.1" in frame for frame in frames)
        with heard(lan.switch, lan.ports[0]) as frames:
            assert near.ping("one", "192.168.1.5")
        assert any("vlan 100" in frame for frame in frames), frames
        far.destroy()
    near.destroy()


def test_containers_that_start_anew_and_one_by_hand(switched: Switched) -> None:
    world = switched.world
    before = snapshot(world.host)
    world.settle(switched.site())
    world.kill("two")
    world.container("two")
    assert world.settle(switched.site()).operations
    assert world.ping("one", "192.168.1.2")
    request = AttachRequest("netns:" + world.names["web"], "v200", addresses=(ip_address("192.168.1.7"),))
    world.engine(lambda engine: engine.attach(request))
    assert world.ping("web", "192.168.1.4") and not world.ping("web", "192.168.1.1")
    world.settle(switched.site())
    world.engine(lambda engine: engine.detach(request.container, "v200"))
    world.destroy()
    assert until(lambda: "tentative" not in sh(world.host, "ip", "address"))
    same({"host": before}, {"host": snapshot(world.host)})


def test_the_printed_commands(switched: Switched) -> None:
    """Typed, they lead to where `apply` leads: it finds nothing to do."""
    world = switched.world
    file = world.write(switched.site())
    lines = world.cli("plan", file, "--format", "commands").out
    argv = ["ip", "netns", "exec", world.host, "sh", "-e"]
    done = subprocess.run(argv, input=lines, env=switched.ovs.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert world.ping("one", "192.168.1.2") and not world.ping("one", "192.168.1.3")
    assert world.cli("plan", file).out == ""
    world.cli("apply", file)  # remembers where the database is, which the commands did not
    world.cli("destroy", file)
    assert switched.ovs.vsctl("list-br").split() == []


def test_killed_at_each_send(switched: Switched) -> None:
    world = switched.world
    before = snapshot(world.host)
    site = world.site(switched.site())
    with streams(world.host, world.names["other"], "10.9.9.2") as found:
        for moment in moments(world, lambda engine: engine.apply(site, ""), nothing):
            assert until(lambda: ping(world.names["other"], "10.9.9.2"), 3), f"unreachable after death {moment}"
            if moment % 2:
                world.settle(switched.site())
            world.destroy()
            assert switched.ovs.vsctl("list-br").split() == []
        world.destroy()
    assert [each.error for each in found] == [""]
    assert until(lambda: "tentative" not in sh(world.host, "ip", "address"))
    same({"host": before}, {"host": snapshot(world.host)})


def test_what_others_have_on_a_switch_stays(switched: Switched) -> None:
    world = switched.world
    switched.ovs.vsctl("add-br", "theirs", "--", "set", "Bridge", "theirs", "datapath_type=netdev")
    world.apply(switched.site(VLANS.replace("gateway: 192.168.1.254UPLINK", "internal: true")))
    sh(world.host, "ip", "link", "add", "name", "guest", "type", "veth", "peer", "name", "guest-in")
    switched.ovs.vsctl("add-port", "ovs0", "guest")
    report = world.destroy()
    assert any(r.key.ident[0] == "ovs0" for r in report.kept)
    assert switched.ovs.vsctl("list-ports", "ovs0").split() == ["guest"]
    switched.ovs.vsctl("del-port", "ovs0", "guest")
    world.destroy()
    assert switched.ovs.vsctl("list-br").split() == ["theirs"]


def test_a_bridge_of_somebody_else_is_in_the_way(switched: Switched) -> None:
    switched.ovs.vsctl("add-br", "ovs0", "--", "set", "Bridge", "ovs0", "datapath_type=netdev")
    with pytest.raises(DuctworkError, match="ovs0"):
        switched.world.apply(switched.site())
    assert switched.ovs.vsctl("list-ports", "ovs0").split() == []


def test_no_switch_runs(switched: Switched) -> None:
    before = snapshot(switched.world.host)
    switched.ovs.stop()
    with pytest.raises(DuctworkError) as caught:
        switched.world.apply(switched.site())
    assert caught.value.hint
    same({"host": before}, {"host": snapshot(switched.world.host)})


def test_what_is_not_its_own_is_neither_forwarded_nor_learnt(switched: Switched) -> None:
    """The same frames as on a Linux bridge (test_antispoof.py); flows that somebody removes are made again."""
    world = switched.world
    world.settle(switched.site(OWN_ADDRESSES))
    mac = mac_of(world.names["one"])
    it = Villain(None, mac, mac_of(world.names["two"]), str(link_local(mac)))  # type: ignore[arg-type]
    bad = {what: frame for what, frame in dishonest(it) if what != "own NA behind a header"}
    good = honest(it)
    for _ in range(2):
        assert arrives(good | bad, world.names["one"], world.names["two"], good.keys().__le__) == good.keys()
        assert NOBODY_MAC not in switched.ovs.appctl("fdb/show", "ovs0")
        switched.ovs.ofctl("del-flows", "ovs0", "cookie=0x6477000000000000/0xffff000000000000")
        world.settle(switched.site(OWN_ADDRESSES))
    world.settle(switched.site(OWN_ADDRESSES.replace('::2"]', '::2"], spoofing: allow')))
    assert arrives(bad, world.names["one"], world.names["two"], bad.keys().__le__) == bad.keys()
    world.engine(lambda engine: engine.undo())
    switched.ovs.appctl("fdb/flush", "ovs0")  # where it took the victim to be meanwhile
    assert arrives(good | bad, world.names["one"], world.names["two"], good.keys().__le__) == good.keys()


APART = """
networks:
  lan:
    {driver: ovs, datapath: netdev, ovsdb: "<db>", subnets: [10.9.9.0/24, "2001:db8:9::/64"],
      gateways: [10.9.9.254, "2001:db8:9::fe"], isolated: trueUPLINK}
attachments:
  - {container: "netns:<one>", network: lan, address: [10.9.9.11, "2001:db8:9::11"]}
  - {container: "netns:<two>", network: lan, address: [10.9.9.12, "2001:db8:9::12"]SPOOFING}
"""


@pytest.mark.parametrize("spoofing", ["", ", spoofing: allow"], ids=["deny", "allow"])
def test_isolated_on_a_lan(switched: Switched, spoofing: str) -> None:
    """Whose gateway sends back what it is sent for its own subnet. Who is plugged in by hand does not reach the others."""
    world, lan = switched.world, switched.lan
    one, two, web = (world.names[name] for name in ("one", "two", "web"))
    gateway = lan.machine("gateway", "10.9.9.254/24", "2001:db8:9::fe/64")
    settings = ("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1", "net.ipv4.conf.eth0.send_redirects=0")
    sh(gateway, "sysctl", "-qw", *settings)
    site = switched.site(APART).replace("SPOOFING", spoofing)
    others = {one: ("10.9.9.12", "2001:db8:9::12"), two: ("10.9.9.11", "2001:db8:9::11")}
    outside = ("10.9.9.254", "2001:db8:9::fe", "10.9.9.9", "2001:db8:9::9", "10.9.9.2")

    def reached(ns: str, *addresses: str) -> list[bool]:
        return [until(lambda to=to: ping(ns, to), 2) for to in addresses]

    world.settle(site)
    for ns, addresses in others.items():
        for address in addresses:
            via = "2001:db8:9::fe" if ":" in address else "10.9.9.254"
            sh(ns, "ip", "route", "replace", address, "via", via, "dev", "eth1")
    for ns, addresses in others.items():
        assert reached(ns, *outside) == [True] * 5
        assert [ping(ns, to) for to in addresses] == [False] * 2
    request = AttachRequest("netns:" + web, "lan", addresses=(ip_address("10.9.9.13"),))
    world.engine(lambda engine: engine.attach(request))
    sh(web, "ip", "route", "replace", "10.9.9.11", "via", "10.9.9.254", "dev", "eth1")
    sh(one, "ip", "route", "replace", "10.9.9.13", "via", "10.9.9.254", "dev", "eth1")
    assert reached(web, "10.9.9.254") == [True] and not ping(web, "10.9.9.11")
    world.engine(lambda engine: engine.detach(request.container, "lan"))
    switched.ovs.ofctl("del-flows", "ovs0", "cookie=0x6477000000000000/0xffff000000000000,in_port=LOCAL")
    assert reached(one, *others[one]) == [True] * 2, "without what they have"
    world.settle(site)
    assert [ping(one, to) for to in others[one]] == [False] * 2
    world.apply(site.replace("isolated: true", "isolated: false"))
    assert reached(one, *others[one]) == [True] * 2
    assert "table=253" not in switched.ovs.ofctl("dump-flows", "ovs0")
    world.engine(lambda engine: engine.undo())
    assert [ping(one, to) for to in others[one]] == [False] * 2
    world.destroy()
    assert switched.ovs.vsctl("list-br").split() == []


@contextmanager
def heard(ns: str, device: str) -> Iterator[list[str]]:
    """What tcpdump shows of a device meanwhile, a line for each frame."""
    argv = ["ip", "netns", "exec", ns, "tcpdump", "--immediate-mode", "-lneni", device, "arp or vlan"]
    found: list[str] = []
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        assert any("listening" in line for line in process.stderr)
        yield found
        time.sleep(0.3)
        process.terminate()
        found += process.stdout.read().splitlines()
