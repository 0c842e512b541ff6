"""macvlan through the engine (scenarios A7, D1, D2, D5): containers of two hosts and a machine of the LAN, on one switch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from conftest import inside, ping, sh, until
from host import World, same
from parent_hosts import Hosts, link, settled
from test_crash import moments, nothing

from ductwork.backends.kernel import missing
from ductwork.engine import AttachRequest, Engine
from ductwork.errors import ApplyError, ConflictError, DuctworkError, MissingToolError
from ductwork.publishing import PublishRequest
from ductwork.site.model import Site
from ductwork.site.values import listen, port_target
from talk import REFUSED, ask, served

pytestmark = pytest.mark.netns

HOSTS = """
hosts: {alpha: {address: 192.168.1.10/24}, beta: {address: 192.168.1.11/24}}
"""
SITE = f"""{HOSTS}
networks:
  lan:
    driver: macvlan
    parent: eth0
    subnets: [192.168.1.0/24, "fd00:1::/64"]
    gateway: 192.168.1.9
attachments:
  - {{container: "netns:<web>", host: alpha, network: lan, address: [192.168.1.50, "fd00:1::50"], mac: "02:00:00:00:00:50"}}
  - {{container: "netns:<db>", host: alpha, network: lan, address: [192.168.1.51, "fd00:1::51"]}}
  - {{container: "netns:<far>", host: beta, network: lan, address: [192.168.1.52, "fd00:1::52"]}}
"""
ACCESS = SITE.replace("parent: eth0", "parent: eth0\n    host_access: {alpha: 192.168.1.250, beta: 192.168.1.251}")
ACCESS_V6 = SITE.replace("parent: eth0", "parent: eth0\n    host_access: {alpha: 'fd00:1::250', beta: 'fd00:1::251'}")


@pytest.fixture
def hosts(netns: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hosts:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    return Hosts(netns, tmp_path)


def promiscuous(world: World, device: str = "eth0") -> bool:
    return "PROMISC" in sh(world.host, "ip", "link", "show", "dev", device)


def test_all_on_the_lan_reach_each_other_and_the_host_not_its_own(hosts: Hosts) -> None:
    hosts.settle(SITE)
    for address in ("192.168.1.{}", "fd00:1::{}"):
        for name, numbers in {"web": (51, 52, 9, 11), "far": (50, 51, 9, 10), "other": (50, 51, 52)}.items():
            for number in numbers:
                assert hosts.ping(name, address.format(number)), (name, address.format(number))
        assert not hosts.ping("alpha", address.format(50)) and not hosts.ping("web", address.format(10))
        assert hosts.ping("alpha", address.format(52)), "the other host's it reaches by the LAN"
    web = link(hosts.ns("web"), "eth1")
    assert web["address"] == "02:00:00:00:00:50"
    assert web["linkinfo"]["info_kind"] == "macvlan" and web["linkinfo"]["info_data"]["mode"] == "bridge"
    assert hosts.answers("192.168.1.50") == {"02:00:00:00:00:50"}
    assert sh(hosts.ns("web"), "ip", "route", "show", "default").startswith("default via 192.168.1.9 dev eth1")


def test_destroy_and_undo_leave_what_was_there(hosts: Hosts) -> None:
    before = settled(hosts.alpha)
    for text in (SITE, ACCESS, ACCESS_V6):
        hosts.alpha.settle(text, host="alpha")
        applied = settled(hosts.alpha)
        hosts.alpha.engine(lambda engine: engine.undo())
        same(before, settled(hosts.alpha))
        hosts.alpha.settle(text, host="alpha")
        hosts.alpha.destroy()
        same(before, settled(hosts.alpha))
        hosts.alpha.engine(lambda engine: engine.undo())
        same(applied, settled(hosts.alpha))
        hosts.alpha.destroy()


def test_from_each_to_each_other_in_one_round(hosts: Hosts) -> None:
    """A key that is added, changed or taken away is that of a new file, and nothing of the old one stays."""
    private = SITE.replace("parent: eth0", "parent: eth0\n    mode: private\n    promisc: false\n    mtu: 1400")
    fewer = "\n".join(line for line in SITE.splitlines() if "<db>" not in line)
    texts = [SITE, ACCESS, private, ACCESS_V6, fewer]
    wanted = []
    before = settled(hosts.alpha)
    for text in texts:
        hosts.alpha.settle(text, host="alpha")
        wanted.append(settled(hosts.alpha))
        hosts.alpha.destroy()
    same(before, settled(hosts.alpha))
    for text, alone in zip([*texts, SITE], [*wanted, wanted[0]], strict=True):
        hosts.alpha.settle(text, host="alpha")
        same(alone, settled(hosts.alpha))


def test_promiscuity_is_put_back_only_where_it_was_ours(hosts: Hosts) -> None:
    alpha = hosts.alpha
    alpha.settle(SITE, host="alpha")
    assert promiscuous(alpha)
    alpha.destroy()
    assert not promiscuous(alpha)
    sh(alpha.host, "ip", "link", "set", "dev", "eth0", "promisc", "on")
    alpha.settle(SITE, host="alpha")
    alpha.destroy()
    assert promiscuous(alpha), "it was somebody else's"
    sh(alpha.host, "ip", "link", "set", "dev", "eth0", "promisc", "off")
    alpha.settle(SITE, host="alpha")
    alpha.settle(SITE.replace("parent: eth0", "parent: eth0\n    promisc: false"), host="alpha")
    assert not promiscuous(alpha)


def test_two_sites_need_the_same_nic(hosts: Hosts) -> None:
    """What one of them switched on stays until both are gone."""
    alpha = hosts.alpha
    before = settled(alpha)
    first = """
networks: {lan: {driver: macvlan, parent: eth0, subnet: 192.168.1.0/24}}
attachments: [{container: "netns:<web>", network: lan, address: 192.168.1.50}]
"""
    second = first.replace("web", "db").replace(".50", ".51")
    alpha.settle(first)
    alpha.settle(second, "shop")
    assert hosts.ping("web", "192.168.1.51"), "both are on the LAN (D2)"
    alpha.destroy("office")
    assert promiscuous(alpha) and hosts.ping("other", "192.168.1.51") and not hosts.ping("other", "192.168.1.50")
    alpha.destroy("shop")
    same(before, settled(alpha))


@pytest.mark.parametrize(("text", "address"), [(ACCESS, "192.168.1.{}"), (ACCESS_V6, "fd00:1::{}")])
def test_host_access(hosts: Hosts, text: str, address: str) -> None:
    hosts.settle(text)
    for name in ("web", "db"):
        assert hosts.ping(name, address.format(250)), "its host, at the address beside"
    assert hosts.ping("alpha", address.format(50)) and hosts.ping("alpha", address.format(51))
    assert hosts.ping("far", address.format(250)) and hosts.ping("other", address.format(250)), "and the LAN too"
    assert hosts.ping("other", address.format(10)) and hosts.ping("alpha", address.format(9)), "as before"
    [source] = json.loads(sh(hosts.alpha.host, "ip", "-j", "route", "get", address.format(50)))
    assert (source["dev"], source["prefsrc"]) == ("dw-lan", address.format(250))


def test_the_lan_hears_one_answer_for_each_address(hosts: Hosts) -> None:
    hosts.settle(ACCESS)
    assert hosts.answers("192.168.1.10") == {hosts.mac("alpha", "eth0")}
    assert hosts.answers("192.168.1.250") == {hosts.mac("alpha", "dw-lan")}
    assert hosts.answers("192.168.1.50") == {hosts.mac("web", "eth1")}


def test_the_hosts_own_address_never_goes_out_by_the_interface_beside(hosts: Hosts) -> None:
    """A question for a container that names the host's own address as its asker would move it in everybody's table."""
    hosts.settle(ACCESS)
    sh(hosts.other, "sysctl", "-qw", "net.ipv4.neigh.eth0.locktime=0")  # else what was heard holds for a second
    assert hosts.ping("other", "192.168.1.10")
    sh(hosts.alpha.host, "ip", "neighbour", "flush", "dev", "dw-lan")
    ping_from(hosts.alpha.host, "192.168.1.10", "192.168.1.51")
    [known] = json.loads(sh(hosts.other, "ip", "-j", "neighbour", "show", "192.168.1.10"))
    assert known["lladdr"] == hosts.mac("alpha", "eth0")


def ping_from(ns: str, source: str, address: str) -> bool:
    return "1 received" in sh(ns, "ping", "-n", "-c", "1", "-W", "1", "-I", source, address, check=False)


def test_strict_reverse_paths_of_the_host_do_not_keep_the_lan_out(hosts: Hosts) -> None:
    sh(hosts.alpha.host, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1")
    hosts.settle(ACCESS)
    assert hosts.ping("web", "192.168.1.250") and hosts.ping("other", "192.168.1.250") and hosts.ping("far", "192.168.1.250")


def test_private_keeps_those_of_one_host_apart(hosts: Hosts) -> None:
    hosts.settle(SITE.replace("parent: eth0", "parent: eth0\n    mode: private"))
    assert not hosts.ping("web", "192.168.1.51") and not hosts.ping("web", "fd00:1::51")
    assert hosts.ping("web", "192.168.1.52") and hosts.ping("other", "192.168.1.50"), "the LAN is another matter"


def test_vepa_leaves_it_to_the_switch(hosts: Hosts) -> None:
    hosts.settle(SITE.replace("parent: eth0", "parent: eth0\n    mode: vepa"))
    assert not hosts.ping("web", "192.168.1.51")
    assert hosts.ping("web", "192.168.1.52")


def test_passthru_gives_a_nic_away(hosts: Hosts, netns: Callable[[str], str]) -> None:
    alpha = hosts.alpha
    text = """
networks: {direct: {driver: macvlan, mode: passthru, parent: eth9, subnet: 10.9.0.0/24}}
attachments: [{container: "netns:<web>", network: direct, address: 10.9.0.2}]
"""
    far = netns("far")
    sh(alpha.host, "ip", "link", "add", "name", "eth9", "type", "veth", "peer", "name", "eth0", "netns", far)
    for ns, name in ((alpha.host, "eth9"), (far, "eth0")):
        sh(ns, "ip", "link", "set", "dev", name, "up")
    sh(far, "ip", "address", "add", "10.9.0.1/24", "dev", "eth0")
    before = settled(alpha)
    alpha.settle(text)
    assert ping(alpha.names["web"], "10.9.0.1")
    assert hosts.mac("web", "eth1") == hosts.mac("alpha", "eth9")
    alpha.destroy()
    same(before, settled(alpha))
    with pytest.raises(ConflictError, match=r"the host has 192\.168\.1\.10 on eth0, and passthru would take all its packets"):
        alpha.apply(text.replace("eth9", "eth0"))
    same(before, settled(alpha))


def test_a_nic_goes_from_many_to_one_and_back_at_once(hosts: Hosts) -> None:
    """passthru is refused while anybody else has a macvlan there, in whatever container."""
    alpha = hosts.alpha
    sh(alpha.host, "ip", "link", "add", "name", "eth9", "type", "veth", "peer", "name", "far9")
    for name in ("eth9", "far9"):
        sh(alpha.host, "ip", "link", "set", "dev", name, "up")
    plug = '  - {container: "netns:<%s>", network: lan, address: 10.9.0.%s}'
    many = "\n".join(
        [
            "networks: {lan: {driver: macvlan, parent: eth9, subnet: 10.9.0.0/24, host_access: 10.9.0.250}}",
            *("attachments:", plug % ("web", 2), plug % ("db", 3)),
        ]
    )
    alone = many.replace(", host_access: 10.9.0.250", ", mode: passthru").replace(plug % ("web", 2), "")
    alpha.settle(many)
    for text in (alone, many):
        alpha.settle(text)
    assert hosts.ping("web", "10.9.0.3") and hosts.ping("alpha", "10.9.0.2")


def test_a_parent_that_cannot_be_one_is_refused_and_nothing_touched(hosts: Hosts) -> None:
    alpha = hosts.alpha
    before = settled(alpha)
    for change, error, message in (
        ("parent: eth7", DuctworkError, "no NIC eth7 here"),
        ("parent: eth0\n    mtu: 9000", DuctworkError, "9000 is more than that of eth0"),
    ):
        with pytest.raises(error, match=message):
            alpha.apply(SITE.replace("parent: eth0", change), host="alpha")
        same(before, settled(alpha))
    sh(alpha.host, "ip", "link", "add", "name", "br0", "type", "bridge")
    sh(alpha.host, "ip", "link", "set", "dev", "br0", "up")
    sh(alpha.host, "ip", "link", "set", "dev", "eth0", "master", "br0")
    before = settled(alpha)
    with pytest.raises(ConflictError, match="eth0, its parent, is a port of br0"):
        alpha.apply(SITE, host="alpha")
    same(before, settled(alpha))
    alpha.settle(SITE.replace("parent: eth0", "parent: br0"), host="alpha")
    assert hosts.ping("other", "192.168.1.50") and hosts.ping("web", "fd00:1::9"), "as the hint says"
    assert hosts.ping("web", "192.168.1.51")


def test_without_8021q_a_vlan_is_refused_before_anything_is_touched(hosts: Hosts) -> None:
    if not inside(hosts.alpha.host, lambda: missing(["vlan"])):
        pytest.skip("this kernel has 802.1q")
    before = settled(hosts.alpha)
    with pytest.raises(MissingToolError, match="nothing was touched") as caught:
        hosts.alpha.apply(SITE.replace("parent: eth0", "parent: eth0\n    vlan: 100"), host="alpha")
    assert "modprobe 8021q" in caught.value.hint
    same(before, settled(hosts.alpha))


def test_an_address_of_a_machine_on_the_lan_is_not_taken(hosts: Hosts) -> None:
    with pytest.raises(DuctworkError, match=r"192\.168\.1\.9"):
        hosts.alpha.apply(SITE.replace("192.168.1.50", "192.168.1.9").replace("gateway: 192.168.1.9", ""), host="alpha")


def test_attached_and_detached_by_hand(hosts: Hosts) -> None:
    alpha = hosts.alpha
    alpha.container("late")
    before = settled(alpha)
    text = ACCESS.replace("parent: eth0", "parent: eth0\n    allocate: {alpha: 192.168.1.128/28, beta: 192.168.1.144/28}")
    alpha.settle(text, host="alpha")
    applied = settled(alpha)
    late = f"netns:{alpha.names['late']}"
    alpha.engine(lambda engine: engine.attach(AttachRequest(late, "lan")))
    [address] = [
        a["local"]
        for a in json.loads(sh(alpha.names["late"], "ip", "-j", "-4", "address", "show", "dev", "eth1"))[0]["addr_info"]
    ]
    assert hosts.ping("other", address) and hosts.ping("alpha", address) and hosts.ping("late", "192.168.1.250")
    attached = settled(alpha)
    assert not alpha.apply(text, host="alpha").operations, "what is attached by hand is nobody's of the file's"
    same(attached, settled(alpha))
    alpha.engine(lambda engine: engine.detach(late, "lan"))
    same(applied, settled(alpha))
    alpha.engine(lambda engine: engine.attach(AttachRequest(late, "lan")))
    alpha.destroy()
    alpha.engine(lambda engine: engine.destroy(None))
    same(before, settled(alpha))


def test_a_container_that_starts_anew_is_plugged_in_anew(hosts: Hosts) -> None:
    alpha = hosts.alpha
    before = settled(alpha)["host"]
    alpha.settle(ACCESS, host="alpha")
    applied = settled(alpha)["host"]
    alpha.kill("web")
    assert until(lambda: not hosts.ping("other", "192.168.1.50"))
    alpha.container("web")
    alpha.settle(ACCESS, host="alpha")
    same(applied, settled(alpha)["host"])
    assert hosts.ping("other", "192.168.1.50") and hosts.ping("alpha", "192.168.1.50")
    alpha.kill("web")
    alpha.destroy()
    same(before, settled(alpha)["host"])


def test_the_run_directory_is_lost_and_the_containers_are_found(hosts: Hosts) -> None:
    """No mark on the host tells of them: they are looked for in all namespaces. (What promiscuity was is lost with it.)"""
    alpha = hosts.alpha
    before = settled(alpha)
    alpha.settle(SITE.replace("parent: eth0", "parent: eth0\n    promisc: false"), host="alpha")
    shutil.rmtree(alpha.run_directory)
    shutil.rmtree(alpha.state)
    alpha.destroy()
    same(before, settled(alpha))


SMALL, MODEST = ("\n".join(line for line in text.splitlines() if "<db>" not in line) for text in (ACCESS, ACCESS_V6))
MODEST = MODEST.replace("parent: eth0", "parent: eth0\n    promisc: false")


@pytest.mark.parametrize(("text", "lost"), [(SMALL, "nothing"), (MODEST, "run")], ids=["nothing", "run"])
def test_killed_at_each_send(hosts: Hosts, text: str, lost: str) -> None:
    """Where the run directory is lost, the containers are looked for; foreign values would be lost with it."""
    alpha = hosts.alpha
    site = alpha.site(text)
    before = settled(alpha)
    alpha.apply(text, host="alpha")
    wanted = settled(alpha)
    for work, other, after in ((destroying, applying, before), (applying, destroying, wanted)):
        for _ in moments(alpha, partial(work, site=site), nothing):
            if lost == "run":
                shutil.rmtree(alpha.run_directory, ignore_errors=True)
            alpha.engine(partial(work, site=site))
            same(after, settled(alpha))
            alpha.engine(partial(other, site=site))
        same(after, settled(alpha))
    alpha.destroy()
    same(before, settled(alpha))


def applying(engine: Engine, site: Site) -> None:
    engine.apply(site, "alpha", dad=False)


def destroying(engine: Engine, site: Site) -> None:
    engine.destroy(site.name)


def test_the_printed_commands_do_the_same(hosts: Hosts) -> None:
    alpha = hosts.alpha
    before = settled(alpha)
    for text in (SITE, ACCESS, ACCESS_V6):
        path = alpha.write(text)
        commands = alpha.cli("plan", path, "--host", "alpha", "--format", "commands").out
        alpha.apply(text, host="alpha")
        applied = settled(alpha)
        alpha.destroy()
        same(before, settled(alpha))
        sh(alpha.host, "sh", "-ec", commands)
        same(applied, settled(alpha))
        assert not alpha.apply(text, host="alpha").operations
        alpha.destroy()
        sh(alpha.host, "ip", "link", "set", "dev", "eth0", "promisc", "off")  # whoever typed it knows what was before
        sh(alpha.host, "sysctl", "-qw", "net.ipv4.conf.eth0.arp_ignore=0")
        same(before, settled(alpha))


def test_a_foreign_interface_in_the_way_is_named(hosts: Hosts) -> None:
    alpha = hosts.alpha
    sh(alpha.host, "ip", "link", "add", "link", "eth0", "name", "eth1", "netns", alpha.names["web"], "type", "macvlan")
    before = settled(alpha)
    with pytest.raises(ConflictError, match="link eth1 in netns"):
        alpha.apply(SITE, host="alpha")
    same(before, settled(alpha))


def test_what_the_kernel_refuses_is_taken_back(hosts: Hosts, netns: Callable[[str], str]) -> None:
    """Somebody's passthru in another namespace is not seen beforehand."""
    alpha = hosts.alpha
    made = ("name", "mv", "netns", netns("vm"), "type", "macvlan", "mode", "passthru")
    sh(alpha.host, "ip", "link", "add", "link", "eth0", *made)
    before = settled(alpha)
    with pytest.raises(ApplyError, match="taken back"):
        alpha.engine(lambda engine: engine.apply(alpha.site(SITE), "alpha", dad=False))
    same(before, settled(alpha))


TWICE = f"""{HOSTS}
networks:
  lan: {{driver: macvlan, parent: eth0, subnet: 192.168.1.0/25, gateway: 192.168.1.9}}
  more: {{driver: macvlan, parent: eth0, subnet: 192.168.1.128/25}}
attachments:
  - {{container: "netns:<web>", host: alpha, network: lan, address: 192.168.1.50, mac: "02:00:00:00:00:50"}}
  - {{container: "netns:<web>", host: alpha, network: more, address: 192.168.1.150, mac: "02:00:00:00:00:51"}}
"""


def test_a_container_with_two_interfaces_on_a_wire_answers_once(hosts: Hosts) -> None:
    before = settled(hosts.alpha)
    hosts.alpha.settle(TWICE, host="alpha")
    assert hosts.answers("192.168.1.50") == {"02:00:00:00:00:50"}
    assert hosts.answers("192.168.1.150") == {"02:00:00:00:00:51"}
    sh(hosts.ns("web"), "sysctl", "-qw", "net.ipv4.conf.eth2.arp_ignore=0")
    hosts.alpha.settle(TWICE, host="alpha")
    assert hosts.answers("192.168.1.50") == {"02:00:00:00:00:50"}
    hosts.alpha.destroy()
    same(before, settled(hosts.alpha))


def test_ports_where_nothing_else_needs_a_packet_filter(hosts: Hosts) -> None:
    """From the file, and by hand."""
    alpha, ports = hosts.alpha, 'ports: [{host: alpha, listen: 8088, to: "netns:<web>:80"}]\n'
    before = settled(alpha)
    alpha.settle(ACCESS + ports, host="alpha")
    with served((hosts.ns("web"), 80)):
        assert ask(hosts.other, "192.168.1.10", 8088, "tcp") == "192.168.1.250"
    alpha.settle(ACCESS, host="alpha")
    applied = settled(alpha)
    request = PublishRequest(listen("8088"), port_target(alpha.fill("<web>:80")))
    alpha.engine(lambda engine: engine.publisher.publish(request))
    assert ask(hosts.other, "192.168.1.10", 8088, "tcp") == REFUSED, "by the container, where nobody listens"
    assert not alpha.apply(ACCESS, host="alpha").operations
    alpha.engine(lambda engine: engine.publisher.unpublish(listen("8088"), "tcp"))
    alpha.apply(ACCESS, host="alpha")
    same(applied, settled(alpha))
    alpha.destroy()
    same(before, settled(alpha))
