"""What somebody removes or alters by hand, of each kind that test_agent.py has not: told of, it is back at once; of what nobody
tells it is found by the next look at the whole."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from agent_process import AgentProcess
from conftest import sh, until
from host import World, build_world, differences, same
from lan import Lan
from ovs_host import OvsHost
from test_agent import SOON, ticks

pytestmark = pytest.mark.netns

SITE = """
hosts: {alpha: {address: 192.0.2.1/24}, beta: {address: 192.0.2.2/24}}
networks:
  lan: {driver: bridge, bridge: br0, subnets: [10.1.1.0/24, "fd00:1::/64"]}
  pods: {driver: vxlan, vni: 42, subnet: 10.2.2.0/24, host_addresses: {alpha: 10.2.2.251, beta: 10.2.2.252}}
  wire: {driver: macvlan, parent: nic1, subnet: 192.168.1.0/24, host_access: {alpha: 192.168.1.250}}
attachments:
  - {container: "netns:<web>", host: alpha, network: lan, address: [10.1.1.2, "fd00:1::2"], rate: {ingress: 100mbit}}
  - {container: "netns:<db>", host: alpha, network: pods, address: 10.2.2.3}
  - {container: "netns:<cap>", host: alpha, network: wire, interface: lan1, address: 192.168.1.50}
  - {container: "netns:<cap>", host: alpha, network: wire, interface: lan2, address: 192.168.1.51}
  - {container: "netns:elsewhere", host: beta, network: pods, address: 10.2.2.9}
"""
RESYNC = "3"
FLOOD = "dev VXLAN 00:00:00:00:00:00 dst"
TOLD = {
    "tunnel": "ip link del dev VXLAN",
    "fdb": f"bridge fdb del {FLOOD} 192.0.2.2",
    "host's interface": "ip link del dev MACVLAN",
    "host's way": "ip route del 192.168.1.50/32",
    "port": "ip link set dev VETH nomaster",
    "forwarding": "sysctl -qw net.ipv4.conf.br0.forwarding=0 net.ipv6.conf.all.forwarding=0",
}
UNTOLD = {
    "address": ("web", "ip address flush dev eth1"),
    "route": ("web", "ip route del default"),
    "link": ("web", "ip link set dev eth1 down"),
    "mtu": ("web", "ip link set dev eth1 mtu 1300"),
    "mac": ("web", "ip link set dev eth1 address 02:00:00:00:00:77"),
    "routers": ("web", "sysctl -qw net.ipv6.conf.eth1.accept_ra=1 net.ipv6.conf.eth1.autoconf=1"),
    "arp": ("cap", "sysctl -qw net.ipv4.conf.lan1.arp_ignore=0"),
    "routers of the host": ("host", "sysctl -qw net.ipv6.conf.br0.accept_ra=1"),
    "promiscuity": ("host", "ip link set dev nic1 promisc off"),
    "arp of the host": ("host", "sysctl -qw net.ipv4.conf.MACVLAN.arp_ignore=0"),
    "fdb": ("host", f"bridge fdb append {FLOOD} 192.0.2.77"),
    "shaping": ("host", "tc qdisc del dev VETH root"),
}


@pytest.fixture
def world(netns: Callable[[str], str], tmp_path: Path) -> World:
    made = build_world(netns, tmp_path)
    made.uplink()
    Lan(netns).plug_in(made.host, "nic1")
    made.container("cap")
    return made


def at_rest(agent: AgentProcess) -> bool:
    """Whether it does nothing for a while: the look that follows its start is over, which would find anything."""
    before = ticks(agent.pid)
    time.sleep(0.7)
    return ticks(agent.pid) <= before + 1


def damaged(world: World, agent: AgentProcess, place: str, damage: str) -> None:
    """And as it was again."""
    assert until(lambda: at_rest(agent)), agent.log()
    before, times = world.snapshot(), len(agent.said("mended"))
    for kind in ("vxlan", "macvlan", "veth"):
        damage = damage.replace(kind.upper(), named(world, kind))
    sh(world.names.get(place, world.host), "sh", "-ec", damage)
    assert until(lambda: len(agent.said("mended")) > times, SOON), agent.log()
    until(lambda: not list(differences(before, world.snapshot())), SOON)
    same(before, world.snapshot())


def named(world: World, kind: str) -> str:
    """The host's first link of ours of a kind; of veths, that of `web`."""
    links = json.loads(sh(world.host, "ip", "-j", "-d", "link", "show", "type", kind))
    ours = {link["ifname"]: link["ifalias"] for link in links if link.get("ifalias", "").startswith("ductwork:")}
    return next((name for name, mark in ours.items() if world.names["web"] in mark), next(iter(ours)))


@pytest.mark.parametrize("what", list(TOLD))
def test_what_is_told_of(world: World, what: str) -> None:
    with AgentProcess(world, world.write(SITE), "--host", "alpha", "--resync", "3600") as agent:
        damaged(world, agent, "host", TOLD[what])


@pytest.mark.parametrize("what", list(UNTOLD))
def test_what_nobody_tells_of(world: World, what: str) -> None:
    """Inside a container nothing of ours listens, which would keep its namespace alive; of most parameters the kernel says
    nothing."""
    place, damage = UNTOLD[what]
    with AgentProcess(world, world.write(SITE), "--host", "alpha", "--resync", RESYNC) as agent:
        damaged(world, agent, place, damage)


@pytest.fixture
def ovs(world: World) -> Iterator[OvsHost]:
    with ExitStack() as running:
        short = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="dwd-")))
        yield running.enter_context(OvsHost(world.host, short))


@pytest.mark.parametrize("damage", ["del-port", "del-br", "del-flows", "tag", "deaf"])
def test_on_open_vswitch(world: World, ovs: OvsHost, damage: str) -> None:
    """Of its flows nobody tells."""
    text = "networks: {sw: {driver: ovs, datapath: netdev, subnet: 10.3.3.0/24}}\nattachments:\n"
    text += "".join(f'  - {{container: "netns:<{name}>", network: sw}}\n' for name in ("web", "db"))
    resync = RESYNC if damage == "del-flows" else "3600"
    with AgentProcess(world, world.write(text), "--resync", resync, env=ovs.environment) as agent:

        def looks() -> dict[str, object]:
            ports = ovs.vsctl("list-ports", "ovs0").split() if "ovs0" in ovs.vsctl("list-br") else []
            flows = ovs.ofctl("--names", "--no-stats", "dump-flows", "ovs0").splitlines() if ports else []
            tags = [ovs.vsctl("get", "port", port, "tag") for port in ports]
            host = world.snapshot()["host"]
            links = [link for link in host["links"] if link["ifname"] != "ovs-netdev"]  # the switch's own, with a new MAC
            return {"ports": sorted(ports), "flows": sorted(flows), "tags": tags, "nft": host["nft"], "links": links}

        assert until(lambda: at_rest(agent)), agent.log()
        before, times = looks(), len(agent.said("mended"))
        port = next(port for port in ovs.vsctl("list-ports", "ovs0").split() if port.startswith("dw"))
        if damage == "deaf":
            sh(world.host, "nft", "delete", "table", "netdev", "ductwork")
        elif damage == "del-flows":
            ovs.ofctl("del-flows", "ovs0", f"in_port={port}")
        elif damage == "tag":
            ovs.vsctl("set", "port", port, "tag=9")
        else:
            ovs.vsctl(damage, port if damage == "del-port" else "ovs0")
        assert until(lambda: len(agent.said("mended")) > times, SOON), agent.log()
        until(lambda: looks() == before, SOON)
        same(before, looks())
        assert world.ping(
            "web", sh(world.names["db"], "ip", "-br", "-4", "address", "show", "dev", "eth1").split()[2].split("/")[0]
        )
