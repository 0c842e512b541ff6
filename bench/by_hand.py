"""The same topologies made with `ip`, `bridge` and `ovs-vsctl`, as a guide has them: no firewall, no anti-spoofing, no NAT.

Invariant: links, MTUs and offloads are those that ductwork makes of the same kind.
"""

from __future__ import annotations

from bench.hosts import inside, run
from bench.peers import address
from bench.stages import NIC, UNDERLAY, VLAN, VNI, Stage

_BRIDGE = "br0"
_VXLAN_MTU = 1450
_FLOOD = "00:00:00:00:00:00"


def build(stage: Stage, containers: tuple[str, str]) -> None:
    """The containers get the addresses number 0 and 1."""
    make = {"bridge": _bridge, "macvlan": _on_parent, "ipvlan": _on_parent, "ovs": _ovs, "vxlan": _vxlan}
    make[stage.kind.driver](stage, containers)
    for number, container in enumerate(containers):
        with inside(container):
            run("ip", "address", "add", f"{address(number)}/24", "dev", "eth1")
            run("ip", "link", "set", "dev", "eth1", "up")


def _bridge(stage: Stage, containers: tuple[str, str]) -> None:
    with inside(stage.alpha):
        filtering = ["vlan_filtering", "1"] if stage.kind.vlan else []
        run("ip", "link", "add", "name", _BRIDGE, "type", "bridge", *filtering)
        run("ip", "link", "set", "dev", _BRIDGE, "up")
        if stage.kind.on:
            run("ip", "address", "flush", "dev", NIC)
            run("ip", "link", "set", "dev", NIC, "master", _BRIDGE)
            run("ip", "address", "add", f"{UNDERLAY['alpha']}/24", "dev", _BRIDGE)
        ports = [_veth(number, container, 1500) for number, container in enumerate(containers)]
        if stage.kind.vlan:
            run("bridge", "vlan", "add", "dev", NIC, "vid", str(VLAN))
            for port in ports:
                run("bridge", "vlan", "del", "dev", port, "vid", "1")
                run("bridge", "vlan", "add", "dev", port, "vid", str(VLAN), "pvid", "untagged")


def _veth(number: int, container: str, mtu_bytes: int, master: str = _BRIDGE) -> str:
    """A container's port; without `master`, of no bridge of the kernel's."""
    name, mtu = f"v{number}", ["mtu", str(mtu_bytes)]
    run("ip", "link", "add", "name", name, *mtu, "type", "veth", "peer", "name", "eth1", *mtu, "netns", container)
    if master:
        run("ip", "link", "set", "dev", name, "master", master)
    run("ip", "link", "set", "dev", name, "up")
    return name


def _on_parent(stage: Stage, containers: tuple[str, str]) -> None:
    kind, parent = stage.kind, NIC
    with inside(stage.alpha):
        if kind.vlan:
            parent = f"{NIC}.{kind.vlan}"
            run("ip", "link", "add", "link", NIC, "name", parent, "up", "type", "vlan", "id", str(kind.vlan))
        if kind.driver == "macvlan":
            run("ip", "link", "set", "dev", parent, "promisc", "on")
        mode = ["mode", "bridge" if kind.driver == "macvlan" else "l2"]
        for container in containers:
            run("ip", "link", "add", "link", parent, "name", "eth1", "netns", container, "type", kind.driver, *mode)


def _ovs(stage: Stage, containers: tuple[str, str]) -> None:
    assert stage.switch
    with inside(stage.alpha):
        stage.switch.vsctl("add-br", _BRIDGE, "--", "set", "Bridge", _BRIDGE, "datapath_type=netdev")
        run("ip", "address", "flush", "dev", NIC)
        stage.switch.vsctl("add-port", _BRIDGE, NIC)
        run("ip", "address", "add", f"{UNDERLAY['alpha']}/24", "dev", _BRIDGE)
        run("ip", "link", "set", "dev", _BRIDGE, "up")
        for number, container in enumerate(containers):
            stage.switch.vsctl("add-port", _BRIDGE, _veth(number, container, 1500, master=""))
    for container in containers:
        with inside(container):
            # a data path in user space makes no checksums: without this, TCP does not get through
            run("ethtool", "-K", "eth1", "tx", "off")


def _vxlan(stage: Stage, containers: tuple[str, str]) -> None:
    ends = ((stage.alpha, "alpha", "beta"), (stage.beta, "beta", "alpha"))
    mtu = ["mtu", str(_VXLAN_MTU)]
    for number, (machine, here, there) in enumerate(ends):
        tunnel = ["type", "vxlan", "id", str(VNI), "dstport", "4789", "local", UNDERLAY[here], "dev", NIC]
        with inside(machine):
            run("ip", "link", "add", "name", _BRIDGE, *mtu, "type", "bridge")
            run("ip", "link", "add", "name", "vx0", *mtu, *tunnel)
            run("bridge", "fdb", "append", _FLOOD, "dev", "vx0", "dst", UNDERLAY[there], "self", "permanent")
            run("ip", "link", "set", "dev", "vx0", "master", _BRIDGE)
            run("ip", "link", "set", "dev", "vx0", "up")
            run("ip", "link", "set", "dev", _BRIDGE, "up")
            _veth(number, containers[number], _VXLAN_MTU)
