"""`plan --format commands`, run by `sh`, leaves the same kernel state behind as `apply`.

Each comparison lives several lives: the same host and containers, made anew in between, once changed by the commands and
once by the engine.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from conftest import inside, ping, run, sh, until
from example_files import EXAMPLES, skip_where_it_cannot_run
from host import World, cookie, same, snapshot

from ductwork.engine import Engine
from ductwork.front.changes import as_commands, changes_of
from ductwork.reconciler import Preview
from ductwork.resources import Operation, Owner
from ductwork.site.load import load_text

pytestmark = pytest.mark.netns


@dataclass
class Stage:
    """A host with a NIC `eth0`, its underlay addresses on it, and containers; `eth0`: those that a runtime has given an
    interface and default routes of their own."""

    world: World
    underlay: tuple[str, ...] = ()
    eth0: tuple[str, ...] = ()
    life: int = field(default=0, init=False)

    def anew(self) -> None:
        """Another life: same names, nothing else left."""
        names = [self.world.host, *self.world.names.values()]
        for name in names if self.life else ():
            run("ip", "netns", "del", name)
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "dev", "lo", "up")
        self.life += 1
        self.world.directory = self.world.directory.parent / f"life-{self.life}"
        _nic(
            self.world.host, "02:aa:00:00:00:01", ("192.0.2.1/24", "2001:db8::1/64", *self.underlay), "192.0.2.2", "2001:db8::2"
        )
        for name in self.eth0:
            addresses = ("172.31.0.2/24", "fd00:31::2/64")
            _nic(self.world.names[name], "02:aa:00:00:00:02", addresses, "172.31.0.1", "fd00:31::1")

    def plan(self, text: str, host: str) -> list[str]:
        return self._commands(lambda engine: engine.plan(self.world.site(text), host))

    def plan_destroy(self) -> list[str]:
        return self._commands(lambda engine: engine.plan_destroy("office"))

    def _commands(self, think: Callable[[Engine], Preview]) -> list[str]:
        def work(engine: Engine) -> tuple[list[str], list[str]]:
            preview = think(engine)
            changes = changes_of(preview.plan.operations, engine.place)
            listed = [line for change in changes for line in change.commands]
            return list(as_commands(preview.plan.operations, engine.place)), listed

        lines, listed = self.world.engine(work)
        assert lines == listed, "what --json tells and what --format commands prints"
        return lines

    def left_to_do(self, text: str, host: str) -> tuple[Operation, ...]:
        return self.world.engine(lambda engine: engine.plan(self.world.site(text), host).plan.operations)

    def type(self, lines: list[str]) -> None:
        """As somebody does who pipes the plan into a shell."""
        argv = ["ip", "netns", "exec", self.world.host, "sh", "-e"]
        done = subprocess.run(argv, input="\n".join(lines) + "\n", capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr, done.stdout) == (0, "", ""), (done, "\n".join(lines))

    def state(self) -> dict[str, Any]:
        places = {"host": self.world.host, **self.world.names}
        cookies = {name: cookie(name) for name in self.world.names.values()}
        return {short: _unmarked({**snapshot(name), **inside(name, _more)}, cookies) for short, name in places.items()}


def _nic(ns: str, mac: str, addresses: tuple[str, ...], via4: str, via6: str) -> None:
    """A veth pair with both ends here: a NIC with a carrier, and the same one in each life."""
    peer = ("name", "wire", "address", mac.replace("aa", "bb"))
    sh(ns, "ip", "link", "add", "name", "eth0", "address", mac, "type", "veth", "peer", *peer)
    for name in ("wire", "eth0"):
        sh(ns, "ip", "link", "set", "dev", name, "up")
    for address in addresses:
        sh(ns, "ip", "address", "add", address, "dev", "eth0", *(["nodad"] if ":" in address else []))
    sh(ns, "ip", "route", "add", "default", "via", via4)
    sh(ns, "ip", "-6", "route", "add", "default", "via", via6)


def _more() -> dict[str, Any]:
    """What `snapshot` does not tell: the order of addresses, which decides over source addresses, and what iptables has."""
    links = json.loads(run("ip", "-d", "-j", "address"))
    return {
        "order": {
            link["ifname"]: [entry["local"] for entry in link["addr_info"] if entry["scope"] != "link"] for link in links
        },
        "iptables": [_saved(program) for program in ("iptables-save", "ip6tables-save")],
    }


def _saved(program: str) -> list[str]:
    """Without the comments, which have the time in them, and the counters of chains."""
    return [re.sub(r" \[\d+:\d+\]$", "", line) for line in run(program).splitlines() if not line.startswith("#")]


def _unmarked(state: dict[str, Any], cookies: dict[str, int]) -> dict[str, Any]:
    """Two marks are left out: the cookie in an alias, another one in each life, which is checked here; and the protocol of
    an address (IFA_PROTO), which iproute2 can set from 6.3 on."""
    for link in (*state["links"], *state["addresses"]):
        owner = Owner.from_alias(link.get("ifalias", ""), link["ifname"], link.get("linkinfo", {}).get("info_kind", ""))
        if owner:
            assert owner.cookie == cookies.get(owner.container.partition(":")[2], 0)
            link["ifalias"] = owner._replace(cookie=0)
        link["flags"] = sorted(set(link["flags"]) - {"LOWER_UP", "NO-CARRIER"})  # noticed some time later
        for address in link.get("addr_info", ()):
            address.pop("protocol", None)
    for kind in ("links", "addresses"):
        state[kind].sort(key=lambda link: link["ifname"])
    return state


def compare(stage: Stage, host: str, text: str) -> None:
    """A file for the first time; then all of it destroyed, which only what was applied can be wholly: a command writes no
    journal."""
    stage.anew()
    untouched = stage.state()
    stage.type(stage.plan(text, host))
    typed = stage.state()
    assert not stage.left_to_do(text, host), "what was typed is not what was planned"
    stage.anew()
    stage.world.apply(text, host=host)
    same(stage.state(), typed)
    stage.type(stage.plan_destroy())
    same(stage.state(), untouched)


def compare_change(stage: Stage, host: str, text: str, changed: str) -> None:
    """From one file to the other and back, by hand, against the same by apply."""
    stage.anew()
    stage.world.apply(text, host=host)
    first = stage.state()
    lines = stage.plan(changed, host)
    assert lines, "the second file changes nothing"
    stage.type(lines)
    typed = stage.state()
    stage.anew()
    stage.world.apply(text, host=host)
    stage.world.apply(changed, host=host)
    same(stage.state(), typed)
    stage.type(stage.plan(text, host))
    same(stage.state(), first)


@pytest.fixture
def stage(netns: Callable[[str], str], tmp_path: Path) -> Stage:
    return Stage(World(netns, tmp_path / "life-0", netns("host")))


def _examples() -> Iterator[Any]:
    """Those on Open vSwitch are typed in test_ovs.py, where one runs."""
    for path in EXAMPLES:
        if "driver: ovs" in path.read_text():
            continue
        for host in load_text(path.read_text(), path.name).hosts or [""]:
            yield pytest.param(path, host, id=f"{path.stem}-{host}".rstrip("-"))


@pytest.mark.parametrize(("path", "host"), list(_examples()))
def test_examples(stage: Stage, path: Path, host: str) -> None:
    """Namespaces stand for the containers of every runtime."""
    skip_where_it_cannot_run(path.stem)
    text = re.sub(r'"(?:netns|docker):([\w-]+)', r'"netns:<\1>', path.read_text())
    site = load_text(path.read_text(), path.name)
    for attachment in site.on(host):
        name = attachment.container.partition(":")[2]
        if name not in stage.world.names:
            stage.world.container(name)
    address = site.hosts[host].address if host else None
    stage.underlay = (str(address),) if address else ()
    compare(stage, host, text)


SITE = """
hosts:
  alpha: {address: 10.99.0.1/24}
  beta: {address: 10.99.0.2/24}
networks:
  lan:
    driver: bridge
    subnets: [10.1.1.0/24, "fd00:1::/64"]
  pods:
    driver: vxlan
    vni: 42
    subnets: [10.1.2.0/24, "fd00:2::/64"]
    gateways: [10.1.2.1, "fd00:2::1"]
    host_addresses: {alpha: [10.1.2.251, "fd00:2::251"], beta: [10.1.2.252, "fd00:2::252"]}
attachments:
  - {container: "netns:<web>", host: alpha, network: lan, address: [10.1.1.2, "fd00:1::2"]}
  - container: "netns:<db>"
    host: alpha
    network: pods
    address: [10.1.2.2, "fd00:2::2"]
    routes: [{to: 10.7.0.0/16, via: 10.1.2.9}]
  - {container: "netns:far", host: beta, network: pods, address: [10.1.2.3, "fd00:2::3"], mac: "02:00:00:00:00:03"}
"""

ROUTE = "routes: [{to: 10.7.0.0/16, via: 10.1.2.9}]"
WEB = '  - {container: "netns:<web>", host: alpha, network: lan, address: [10.1.1.2, "fd00:1::2"]}\n'

CHANGES = {
    "addresses": {
        '[10.1.1.2, "fd00:1::2"]': '[10.1.1.7, "fd00:1::7"]',
        "gateways: [10.1.2.1, ": "gateways: [10.1.2.5, ",
        '"fd00:2::3"], mac: "02:00:00:00:00:03"': '"fd00:2::4"], mac: "02:00:00:00:00:04"',
        ROUTE: "routes: [{to: 10.7.0.0/16, via: 10.1.2.8}, {to: 10.8.0.0/16, via: 10.1.2.9}]",
    },
    "fewer": {'[10.1.1.2, "fd00:1::2"]': "10.1.1.2", 'alpha: [10.1.2.251, "fd00:2::251"]': "alpha: [10.1.2.253]"},
    "links": {'"fd00:1::2"]}': '"fd00:1::2"], mac: "02:00:00:00:00:99"}', "vni: 42": "vni: 43"},
    "mtu": {'"fd00:1::/64"]': '"fd00:1::/64"]\n    mtu: 1400', "vni: 42": "vni: 42\n    mtu: 1300"},
    "nat": {'"fd00:1::/64"]': '"fd00:1::/64"]\n    nat: none', "vni: 42": "vni: 42\n    nat: {snat: 192.0.2.1}"},
    "peer": {
        "beta: {address: 10.99.0.2/24}": "beta: {address: 10.99.0.9/24}",
        '"fd00:1::/64"]': '"fd00:1::/64"]\n    internal: true',
    },
    "subnet": {
        "10.1.1.0/24": "10.1.1.0/25",
        '    host_addresses: {alpha: [10.1.2.251, "fd00:2::251"], beta: [10.1.2.252, "fd00:2::252"]}\n': "",
    },
    "attachment": {WEB: ""},
    "network": {
        '  lan:\n    driver: bridge\n    subnets: [10.1.1.0/24, "fd00:1::/64"]\n': "",
        WEB: "",
    },
}


@pytest.fixture
def pair(stage: Stage) -> Stage:
    stage.underlay = ("10.99.0.1/24",)
    stage.world.container("web")
    stage.world.container("db")
    return stage


@pytest.mark.parametrize("change", CHANGES)
def test_changes(pair: Stage, change: str) -> None:
    changed = SITE
    for old, new in CHANGES[change].items():
        assert old in changed
        changed = changed.replace(old, new)
    compare_change(pair, "alpha", SITE, changed)


def test_the_last_network_goes(pair: Stage) -> None:
    """The tables go too."""
    compare_change(pair, "alpha", SITE, "hosts: {alpha: {address: 10.99.0.1/24}}\n")


def test_over_ipv6(pair: Stage) -> None:
    pair.underlay = ("fd00:99::1/64",)
    compare(pair, "alpha", SITE.replace("10.99.0.1/24", '"fd00:99::1/64"').replace("10.99.0.2/24", '"fd00:99::2/64"'))


PLAIN = """
networks: {lan: {driver: bridge, subnets: [10.1.1.0/24, "fd00:1::/64"]}}
attachments:
  - {container: "netns:<web>", network: lan, address: [10.1.1.2, "fd00:1::2"]}
"""

PARKED = """
networks: {lan: {driver: bridge, subnets: [10.1.1.0/24, "fd00:1::/64"]}}
attachments:
  - {container: "netns:<web>", network: lan, address: [10.1.1.2, "fd00:1::2"], gateway: true}
"""


def test_parked_default_route(stage: Stage) -> None:
    stage.eth0 = (stage.world.container("web") and "web",)
    compare(stage, "", PARKED)
    compare_change(stage, "", PARKED, PARKED.replace("gateway: true", "gateway: false"))


NAMES = ["dev", "n", "m", "type", "ip", "-", "--help", "10.1.1.1", "0x1", "a=b", "$a", "é{"]
"""Words of `ip` and `nft`, numbers, and what else the site file lets a link be called."""


PORTS = """
ports:
  - {host: alpha, listen: 8088, to: "netns:<web>:80"}
  - {host: alpha, listen: 9000-9003, to: "netns:<db>:9000-9003", protocol: udp}
  - {host: alpha, listen: "192.0.2.1:53", to: "netns:<db>:53", protocol: udp}
  - {host: alpha, listen: "[2001:db8::1]:53", to: "netns:<db>:53", protocol: sctp}
"""


def test_ports(pair: Stage) -> None:
    compare(pair, "alpha", SITE + PORTS)
    compare_change(pair, "alpha", SITE, SITE + PORTS)
    moved = PORTS.replace("<web>:80", "<db>:81").replace("9000-9003, to", "9001-9004, to")
    compare_change(pair, "alpha", SITE + PORTS, SITE + moved)


def test_links_named_like_words(pair: Stage) -> None:
    """In the container and on the host."""
    networks, attachments = "networks:\n", "attachments:\n"
    for number, name in enumerate(NAMES):
        networks += (
            f"  net{number}: {{driver: bridge, bridge: '{name}', subnets: [10.{number}.0.0/24, 'fd00:{number}::/64']}}\n"
        )
        addresses = (
            f"address: [10.{number}.0.2, 'fd00:{number}::2'], routes: [{{to: 10.99.{number}.0/24, via: 10.{number}.0.9}}]"
        )
        attachments += f"  - {{container: 'netns:<web>', network: net{number}, interface: '{name}', {addresses}}}\n"
    text = networks + attachments
    compare(pair, "", text)
    pair.type(pair.plan(text, ""))
    changed = text.replace("0.2,", "0.3,").replace(", subnets", ", mtu: 1400, subnets")
    pair.type(pair.plan(changed, ""))
    assert not pair.left_to_do(changed, "")


def test_the_command_line_prints_them(pair: Stage) -> None:
    pair.anew()
    pair.world.directory.mkdir()
    path = pair.world.write(SITE)
    printed = pair.world.cli("plan", path, "--format", "commands").out
    told = json.loads(pair.world.cli("plan", path, "--json").out)
    assert printed == "".join(f"{line}\n" for change in told["changes"] for line in change["commands"])
    pair.type(printed.splitlines())
    assert not pair.left_to_do(SITE, "alpha")


def test_an_attachment_with_a_smaller_mtu(pair: Stage) -> None:
    """The bridge keeps its own."""
    smaller = SITE.replace(ROUTE, "mtu: 1290")
    compare(pair, "alpha", smaller)
    compare_change(pair, "alpha", SITE, smaller)


@pytest.mark.parametrize("name", ["20471100", "-n"])
def test_containers_named_like_numbers_and_options(stage: Stage, name: str) -> None:
    """A number is more than any process has: it must not be taken for one."""
    run("ip", "netns", "add", name)
    try:
        run("ip", "-n", name, "link", "set", "dev", "lo", "up")
        stage.world.names["web"] = name
        compare(stage, "", PLAIN)
    finally:
        run("ip", "netns", "del", name)


def test_a_process(stage: Stage) -> None:
    """Its namespace has no name."""
    web = stage.world.container("web")
    stage.anew()
    process = subprocess.Popen(["ip", "netns", "exec", web, "sleep", "60"])
    try:
        text = PLAIN.replace("netns:<web>", f"pid:{process.pid}")
        assert until(lambda: bool(stage.plan(text, "")))
        stage.type(stage.plan(text, ""))
        assert not stage.left_to_do(text, "")
        assert ping(web, "10.1.1.1")
    finally:
        process.kill()
        process.wait()
