"""The lab on a kernel that has all a file can ask for: VLANs on each kind of network, ipvlan, Open vSwitch's data path."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.netns

EXAMPLES = Path(__file__).parents[2] / "examples"
LAN = "subnet: 192.168.1.0/24, gateway: 192.168.1.254"
VLANS = f"""
hosts: {{alpha: {{address: 10.99.0.1/24}}, beta: {{address: 10.99.0.2/24}}}}
networks:
  b100: {{driver: bridge, bridge: br0, uplink: eth0, vlan: 100, {LAN}, host_addresses: {{beta: 192.168.1.250}}}}
  b200: {{driver: bridge, bridge: br0, uplink: eth0, vlan: 200, {LAN}}}
  o100: {{driver: ovs, uplink: eth1, vlan: 100, {LAN}}}
  o200: {{driver: ovs, uplink: eth1, vlan: 200, {LAN}}}
attachments:
  - {{container: b1, host: alpha, network: b100, address: 192.168.1.1}}
  - {{container: b2, host: beta, network: b100, address: 192.168.1.2}}
  - {{container: b3, host: beta, network: b200, address: 192.168.1.3}}
  - {{container: o1, host: alpha, network: o100, address: 192.168.1.11}}
  - {{container: o2, host: beta, network: o100, address: 192.168.1.12}}
  - {{container: o3, host: beta, network: o200, address: 192.168.1.13}}
"""
IPVLAN = """
hosts: {alpha: {address: 10.99.0.1/24}, beta: {address: 10.99.0.2/24}}
networks:
  l2: {driver: ipvlan, parent: eth1, vlan: 7, subnets: [10.7.0.0/24, "fd00:7::/64"], gateways: [10.7.0.254, "fd00:7::fe"]}
  l3: {driver: ipvlan, parent: eth0, mode: l3, subnet: 10.8.0.0/24}
  l3s: {driver: ipvlan, parent: eth0, mode: l3s, subnet: 10.9.0.0/24, host_access: 10.9.0.250}
attachments:
  - {container: a, host: alpha, network: l2, address: [10.7.0.1, "fd00:7::1"]}
  - {container: b, host: beta, network: l2, address: [10.7.0.2, "fd00:7::2"]}
  - {container: c, host: alpha, network: l3, address: 10.8.0.1}
  - {container: d, host: alpha, network: l3, address: 10.8.0.2}
  - {container: e, host: beta, network: l3s, address: 10.9.0.1}
  - {container: f, host: beta, network: l3s, address: 10.9.0.2}
"""


def reached(text: str, tmp_path: Path) -> dict[tuple[str, str], bool]:
    """(from, address) → whether it was; all as it should be."""
    path = tmp_path / "vlans.yaml"
    path.write_text(text)
    argv = [str(Path(sys.executable).with_name("ductwork")), "lab", "test", str(path), "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    assert "note:" not in done.stderr
    pairs = json.loads(done.stdout)["pairs"]
    assert [pair for pair in pairs if pair["expected"] != pair["actual"]] == []
    assert done.returncode == 0
    assert not list(Path("/run/netns").glob("lab-vlans-*"))
    return {(pair["from"], pair["address"]): pair["actual"] for pair in pairs}


def test_vlans_on_both_kinds_of_bridge(tmp_path: Path) -> None:
    found = reached(VLANS, tmp_path)
    assert found["b1", "192.168.1.2"] and not found["b1", "192.168.1.3"]
    assert found["o1", "192.168.1.12"] and not found["o1", "192.168.1.13"]
    assert all(found["outside", f"192.168.1.{n}"] for n in (1, 2, 3, 11, 12, 13))
    assert found["lan-b100", "192.168.1.1"] and found["lan-o200", "192.168.1.13"]
    assert found["beta", "192.168.1.1"] and not found["alpha", "192.168.1.1"]


def test_ipvlan(tmp_path: Path) -> None:
    found = reached(IPVLAN, tmp_path)
    assert found["a", "10.7.0.2"] and found["a", "203.0.113.10"] and found["lan-l2", "fd00:7::1"]
    assert found["c", "10.8.0.2"] and found["outside", "10.8.0.1"] and found["c", "203.0.113.10"]
    assert found["e", "10.9.0.250"] and found["outside", "10.9.0.1"]


@pytest.mark.parametrize("name", ["d4-router"])
def test_examples(name: str, tmp_path: Path) -> None:
    assert True in reached((EXAMPLES / f"{name}.yaml").read_text(), tmp_path).values()
