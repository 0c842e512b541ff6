"""Every file of `broken_sites/` is refused for the reasons, and at the places, that its first lines tell."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from ductwork.errors import SiteError
from ductwork.naming import host_ifname
from ductwork.site.checks import CHECKS
from ductwork.site.load import load_site, load_text

FILES = sorted((Path(__file__).parent / "broken_sites").glob("*.yaml"))

EXPECTED = re.compile(r"# expect: (\d+):(\d+) (.*)")


def test_there_are_many() -> None:
    assert len(FILES) > 150


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_broken_site(file: Path) -> None:
    with pytest.raises(SiteError) as caught:
        load_site(file, "machine")
    expected = [EXPECTED.match(line) for line in file.read_bytes().decode(errors="replace").splitlines()]
    wanted = [(int(m[1]), int(m[2]), m[3].strip()) for m in expected if m]
    found = [(p.line, p.column, p.message) for p in caught.value.problems]
    assert len(found) == len(wanted), found
    for (line, column, fragment), (*place, message) in zip(sorted(wanted), found, strict=True):
        assert place == [line, column] and fragment in message, found
    assert all(p.hint for p in caught.value.problems)
    assert caught.value.exit_code == 2


def problems_of(text: str) -> list[str]:
    with pytest.raises(SiteError) as caught:
        load_text(text)
    return [f"{p.message} | {p.hint}" for p in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("networks: {a: {driver: brigde}}", "did you mean `bridge`? drivers: bridge, "),
        ("networks: {a: {driver: bridge, subent: x}}", "did you mean `subnet`?"),
        ("networks: {a: {driver: bridge, subnet: 10.1.1.9/24}}", "did you mean `10.1.1.0/24`?"),
        ("hosts: {alpha: {adress: 10.1.1.1}}", "did you mean `address`?"),
        ("hosts: {alpha: }\nattachments: [{container: a, host: alfa, network: a}]", "did you mean `alpha`?"),
        ("networks: {pods: {driver: bridge}}\nattachments: [{container: a, network: pod}]", "did you mean `pods`?"),
        ("atachments: []", "did you mean `attachments`?"),
        ("labels: [nope]", "add it below `networks:`: `nope:`"),
        ("routers: [{name: r, legs: {nope: 10.1.1.1, b: 10.1.2.1}}]", "add it below `networks:`: `nope:`"),
        ("attachments: [{container: dokcer:a, network: a}]", "did you mean `docker`?"),
    ],
)
def test_what_was_meant(text: str, advice: str) -> None:
    assert any(advice in problem for problem in problems_of(text))


@pytest.mark.parametrize(
    ("networks", "most"),
    [
        ("{a: {driver: bridge}}", 1023),
        ("{a: {driver: vxlan, vni: 4}}", 1022),
        ("{a: {driver: bridge, uplink: eth1}}", 1022),
        ("{a: {driver: bridge, bridge: br0, uplink: eth1}, b: {driver: bridge, bridge: br0, uplink: eth1, vlan: 7}}", 1022),
    ],
)
def test_a_bridge_has_1023_ports(networks: str, most: int) -> None:
    head = f"hosts: {{alpha: {{address: 10.99.0.1}}}}\nnetworks: {networks}\nattachments:\n"
    names = "ab" if "b: {" in networks else "a"
    lines = [f"  - {{container: c{n}, host: alpha, network: {names[n % len(names)]}}}\n" for n in range(most + 1)]
    load_text(head + "".join(lines[:-1]))
    with pytest.raises(SiteError) as caught:
        load_text(head + "".join(lines))
    (problem,) = caught.value.problems
    assert "more than 1,023 ports on host `alpha`" in problem.message
    assert (problem.line, problem.column) == (most + 4, 5)


def test_made_names_that_collide(monkeypatch: pytest.MonkeyPatch) -> None:
    assert host_ifname("a", "eth1") != host_ifname("b", "eth1")
    monkeypatch.setattr("ductwork.naming.host_ifname", lambda *_: "dwsame")
    text = "networks: {n: {driver: bridge}}\nattachments: [{container: a, network: n}, {container: b, network: n}]"
    (problem,) = problems_of(text)
    assert "the interface `dwsame` would be made for `eth1` of container `b`" in problem


@pytest.mark.parametrize(
    "text",
    [
        # the same subnet, VNI, interface name and made names on different hosts
        """
hosts: {alpha: {address: 10.99.0.1}, beta: {address: 10.99.0.2}}
networks:
  a: {driver: vxlan, vni: 4, subnet: 10.1.1.0/24, hosts: alpha}
  b: {driver: vxlan, vni: 4, subnet: 10.1.1.0/24, hosts: beta}
attachments:
  - {container: web, host: alpha, network: a, address: 10.1.1.2, mac: "02:00:00:00:00:01"}
  - {container: web, host: beta, network: b, address: 10.1.1.2, mac: "02:00:00:00:00:01"}
""",
        # one range per host
        """
hosts: {alpha: {address: 10.99.0.1}, beta: {address: 10.99.0.2}}
networks:
  a: {driver: vxlan, vni: 4, subnet: 10.1.1.0/24, allocate: {alpha: 10.1.1.0/25, beta: 10.1.1.128/25}}
attachments:
  - {container: web, host: alpha, network: a}
  - {container: web, host: beta, network: a}
""",
        # two tunnels of one VNI at different ports; two networks of layer 2 alone on several hosts
        """
hosts: {alpha: {address: 10.99.0.1}, beta: {address: 10.99.0.2}}
networks:
  a: {driver: vxlan, vni: 4, port: 4789}
  b: {driver: vxlan, vni: 4, port: 4790}
attachments:
  - {container: web, host: alpha, network: a}
  - {container: web, host: alpha, network: b, interface: eth0}
  - {container: web, host: beta, network: b}
""",
        # a /31 and a /127 have neither network nor broadcast address
        """
networks: {a: {driver: bridge, subnets: [10.1.1.0/31, "fd00::/127"]}}
attachments: [{container: web, network: a, address: [10.1.1.1, "fd00::1"]}]
""",
        # as many addresses as are wanted: 8, less network, broadcast, gateway
        "networks: {a: {driver: bridge, subnet: 10.1.1.0/29}}\nattachments:\n"
        + "".join(f"- {{container: c{number}, network: a}}\n" for number in range(5)),
        # one subnet in two VLANs of one LAN, the same address in both; the host's own LAN beyond the NIC; one trunk for both
        """
hosts: {alpha: {address: 192.168.1.1/24}, beta: {address: 192.168.1.2/24}}
networks:
  a: {driver: bridge, bridge: br0, uplink: {alpha: eth1, beta: eth2}, vlan: 100, subnet: &s 192.168.1.0/24, trunk: 100-200}
  b: {driver: bridge, bridge: br0, uplink: {alpha: eth1, beta: eth2}, vlan: 200, subnet: *s, gateway: &g 192.168.1.254}
  lan: {driver: bridge, bridge: br0, uplink: {alpha: eth1, beta: eth2}, subnet: *s, gateway: *g}
attachments:
  - {container: one, host: alpha, network: a, address: 192.168.1.10}
  - {container: two, host: alpha, network: b, address: 192.168.1.10}
  - {container: one, host: beta, network: a, address: 192.168.1.2}
  - {container: two, host: beta, network: lan, address: 192.168.1.9}
  - {container: three, host: alpha, network: lan, address: 192.168.1.3}
""",
        # VLANs of one NIC with all that one parent could not have together; a NIC of the same name on another host
        """
hosts: {alpha: {}, beta: {}}
networks:
  m: {driver: macvlan, parent: eth1, mode: private, hosts: alpha}
  m2: {driver: macvlan, parent: eth1, mode: vepa, hosts: alpha}
  i3: {driver: ipvlan, parent: eth1, vlan: 3, mode: l3, hosts: alpha}
  i2: {driver: ipvlan, parent: eth1, vlan: 2, mode: l2, hosts: alpha}
  p: {driver: macvlan, parent: eth1, vlan: 4, mode: passthru, hosts: alpha}
  u: {driver: bridge, uplink: eth1, hosts: beta}
attachments:
  - {container: a, host: alpha, network: p}
""",
        # networks of one bridge name on two hosts are two bridges
        """
hosts: {alpha: {}, beta: {}}
networks:
  a: {driver: bridge, bridge: br0, uplink: eth1, hosts: alpha}
  b: {driver: bridge, bridge: br0, uplink: eth2, hosts: beta}
""",
        # the same subnet where the host has an address in one of them alone; in the host's own LAN where it has none
        """
hosts: {alpha: {address: 10.1.1.1/24}}
networks:
  a: {driver: bridge, bridge: br1, vlan: 100, subnet: 192.168.1.0/24}
  b: {driver: bridge, bridge: br1, vlan: 200, subnet: 192.168.1.0/24, internal: true}
  c: {driver: bridge, subnet: 10.1.1.0/24, internal: true}
attachments:
  - {container: one, host: alpha, network: a}
  - {container: two, host: alpha, network: b}
  - {container: two, host: alpha, network: c}
""",
        # LAN addresses for all, in one family; addresses that containers make themselves
        """
networks:
  a: {driver: bridge, uplink: eth1, subnets: [10.1.1.0/24, "fd00::/64"], allocate: 10.1.1.4-10.1.1.5, host_addresses: 10.1.1.9}
  b: {driver: ipvlan, parent: eth2, subnet: "fd01::/64", ipv6: slaac}
attachments:
  - {container: one, network: a}
  - {container: two, network: a}
  - {container: one, network: b}
""",
        # a parent has no ports
        "networks: {a: {driver: macvlan, parent: eth1}}\nattachments:\n"
        + "".join(f"- {{container: c{number}, network: a}}\n" for number in range(1100)),
        # VLANs of one subnet on the bridge that networks of Open vSwitch share unless they say otherwise
        """
hosts: {alpha: {}, beta: {}}
networks:
  red: {driver: ovs, uplink: eth1, vlan: 100, subnet: 192.168.1.0/24}
  blue: {driver: ovs, uplink: eth1, vlan: 200, subnet: 192.168.1.0/24}
  plain: {driver: ovs, uplink: eth1}
  one: {driver: ovs, uplink: eth1, vlan: 1}
  apart: {driver: ovs, bridge: ovs1, datapath: netdev, ovsdb: {alpha: "tcp:10.0.0.1:6640"}, hosts: [alpha, beta]}
attachments:
  - {container: one, host: alpha, network: red, address: 192.168.1.1}
  - {container: two, host: alpha, network: blue, address: 192.168.1.1}
  - {container: one, host: beta, network: red, address: 192.168.1.2}
  - {container: one, host: beta, network: plain}
  - {container: one, host: beta, network: one}
""",
        # a range of each host's own in the one family that is asked for; a tunnel out by the NIC that is an uplink
        """
hosts: {alpha: {address: 10.1.1.1/24}, beta: {address: 10.1.1.2/24}}
networks:
  a:
    driver: bridge
    uplink: eth1
    subnets: [10.1.1.0/24, "fd00::/64"]
    allocate: {alpha: 10.1.1.64/26, beta: 10.1.1.128/26}
  t: {driver: vxlan, vni: 7, underlay: eth1, hosts: [alpha, beta]}
attachments:
  - {container: one, host: alpha, network: a}
  - {container: two, host: beta, network: a}
""",
        # lists left empty, and what is not in this version said not to be wanted
        "routers: []\nports: []\nattachments:\nhosts:\nnetworks: {a: {driver: bridge, isolated: false}}",
    ],
)
def test_what_is_right_is_taken(text: str) -> None:
    load_text(text)


def test_every_check_says_what_it_is() -> None:
    assert len({check.__name__ for check in CHECKS}) == len(CHECKS)
