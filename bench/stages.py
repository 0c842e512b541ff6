"""What each driver is measured on: a host whose NIC is wired to a second machine, and a network on it.

Invariant: a kind says what its network is made of once; ductwork's site file and the topology made by hand are built from it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path

from bench import switch
from bench.hosts import PREFIX, inside, run
from bench.peers import GATEWAY, address
from ductwork.app import build_engine, lacking
from ductwork.engine import AttachRequest
from ductwork.site.load import load_site

NETWORK = "bench"
SUBNET = "10.77.0.0/24"
NIC = "eth0"
UNDERLAY = {"alpha": "10.99.0.1", "beta": "10.99.0.2"}
"""The stage's host, and the machine at the other end of its wire."""
VLAN = 100
VNI = 42
_BR_NETFILTER = Path("/proc/sys/net/bridge")
"""Each namespace has its own (Linux 5.3), switched on where the module is loaded: Docker does that."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A driver and how it is used. `on`: the option that names the NIC whose LAN it is on, if any. `needs`: what the kernel
    must have. `across`: its second container is on the machine at the other end. `unfiltered`: br_netfilter, which sends
    bridged packets through the host's IP packet filter, is off on the stage; a difference for traffic alone."""

    key: str
    name: str
    driver: str
    on: str = ""
    vlan: int | None = None
    options: dict[str, object] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    across: bool = False
    unfiltered: bool = False


KINDS = (
    Kind("bridge", "bridge", "bridge"),
    Kind("plain", "bridge, br_netfilter off", "bridge", unfiltered=True),
    Kind("uplink", "bridge, uplink", "bridge", "uplink"),
    Kind("vlan", "bridge, uplink, VLAN", "bridge", "uplink", VLAN, needs=("vlan_filtering", "vlan")),
    Kind("macvlan", "macvlan", "macvlan", "parent", needs=("macvlan",)),
    Kind("macvlan7", "macvlan, VLAN", "macvlan", "parent", VLAN, needs=("macvlan", "vlan")),
    Kind("ipvlan", "ipvlan", "ipvlan", "parent", needs=("ipvlan",)),
    Kind("ovs", "ovs, netdev", "ovs", "uplink", options={"datapath": "netdev"}),
    Kind("vxlan", "vxlan", "vxlan", options={"vni": VNI}, across=True),
)


def possible(told: Callable[[str], None]) -> list[Kind]:
    """The kinds that can be had here; `told` is told of each other one, and why."""
    found = []
    for kind in KINDS:
        if why := _missing(kind):
            told(f"without {kind.name}: {why}")
        else:
            found.append(kind)
    return found


def _missing(kind: Kind) -> str:
    if kind.driver == "ovs" and (why := switch.missing()):
        return why
    if kind.unfiltered and not _BR_NETFILTER.exists():
        return "it is off everywhere: the module is not loaded"
    return next(iter(lacking(kind.needs).values()), "")


class Stage:
    """Two wired machines, `alpha` and `beta`. On a LAN beta is its router; with `across`, the other host. Their namespaces
    are the caller's."""

    def __init__(self, kind: Kind, name: str) -> None:
        self.kind = kind
        self.alpha = PREFIX + name
        self.beta = f"{self.alpha}-beta"
        self.switch = switch.Switch(self.alpha) if kind.driver == "ovs" else None

    def build(self) -> None:
        with inside(self.alpha):
            run("ip", "link", "add", "name", NIC, "type", "veth", "peer", "name", NIC, "netns", self.beta)
        for machine, name in ((self.alpha, "alpha"), (self.beta, "beta")):
            with inside(machine):
                run("ip", "link", "set", "dev", NIC, "addrgenmode", "none", "up")
                run("ip", "address", "add", f"{UNDERLAY[name]}/24", "dev", NIC)
        if self.kind.on:
            with inside(self.beta):
                self._route()
        if self.kind.unfiltered:
            with inside(self.alpha):
                (_BR_NETFILTER / "bridge-nf-call-iptables").write_text("0")
        if self.switch:
            self.switch.start()

    def _route(self) -> None:
        """The LAN's router, which first pings are sent to."""
        if self.kind.vlan:
            run("ip", "link", "add", "link", NIC, "name", "tagged", "up", "type", "vlan", "id", str(self.kind.vlan))
        run("ip", "address", "add", f"{GATEWAY}/24", "dev", "tagged" if self.kind.vlan else NIC)

    def close(self) -> None:
        if self.switch:
            self.switch.stop()

    def site(self) -> str:
        """The site file; containers are attached by hand. (JSON is YAML.)"""
        kind = self.kind
        network = {"driver": kind.driver, "subnet": SUBNET, "gateway": GATEWAY, **kind.options}
        network |= {"hosts": ["alpha", "beta"] if kind.across else ["alpha"]}
        network |= {kind.on: NIC} if kind.on else {}
        network |= {"vlan": kind.vlan} if kind.vlan else {}
        network |= {"ovsdb": self.switch.database} if self.switch else {}
        hosts = {name: {"address": f"{underlay}/24"} for name, underlay in UNDERLAY.items()}
        return json.dumps({"name": "bench", "hosts": hosts, "networks": {NETWORK: network}})


class Ours:
    """One machine of a stage, with ductwork's engine. `folder`: of its own."""

    def __init__(self, stage: Stage, machine: str, folder: Path) -> None:
        self.machine = machine
        file = folder / "bench.yaml"
        file.write_text(stage.site())
        with inside(getattr(stage, machine)):
            self._engine = build_engine(folder / "state")
            self._engine.apply(load_site(file), machine, dad=False)

    def attach(self, container: str, number: int) -> None:
        """In the machine's namespace. Nobody is asked whether he has the address: that is waiting, and not measured."""
        wanted = AttachRequest(f"netns:{container}", NETWORK, "eth1", (ip_address(address(number)),))
        self._engine.attach(wanted, dad=False)

    def close(self) -> None:
        self._engine.close()
