"""Random site files, and random hosts to apply them on.

Invariant: all files are drawn from the same few names, so that two of them have much in common; what `alpha` is asked for
can be done, so that every difference is ductwork's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

from fake_host import FakeHost
from hypothesis import reject
from hypothesis import strategies as st

from ductwork.errors import SiteError
from ductwork.resources import HOST, Address, Link
from ductwork.site.load import load_text
from ductwork.site.model import Site

CONTAINERS = ("netns:web", "netns:db", "netns:m")
NETWORKS = ("pods", "lan", "dmz")
OTHER_NETWORKS = ("home", "iot")
NUMBERS = {name: number for number, name in enumerate(NETWORKS + OTHER_NETWORKS, 1)}
HOSTS = {name: {"address": f"10.99.0.{number}/24"} for number, name in enumerate(("alpha", "beta", "gamma"), 1)}


@dataclass(frozen=True)
class World:
    """What is on a host before ductwork comes. `docker`: container → the IP versions of its foreign default routes."""

    running: tuple[str, ...]
    docker: dict[str, tuple[int, ...]]
    forwards: bool
    has_own_bridge: bool

    def build(self) -> FakeHost:
        host = FakeHost()
        host.plug_in_nic()
        for number, container in enumerate(self.running):
            if container in self.docker:
                host.start_as_docker(container, number, self.docker[container])
            else:
                host.kernel.start(container)
        if self.has_own_bridge:
            host.foreign(Link(HOST, "br-lan", "bridge", "52:54:00:00:00:02", 1500))
            host.foreign(Address(HOST, "br-lan", ip_address("192.168.7.1"), 24))
        if self.forwards:
            host.sysctl("net/ipv4/conf/eth0/forwarding", "1")
            host.sysctl("net/ipv6/conf/all/forwarding", "1")
        return host


worlds = st.builds(
    World,
    running=st.lists(st.sampled_from(CONTAINERS), unique=True, min_size=1).map(tuple),
    docker=st.dictionaries(st.sampled_from(CONTAINERS), st.sampled_from([(4,), (4, 6)])),
    forwards=st.booleans(),
    has_own_bridge=st.booleans(),
)


@st.composite
def networks(draw: st.DrawFn, number: int, with_hosts: bool) -> dict[str, Any]:
    """One network of the file; its subnets follow from its number, so that none overlap."""
    subnets = draw(st.sampled_from([(4,), (4, 6), (6,), ()]))
    vxlan = with_hosts and draw(st.booleans())
    network: dict[str, Any] = {"driver": "vxlan", "vni": number} if vxlan else {"driver": "bridge"}
    network["subnets"] = [f"10.{number}.0.0/24" if version == 4 else f"fd00:{number}::/64" for version in subnets]
    if subnets and draw(st.booleans()):
        if draw(st.booleans()):
            network["internal"] = True
        else:
            network["nat"] = draw(st.sampled_from(["masquerade", "none", {"snat": "10.99.0.1"}] if 4 in subnets else ["none"]))
    if 4 in subnets and "internal" not in network and draw(st.booleans()):
        network["gateways"] = [f"10.{number}.0.{draw(st.sampled_from([1, 254]))}"]
    if subnets and with_hosts and draw(st.booleans()):
        network["host_addresses"] = {"alpha": f"10.{number}.0.251" if 4 in subnets else f"fd00:{number}::251"}
    large = [] if network["driver"] == "vxlan" else [9000]  # it would not fit through the underlay
    mtu = draw(st.sampled_from([None, 1400, *large] + ([] if 6 in subnets else [1000])))
    if mtu:
        network["mtu"] = mtu
    if draw(st.booleans()):
        network["isolated"] = draw(st.booleans())
    if with_hosts and draw(st.booleans()):
        network["hosts"] = draw(st.lists(st.sampled_from(sorted(HOSTS)), unique=True))
    return network


@st.composite
def attachments(draw: st.DrawFn, network: dict[str, Any], name: str, place: int, with_hosts: bool) -> dict[str, Any]:
    """One container in one network; `place` makes its written addresses its own."""
    number = NUMBERS[name]
    plug: dict[str, Any] = {"container": draw(st.sampled_from(CONTAINERS)), "network": name}
    if with_hosts:
        plug["host"] = draw(st.sampled_from(["alpha", "alpha", "beta"]))
    written = [f"10.{number}.0.{10 + place}" if "." in s else f"fd00:{number}::{10 + place}" for s in network["subnets"]]
    if written and (with_hosts or draw(st.booleans())):
        plug["address"] = written
    if draw(st.booleans()):
        plug["interface"] = draw(st.sampled_from(["eth1", "eth2", "n", "dev"]))
    if not network.get("internal") and network["subnets"] and draw(st.booleans()):
        plug["gateway"] = draw(st.booleans())
    if any("." in s for s in network["subnets"]) and draw(st.booleans()):
        plug["routes"] = [{"to": f"10.20{place}.0.0/16", "via": f"10.{number}.0.{draw(st.sampled_from([200, 201]))}"}]
    if draw(st.booleans()):
        plug["mac"] = f"02:00:00:00:00:{draw(st.integers(1, 3))}{place}"
    if draw(st.booleans()):
        plug["mtu"] = draw(st.sampled_from([1300, 1500]))
    if draw(st.booleans()):
        plug["spoofing"] = draw(st.sampled_from(["allow", "deny"]))
    if draw(st.booleans()):
        limits = draw(st.lists(st.sampled_from(["ingress", "egress"]), unique=True, min_size=1))
        plug["rate"] = {limit: draw(st.sampled_from(["64kbit", "100mbit"])) for limit in limits}
    return plug


@st.composite
def routers(draw: st.DrawFn, networks: dict[str, Any], plugs: list[dict[str, Any]], with_hosts: bool) -> dict[str, Any]:
    """A host that routes between two networks or more; none where there are no such. A leg may be the network's gateway."""
    elsewhere = {plug["network"] for plug in plugs if plug.get("host", "alpha") != "alpha"}
    elsewhere |= {name for name, network in networks.items() if {*network.get("hosts", ())} - {"alpha"}}
    legs: dict[str, list[str]] = {}
    for name, network in networks.items():
        one_host = network["driver"] == "vxlan" or name not in elsewhere
        if network["subnets"] and not network.get("internal") and one_host and draw(st.booleans()):
            last = draw(st.sampled_from([1, 253]))
            legs[name] = [
                f"10.{NUMBERS[name]}.0.{last}" if "." in s else f"fd00:{NUMBERS[name]}::{last}" for s in network["subnets"]
            ]
    if len(legs) < 2:
        return {}
    router: dict[str, Any] = {"name": "gw", "legs": legs, "masquerade": draw(st.booleans())}
    if draw(st.booleans()):
        pairs = [[one, other] for one in legs for other in legs if one != other]
        router["allow"] = draw(st.lists(st.sampled_from(pairs), unique_by=tuple, max_size=3))
    return router | ({"host": "alpha"} if with_hosts else {})


@st.composite
def ports(draw: st.DrawFn, networks: dict[str, Any], plugs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each of some containers has one or a range; no two listen on the same."""
    found: list[dict[str, Any]] = []
    open_to = [plug for plug in plugs if networks[plug["network"]]["subnets"] and not networks[plug["network"]].get("internal")]
    for number, plug in enumerate(draw(st.lists(st.sampled_from(open_to), max_size=3)) if open_to else ()):
        first = 8000 + 10 * number
        four = any("." in subnet for subnet in networks[plug["network"]]["subnets"])
        listen: int | str = draw(
            st.sampled_from([first, f"{first}-{first + 2}", f"127.0.0.1:{first}" if four else f"[::]:{first}"])
        )
        protocol = draw(st.sampled_from(["tcp", "udp", "sctp"]))
        port = {"listen": listen, "to": f"{plug['container']}:80", "network": plug["network"], "protocol": protocol}
        found.append(port | ({"host": plug["host"]} if "host" in plug else {}))
    return found


@st.composite
def documents(draw: st.DrawFn, name: str, choice: tuple[str, ...]) -> dict[str, Any]:
    with_hosts = draw(st.booleans())
    names = draw(st.lists(st.sampled_from(choice), unique=True, min_size=1))
    found = {name: draw(networks(NUMBERS[name], with_hosts)) for name in names}
    plugs = [
        draw(attachments(found[name], name, place, with_hosts))
        for place, name in enumerate(draw(st.lists(st.sampled_from(names), min_size=1, max_size=5)))
    ]
    document: dict[str, Any] = {"name": name, "networks": found, "attachments": plugs, "ports": draw(ports(found, plugs))}
    router = draw(routers(found, plugs, with_hosts))
    document |= {"routers": [router]} if router else {}
    return document | ({"hosts": HOSTS} if with_hosts else {})


def load(document: dict[str, Any]) -> Site:
    """The file as a person would have written it goes through the loader; what that refuses is another test's."""
    try:
        return load_text(json.dumps(document), "office.yaml", "machine")
    except SiteError:
        reject()


def host_of(site: Site) -> str:
    return "alpha" if site.hosts else ""


sites = documents("office", NETWORKS).map(load)
other_sites = documents("home", OTHER_NETWORKS).map(load)
