"""What the machine tells of a NIC, with real leases, rules, sockets and systemd-networkd.

NetworkManager is not here: what it keeps in its run directory is written by hand, by a process of its name. (The reader was
tried on NetworkManager 1.42, dhclient 4.4 and dhcpcd 9.4 by hand, as was the text of `unmanaged_drop_in`.) No wireless NIC is
here either.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from conftest import inside, sh, until

from ductwork.backends.nic import NicReader
from ductwork.backends.nic_mentions import mentions
from ductwork.resources import NicFacts
from ductwork.resources.nic import unmanaged_drop_in

pytestmark = pytest.mark.netns

NETWORKD = "/lib/systemd/systemd-networkd"
_PRIVATE = "mount --make-rprivate / && mount -t tmpfs none {} && "


class Lan:
    """A host whose NIC `eth0` leads to `far`."""

    def __init__(self, netns: Callable[[str], str], directory: Path) -> None:
        self.host, self.far, self.directory = netns("host"), netns("far"), directory
        sh(self.host, "ip", "link", "add", "name", "eth0", "type", "veth", "peer", "name", "eth0", "netns", self.far)
        sh(self.host, "ip", "link", "add", "name", "br7", "type", "bridge")
        for ns in (self.host, self.far):
            sh(ns, "ip", "link", "set", "dev", "eth0", "up")

    def read(self, name: str = "eth0") -> NicFacts:
        return inside(self.host, lambda: NicReader().read([name]))[name]

    def mentions(self, name: str = "eth0") -> tuple[str, ...]:
        return tuple(inside(self.host, lambda: mentions([name]))[name])

    def index(self) -> int:
        return inside(self.host, lambda: socket.if_nametoindex("eth0"))

    def has_address(self) -> bool:
        return "inet " in sh(self.host, "ip", "-4", "address", "show", "dev", "eth0")

    @contextmanager
    def serves_addresses(self) -> Iterator[None]:
        sh(self.far, "ip", "address", "add", "192.0.2.2/24", "dev", "eth0")
        argv = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--interface=eth0", "--pid-file="]
        argv += ["--dhcp-range=192.0.2.50,192.0.2.60,120", f"--dhcp-leasefile={self.directory}/leases", "--user=root"]
        with running(self.far, argv):
            yield


@contextmanager
def running(ns: str, argv: list[str], **arguments: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A program in a namespace, with all that it starts, for as long as the block lasts."""
    argv = ["nsenter", f"--net=/run/netns/{ns}", *argv]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, **arguments)
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def pretending(ns: str, name: str, *words: str, private: str = "true") -> Iterator[None]:
    """A process of that name, after `private` in a mount namespace of its own."""
    told, telling = os.pipe()
    code = f"open('/proc/self/comm', 'w').write({name!r}); print(flush=True); import time; time.sleep(1000)"
    script = f'{private} && exec -a "$0" {sys.executable} -c "$1" "${{@:2}}"'
    argv = ["nsenter", f"--net=/run/netns/{ns}", "unshare", "--mount", "bash", "-c", script, name, code, *words]
    process = subprocess.Popen(argv, stdout=telling, start_new_session=True)
    os.close(telling)
    try:
        with os.fdopen(told) as ready:
            assert ready.readline()
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def lan(netns: Callable[[str], str], tmp_path: Path) -> Lan:
    return Lan(netns, tmp_path)


def test_a_nic_that_nobody_cares_for(lan: Lan) -> None:
    sh(lan.host, "ip", "address", "add", "192.0.2.1/24", "dev", "eth0")
    assert lan.read() == NicFacts(virtual=True)


def test_only_what_is_there(lan: Lan) -> None:
    assert set(inside(lan.host, lambda: NicReader().read(["eth0", "eth9"]))) == {"eth0"}
    assert inside(lan.host, lambda: NicReader().read(["eth9"])) == {}


def test_looking_changes_nothing(lan: Lan) -> None:
    before = sh(lan.host, "nft", "list", "ruleset")
    lan.read()
    assert sh(lan.host, "nft", "list", "ruleset") == before == ""


def test_what_dies_with_its_namespace(lan: Lan) -> None:
    assert lan.read("eth0").virtual
    assert lan.read("br7").virtual
    assert not lan.read("lo").virtual  # like a NIC of hardware, it has no kind


# leases


def test_a_lease_of_udhcpc(lan: Lan, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text('#!/bin/sh\n[ "$1" != bound ] || ip address add $ip/$mask dev $interface\n')
    script.chmod(0o755)
    argv = ["busybox", "udhcpc", "-f", "-i", "eth0", "-s", str(script)]
    with lan.serves_addresses(), running(lan.host, argv):
        assert until(lan.has_address)
        assert lan.read().lease == "udhcpc"
        assert lan.read("br7").lease == ""
    assert lan.read().lease == ""


@pytest.mark.parametrize(
    ("words", "nics"),
    [
        (["udhcpc", "-ieth0"], {"eth0"}),
        (["udhcpc", "--interface=br7"], {"br7"}),
        (["udhcpc", "-b"], {"eth0"}),
        (["dhclient", "-4", "-pf", "/x", "eth0"], {"eth0"}),
        (["dhclient", "-4"], {"eth0", "br7"}),
        (["dhcpcd", "br7"], {"br7"}),
        (["dhcpcd", "dhcpcd: [manager] [ip4] [ip6]"], {"eth0", "br7"}),
        (["dhcpcd", "dhcpcd: eth0 [ip4]"], {"eth0"}),
    ],
)
def test_whom_a_client_serves(lan: Lan, words: list[str], nics: set[str]) -> None:
    """Their command lines alone."""
    with pretending(lan.host, words[0], *words[1:]):
        assert {nic for nic in ("eth0", "br7") if lan.read(nic).lease == words[0]} == nics
        assert {nic for nic in ("eth0", "br7") if lan.read(nic).manager} == (nics if words[0] == "dhcpcd" else set())


def test_a_client_elsewhere_is_not_ours(lan: Lan) -> None:
    with pretending(lan.far, "dhclient", "eth0"):
        assert lan.read().lease == ""


def test_a_lease_of_whomever(lan: Lan) -> None:
    sh(lan.host, "ip", "address", "add", "192.0.2.9/24", "dev", "eth0", "valid_lft", "600", "preferred_lft", "600")
    assert lan.read().lease == "an unknown client"
    assert lan.read("br7").lease == ""
    sh(lan.host, "ip", "address", "flush", "dev", "eth0")
    assert lan.read().lease == ""
    sh(lan.host, "ip", "address", "add", "192.0.2.9/24", "dev", "eth0")
    sh(lan.host, "ip", "route", "add", "10.0.0.0/8", "via", "192.0.2.2", "proto", "dhcp", "table", "77")
    assert lan.read().lease == "an unknown client"
    assert lan.read("br7").lease == ""


def test_router_advertisements_are_no_lease(lan: Lan) -> None:
    sh(lan.host, "ip", "address", "add", "2001:db8::9/64", "dev", "eth0", "valid_lft", "600", "preferred_lft", "600")
    assert lan.read().lease == ""


# managers


@pytest.mark.skipif(not os.path.exists(NETWORKD), reason="no systemd-networkd here")
def test_networkd_manages_it_until_it_is_told_not_to(lan: Lan, tmp_path: Path) -> None:
    """The real one, with /run/systemd and its configuration to itself."""
    configuration = tmp_path / "network"
    configuration.mkdir()
    (configuration / "10-lan.network").write_text("[Match]\nName=eth0\n\n[Network]\nDHCP=ipv4\n")
    script = _PRIVATE.format("/run/systemd")
    script += f"mount --bind {configuration} /etc/systemd/network && mount -t sysfs -o ro sysfs /sys && "
    script += f"install -d -o systemd-network -g systemd-network /run/systemd/netif/{{,links,leases,lldp}} && exec {NETWORKD}"
    argv = ["unshare", "--mount", "bash", "-c", script]
    tmp_path.chmod(0o755)
    with lan.serves_addresses():
        with running(lan.host, argv):
            assert until(lan.has_address)
            assert lan.read().manager == lan.read().lease == "systemd-networkd"
            assert lan.read("br7").manager == ""
        path, text = unmanaged_drop_in("systemd-networkd", ["eth0", "br7"])
        (configuration / os.path.basename(path)).write_text(text)
        with running(lan.host, argv) as networkd:
            assert until(lambda: "unmanaged" in _networkd_state(networkd.pid, lan.index()))
            assert lan.read().manager == ""


def _networkd_state(pid: int, index: int) -> str:
    file = Path(f"/proc/{pid}/root/run/systemd/netif/links/{index}")
    return file.read_text() if file.exists() else ""


@pytest.mark.parametrize(
    ("kept", "manager"), [("[device]\nmanaged=true\n", "NetworkManager"), ("[device]\nmanaged=false\n", "")]
)
@pytest.mark.skipif(shutil.which("nmcli") is not None, reason="nmcli would be asked")
def test_what_network_manager_has_written(lan: Lan, tmp_path: Path, kept: str, manager: str) -> None:
    (tmp_path / "devices").mkdir()
    (tmp_path / "devices" / str(lan.index())).write_text(kept)
    private = _PRIVATE.format("/run") + f"mkdir /run/NetworkManager && mount --bind {tmp_path} /run/NetworkManager"
    with pretending(lan.host, "NetworkManager", private=private):
        assert lan.read().manager == manager
        assert lan.read("br7").manager == ""
    assert lan.read().manager == ""


@pytest.mark.parametrize("trap", ["ln -s {victim} {place}", "mkfifo {place}", "rmdir {devices} && ln -s {theirs} {devices}"])
@pytest.mark.skipif(shutil.which("nmcli") is not None, reason="nmcli would be asked")
def test_no_way_out_of_a_run_directory(lan: Lan, tmp_path: Path, trap: str) -> None:
    """A program of that name in a container that shares the host's network: nothing of the host's is read for it, and nobody
    waits for it."""
    victim = tmp_path / "theirs" / str(lan.index())
    victim.parent.mkdir()
    victim.write_text("[device]\nmanaged=true\n")
    devices = tmp_path / "kept" / "devices"
    devices.mkdir(parents=True)
    place = devices / str(lan.index())
    sh(lan.host, "sh", "-ec", trap.format(victim=victim, place=place, devices=devices, theirs=victim.parent))
    private = _PRIVATE.format("/run") + f"mkdir /run/NetworkManager && mount --bind {devices.parent} /run/NetworkManager"
    with pretending(lan.host, "NetworkManager", private=private):
        assert lan.read().manager == ""


@pytest.mark.parametrize(
    ("answer", "manager"),
    [
        ("100 (connected)", "NetworkManager"),
        ("30 (disconnected)", "NetworkManager"),
        ("100 (connected (externally))", ""),
        ("10 (unmanaged)", ""),
    ],
)
def test_what_network_manager_answers(
    lan: Lan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str, manager: str
) -> None:
    """As nmcli 1.42 prints it."""
    nmcli = tmp_path / "nmcli"
    nmcli.write_text(f"#!/bin/sh\n[ \"$*\" = '-g GENERAL.STATE device show eth0' ] && echo '{answer}'\n")
    nmcli.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pretending(lan.host, "NetworkManager"):
        assert lan.read().manager == manager
    with pretending(lan.far, "NetworkManager"):
        assert lan.read().manager == ""


def test_how_managers_are_told() -> None:
    for manager, said in (
        ("NetworkManager", "unmanaged-devices+=interface-name:eth0;interface-name:br7"),
        ("systemd-networkd", "Name=eth0 br7\n\n[Link]\nUnmanaged=yes"),
        ("dhcpcd", "denyinterfaces eth0 br7"),
    ):
        path, text = unmanaged_drop_in(manager, ["eth0", "br7"])
        assert path.startswith("/etc/")
        assert said in text
    assert unmanaged_drop_in("somebody", ["eth0"]) == ("", "")


# mentions


def test_policy_rules_that_name_it(lan: Lan) -> None:
    sh(lan.host, "ip", "rule", "add", "iif", "eth0", "table", "77")
    sh(lan.host, "ip", "-6", "rule", "add", "oif", "eth0", "table", "77")
    sh(lan.host, "ip", "rule", "add", "oif", "eth0", "table", "78", "protocol", "220")
    assert lan.mentions() == (
        "policy rule 32765: from all iif eth0 lookup 77",
        "IPv6 policy rule 32765: from all oif eth0 lookup 77",
    )
    assert not lan.mentions("br7")


RULES = """
table inet mine {
  set nics { type ifname; elements = { "lo", "eth0" }; }
  chain input {
    type filter hook input priority 0;
    iifname "eth0" oifname "eth0" accept comment "br7"
    iifname "eth*" counter
    iifname != "br7" log prefix "eth1"
  }
}
table netdev early { chain in { type filter hook ingress device "eth0" priority 0; }; }
table netdev both { chain in { type filter hook ingress devices = { lo, eth0 } priority 0; }; }
table inet ductwork { chain forward { iifname "eth0" accept; }; }
"""


def test_nft_rules_that_name_it(lan: Lan) -> None:
    subprocess.run(["ip", "netns", "exec", lan.host, "nft", "-f", "-"], input=RULES, text=True, check=True)
    found = lan.mentions()
    assert all(line.startswith("nftables ") for line in found)
    assert [line.partition(": ")[0].removeprefix("nftables ") for line in found] == [
        "inet mine, set nics",
        "inet mine, chain input",
        "inet mine, chain input",
        "netdev early, chain in",
        "netdev both, chain in",
    ]
    assert 'nftables inet mine, chain input: iifname "eth0" oifname "eth0" accept comment "br7"' in found
    assert lan.mentions("br7") == ('nftables inet mine, chain input: iifname != "br7" log prefix "eth1"',)


@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_iptables_rules_that_name_it(lan: Lan, variant: str) -> None:
    """Each once, whichever iptables has made it."""
    sh(lan.host, f"iptables-{variant}", "-A", "FORWARD", "-i", "eth0", "-j", "ACCEPT")
    sh(lan.host, f"iptables-{variant}", "-t", "nat", "-A", "POSTROUTING", "!", "-o", "br+", "-j", "MASQUERADE")
    sh(lan.host, f"ip6tables-{variant}", "-A", "INPUT", "-i", "eth0", "-j", "DROP")
    assert set(lan.mentions()) == {
        "iptables filter: -A FORWARD -i eth0 -j ACCEPT",
        "ip6tables filter: -A INPUT -i eth0 -j DROP",
    }
    assert lan.mentions("br7") == ("iptables nat: -A POSTROUTING ! -o br+ -j MASQUERADE",)


def test_sockets_bound_to_it(lan: Lan) -> None:
    def bound(kind: int, port: int) -> socket.socket:
        opened = socket.socket(socket.AF_INET, kind)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"eth0")
        opened.bind(("", port))
        return opened

    def packet() -> socket.socket:
        opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        opened.bind(("eth0", 3))
        return opened

    with (
        inside(lan.host, lambda: bound(socket.SOCK_STREAM, 80)) as listening,
        inside(lan.host, lambda: bound(socket.SOCK_DGRAM, 68)),
        inside(lan.host, packet),
        inside(lan.host, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))),
    ):
        listening.listen()
        me = f" (pid {os.getpid()})"
        found = lan.mentions()
        assert all(line.endswith(me) for line in found)
        assert {line.partition(" of ")[0] for line in found} == {
            "tcp socket 0.0.0.0%eth0:80",
            "udp socket 0.0.0.0%eth0:68",
            "packet socket *:eth0",
        }
        assert not lan.mentions("br7")


def test_programs_that_are_missing_tell_nothing(lan: Lan, monkeypatch: pytest.MonkeyPatch) -> None:
    sh(lan.host, "ip", "rule", "add", "iif", "eth0", "table", "77")
    with pretending(lan.host, "NetworkManager"):
        monkeypatch.setenv("PATH", "/nowhere")
        assert lan.read() == NicFacts(virtual=True)
