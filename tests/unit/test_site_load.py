"""A site file read: defaults, YAML 1.2, files that cannot be read, and no text at all that gets past `SiteError`."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from ipaddress import IPv4Interface, ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from ductwork import naming
from ductwork.drivers import PerHost, bridge, macvlan, vxlan
from ductwork.drivers.registry import DRIVERS
from ductwork.errors import SiteError
from ductwork.site.load import load_site, load_text
from ductwork.site.model import AddressRange, Attachment, Host, Nat, Network, Rate, Site, StaticRoute
from ductwork.site.schema import json_schema

CONTRACT = """
name: office
hosts:
  alpha: {address: 10.99.0.1/24}
  beta:  {address: 10.99.0.2}
networks:
  pods:
    driver: vxlan
    subnet: 10.1.1.0/24
    gateway: 10.1.1.1
    vni: 42
  lan:
    driver: bridge
    subnets: [10.1.2.0/24, "fd00:2::/64"]
    host_addresses: {alpha: [10.1.2.251, "fd00:2::fb"]}
    nat: {snat: 10.99.0.9}
    allocate: {alpha: [10.1.2.128/25, "fd00:2::1:0/112"], beta: 10.1.2.10-10.1.2.19}
    mtu: 1400
    hosts: [beta]
attachments:
  - container: netns:web
    host: alpha
    network: pods
    interface: eth1
    address: 10.1.1.2
  - {container: netns:web, host: alpha, network: lan, mac: seed:web, mtu: 1300}
  - container: db
    host: beta
    network: pods
    address: [10.1.1.3/24]
    mac: 02:00:00:00:00:0A
    gateway: false
    routes: [{to: 10.7.0.0/16, via: 10.1.1.254}, {to: default, via: 10.1.1.253}, {to: 10.8.0.1, via: 10.1.1.2}]
routers: []
ports: []
"""


def network(text: str, name: str = "n") -> Network:
    return load_text(f"networks: {{{name}: {{{text}}}}}").networks[name]


def attachment(text: str, subnet: str = "10.1.1.0/24", host_name: str = "box") -> Attachment:
    head = f"networks: {{n: {{driver: bridge, subnet: {subnet}}}}}\nattachments: "
    return load_text(f"{head}[{{container: netns:a, network: n, {text}}}]", host_name=host_name).attachments[0]


def test_the_contracts_example() -> None:
    site = load_text(CONTRACT)
    assert site.name == "office"
    assert site.hosts["alpha"] == Host("alpha", ip_interface("10.99.0.1/24"))
    assert site.hosts["beta"] == Host("beta", ip_interface("10.99.0.2/32"))
    assert site.networks["pods"] == Network(
        "pods",
        "vxlan",
        subnets=(ip_network("10.1.1.0/24"),),
        gateways=(ip_address("10.1.1.1"),),
        nat=Nat("masquerade"),
        options=vxlan.Options(vni=42),
    )
    assert site.networks["lan"] == Network(
        "lan",
        "bridge",
        subnets=(ip_network("10.1.2.0/24"), ip_network("fd00:2::/64")),
        gateways=(ip_address("10.1.2.1"), ip_address("fd00:2::1")),
        host_addresses={"alpha": (ip_address("10.1.2.251"), ip_address("fd00:2::fb"))},
        nat=Nat("snat", ip_address("10.99.0.9")),
        mtu_bytes=1400,
        allocate={
            "alpha": (
                AddressRange(ip_address("10.1.2.128"), ip_address("10.1.2.255")),
                AddressRange(ip_address("fd00:2::1:0"), ip_address("fd00:2::1:ffff")),
            ),
            "beta": (AddressRange(ip_address("10.1.2.10"), ip_address("10.1.2.19")),),
        },
        hosts=("beta",),
        options=bridge.Options(),
    )
    first, second, third = site.attachments
    assert first == Attachment(
        "netns:web",
        "alpha",
        "pods",
        "eth1",
        naming.mac_address("alpha", "netns:web", "eth1"),
        addresses=(IPv4Interface("10.1.1.2/24"),),
    )
    assert (second.interface, second.mac, second.mtu_bytes) == ("eth2", naming.mac_address("seed", "web"), 1300)
    assert second.addresses == ()
    assert (third.mac, third.gateway) == ("02:00:00:00:00:0a", False)
    assert third.routes == (
        StaticRoute(ip_network("10.7.0.0/16"), ip_address("10.1.1.254")),
        StaticRoute(ip_network("0.0.0.0/0"), ip_address("10.1.1.253")),
        StaticRoute(ip_network("10.8.0.1/32"), ip_address("10.1.1.2")),
    )
    assert site.hosts_of("pods") == ("alpha", "beta")


def test_gateways_and_nat_by_default() -> None:
    plain = network("driver: bridge, subnets: [10.1.1.0/24, 'fd00::/64', 10.2.0.0/31, 'fd01::/127']")
    assert plain.gateways == tuple(map(ip_address, ("10.1.1.1", "fd00::1", "10.2.0.0", "fd01::")))
    assert plain.nat == Nat("masquerade")
    internal = network("driver: bridge, subnet: 10.1.1.0/24, internal: true")
    assert (internal.gateways, internal.nat) == ((), Nat("none"))
    layer2 = network("driver: bridge")
    assert (layer2.gateways, layer2.nat) == ((), Nat("none"))
    assert network("driver: bridge, subnet: 10.1.1.0/24, nat: none").nat == Nat("none")


def test_a_network_of_somebody_elses() -> None:
    """Nothing is held, translated or handed out where the gateway is another machine."""
    lan = network("driver: bridge, uplink: eth1, subnet: 192.168.1.0/24")
    assert (lan.external, lan.gateways, lan.nat) == (True, (), Nat("none"))
    lan = network("driver: bridge, uplink: eth1, subnet: 192.168.1.0/24, gateway: 192.168.1.254, trunk: [7, 20-22], vlan: 20")
    assert (lan.external, lan.gateways, lan.nat) == (True, (ip_address("192.168.1.254"),), Nat("none"))
    assert isinstance(lan.options, bridge.Options)
    assert (lan.options.uplink, lan.options.trunk, lan.options.vlan) == ({"": "eth1"}, (7, 20, 21, 22), 20)
    lan = network("driver: macvlan, parent: eth1, subnet: 192.168.1.0/24, host_access: 192.168.1.9, isolated: false")
    assert (lan.external, lan.gateways, lan.nat, lan.isolated) == (True, (), Nat("none"), False)
    assert isinstance(lan.options, macvlan.Options)
    assert lan.options.host_access == {"": ip_address("192.168.1.9")}
    own = network("driver: bridge, vlan: 20, subnet: 192.168.1.0/24, isolated: true")
    assert (own.external, own.gateways, own.nat, own.isolated) == (
        False,
        (ip_address("192.168.1.1"),),
        Nat("masquerade"),
        True,
    )


def test_rate_and_spoofing() -> None:
    plain = attachment("")
    assert (plain.rate, plain.spoofing) == (Rate(), "deny")
    limited = attachment("rate: {ingress: 1.5gbit, egress: 800Kbit}, spoofing: allow")
    assert (limited.rate, limited.spoofing) == (Rate(1_500_000_000, 800_000), "allow")
    assert attachment("rate: {egress: 8000bit}").rate == Rate(None, 8000)


def test_a_nic_does_not_make_a_network_exist() -> None:
    hosts = "hosts: {alpha: {}, beta: {}, gamma: {}}\n"
    nets = "networks: {a: {driver: macvlan, subnet: 10.1.1.0/24, %s, hosts: alpha}}"
    site = load_text(hosts + nets % "parent: {alpha: eth1, beta: eth2}, host_access: {alpha: 10.1.1.8, beta: 10.1.1.9}")
    assert site.hosts_of("a") == ("alpha",)


def test_options_with_one_value_or_one_per_host() -> None:
    hosts = "hosts: {alpha: {address: 10.9.0.1}, beta: {address: 10.9.0.2}}\n"
    nets = "networks: {a: {driver: vxlan, vni: 1, underlay: eth7}, b: {driver: vxlan, vni: 2, underlay: {alpha: eth8}}}"
    site = load_text(hosts + nets)
    assert site.networks["a"].options == vxlan.Options(vni=1, underlay=PerHost({"": "eth7"}))
    assert site.networks["b"].options == vxlan.Options(vni=2, underlay=PerHost({"alpha": "eth8"}))


def test_interface_names_go_round_written_ones() -> None:
    plugs = "".join(
        f"- {{container: {container}, network: n{rest}}}\n"
        for container, rest in (("a", ""), ("b", ""), ("a", ", interface: eth2"), ("a", ""), ("a", ", interface: eth0"))
    )
    site = load_text(f"networks: {{n: {{driver: bridge}}}}\nattachments:\n{plugs}")
    assert [a.interface for a in site.attachments] == ["eth1", "eth1", "eth2", "eth3", "eth0"]


def test_mac_without_hosts_comes_from_the_machine() -> None:
    assert attachment("", host_name="box").mac == naming.mac_address("box", "netns:a", "eth1")
    assert attachment("", host_name="box").mac != attachment("", host_name="cox").mac


@pytest.mark.parametrize("written", ["02:00:00:00:00:01", "12:34:56:12:34:56"])
def test_a_mac_of_digits_is_text(written: str) -> None:
    assert attachment(f"mac: {written}").mac == written


def test_yaml_is_1_2() -> None:
    site = load_text("networks: {on: {driver: bridge, mtu: 0o2734}, 10: {driver: bridge}}\nname: yes")
    assert list(site.networks) == ["on", "10"]
    assert (site.name, site.networks["on"].mtu_bytes) == ("yes", 1500)
    assert network("driver: bridge, internal: True, subnet: 10.1.1.0/24").internal
    assert network("driver: !!str bridge, mtu: !!int '1500'").mtu_bytes == 1500
    shared = "networks: {a: &a {driver: bridge}, b: *a}"
    assert [n.driver for n in load_text(shared).networks.values()] == ["bridge", "bridge"]
    for text in ("yes", "12:34", "on", "0b1", "1_000", "1.5", ".inf", "-.INF", ".nan", "0x10", "~", "!!float 3"):
        with pytest.raises(SiteError):
            network(f"driver: bridge, internal: {text}")


@pytest.mark.parametrize(
    ("file_name", "name"),
    [("office.yaml", "office"), ("/etc/My Site.yml", "my-site"), ("ö.yaml", "site"), (f"{'a' * 80}.yaml", "a" * 63)],
)
def test_name_by_default(file_name: str, name: str) -> None:
    assert load_text("networks: {}", file_name).name == name


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_bytes(b"name: a\nx: \xff\n")
    (tmp_path / "utf16.yaml").write_bytes("name: a".encode("utf-16"))
    (tmp_path / "empty.yaml").touch()
    places = {"bad.yaml": (2, 4), "utf16.yaml": (1, 1), "empty.yaml": (1, 1), "missing.yaml": (0, 0), ".": (0, 0)}
    for name, place in places.items():
        with pytest.raises(SiteError) as caught:
            load_site(tmp_path / name)
        (problem,) = caught.value.problems
        assert (problem.line, problem.column) == place
        assert problem.hint
    for odd in (Path("/dev/zero"), Path("a\0b"), Path("/dev/null"), Path("a" * 5000)):
        with pytest.raises(SiteError):
            load_site(odd)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").touch(mode=0)
    with pytest.raises(SiteError, match="1 mistake"):
        load_site(tmp_path / "a.yaml")


def test_a_byte_order_mark_is_no_mistake(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes("\ufeffnetworks: {}".encode())
    assert load_site(tmp_path / "a.yaml") == Site("a")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 200_000,
        "{a: " * 5_000,
        "- " * 100_000,
        "\n".join(" " * depth + "a:" for depth in range(2_000)),
        "a: &a [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1 if n else ''}, *a{n - 1 if n else ''}]\n" for n in range(30)),
        "networks: &a {a: &b {subnet: &c [*a, *b, *c], driver: *a}}",
        "networks: {a: &x [&y [&z [1, 2], *z, *z], *y, *y], b: {driver: *x, subnet: *x, nat: *x, allocate: {*x : 1}}}",
        "name: \ud800",
        "name: \x00",
        "%YAML 9.9\n---\na",
        "%FOO\n---\na",
    ],
)
def test_hostile_text(text: str) -> None:
    with pytest.raises(SiteError):
        load_text(text)


def test_the_pure_python_parser_will_do() -> None:
    """Where PyYAML was built without libyaml."""
    code = "import yaml; del yaml.CSafeLoader; from ductwork.site.load import load_text as l; print(l(open(0).read()))"
    run = subprocess.run([sys.executable, "-c", code], input=CONTRACT, text=True, capture_output=True, check=True)
    assert run.stdout.strip() == str(load_text(CONTRACT))


def test_thousands_of_unknown_names_take_no_longer() -> None:
    nets = "".join(f"  n{n}: {{driver: bridge, subent: x}}\n" for n in range(2000))
    plugs = "".join(f"  - {{container: c{n}, network: m{n}}}\n" for n in range(500))
    started = time.process_time()
    with pytest.raises(SiteError) as caught:
        load_text(f"networks:\n{nets}attachments:\n{plugs}")
    assert len(caught.value.problems) == 2500
    assert time.process_time() - started < 4


def objects(schema: object) -> Iterator[dict[str, Any]]:
    if isinstance(schema, dict):
        if schema.get("type") == "object":
            yield schema
        for value in schema.values():
            yield from objects(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from objects(value)


def test_the_schema_for_editors() -> None:
    schema = json_schema()
    json.dumps(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for found in objects(schema):
        assert found["additionalProperties"] is not True
        for key, value in found.get("properties", {}).items():
            assert value.get("description"), key
            assert not isinstance(value.get("default"), dict), key
    drivers = schema["properties"]["networks"]["patternProperties"]
    (choice,) = drivers.values()
    assert set(choice["discriminator"]["mapping"]) == set(DRIVERS)
    assert schema["$defs"]["VxlanNetwork"]["properties"]["vni"]["maximum"] == 2**24 - 1
    assert schema["$defs"]["VxlanNetwork"]["required"] == ["driver", "vni"]


def thousand(count: int = 1000, networks: int = 1) -> str:
    lines = ["hosts: {alpha: {address: 10.99.0.1/24}, beta: {address: 10.99.0.2/24}}\nnetworks:\n"]
    lines += [f"  n{n}: {{driver: vxlan, subnet: 10.{n + 1}.0.0/16, vni: {n + 1}}}\n" for n in range(networks)]
    lines += ["attachments:\n"]
    for n in range(count):
        where = f"host: {('alpha', 'beta')[n % 2]}\n    network: n{n % networks}"
        address = f"10.{n % networks + 1}.{n // 200}.{n % 200 + 2}"
        lines.append(f"  - container: netns:c{n}\n    {where}\n    interface: eth1\n    address: {address}\n")
    return "".join(lines)


def seconds(text: str) -> float:
    gc.collect()
    started = time.process_time()
    load_text(text)
    return time.process_time() - started


def test_time_grows_with_the_file_and_no_faster() -> None:
    few, many = thousand(1000, 20), thousand(10_000, 20)
    seconds(few)
    assert seconds(few) < 0.25
    assert seconds(many) < 25 * min(seconds(few) for _ in range(3))


def test_problems_by_the_thousand_take_no_longer() -> None:
    started = time.process_time()
    with pytest.raises(SiteError) as caught:
        load_text(thousand().replace("netns:", "nets:"))
    assert len(caught.value.problems) == 1000
    assert time.process_time() - started < 3


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.sampled_from(["10.1.1.1", "eth1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=5,
)


def never_anything_else(text: str) -> None:
    try:
        assert isinstance(load_text(text), Site)
    except SiteError as error:
        assert error.problems
        assert all(p.line > 0 and p.column > 0 and p.message and p.hint for p in error.problems), error.problems


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_changed_characters(data: st.DataObject) -> None:
    text = CONTRACT
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        length = data.draw(st.integers(0, 12))
        new = data.draw(st.text(max_size=4) | st.sampled_from([":", "&a ", "*a", "!", "[", "}", "'", "|", "-", "? ", "\t"]))
        text = text[:start] + new + text[start + length :]
    never_anything_else(text)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_other_values_at_random_places(data: st.DataObject) -> None:
    site = yaml.safe_load(CONTRACT)
    for _ in range(data.draw(st.integers(1, 3))):
        place = site
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            if not keys:
                break
            key = data.draw(st.sampled_from(keys))
            if isinstance(place[key], dict | list) and data.draw(st.integers(0, 3)):
                place = place[key]
                continue
            if isinstance(place, dict) and data.draw(st.booleans()):
                key = data.draw(st.sampled_from(sorted({*map(str, keys), "gateway", "hosts", "nat", "allocate", "routes"})))
            place[key] = data.draw(values)
            break
    never_anything_else(yaml.safe_dump(site, allow_unicode=data.draw(st.booleans())))
