"""Duplicate addresses are found on real links, and only they are.

Every test has its LAN: a switch, a bridge in a namespace of its own, and machines whose NIC is `eth0`.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from ipaddress import ip_address

import pytest
from conftest import inside, run, sh, until

from ductwork.backends.dad import Watch, probe
from ductwork.errors import ApplyError
from ductwork.resources import IPAddress, Probe

pytestmark = pytest.mark.netns

V4, V6 = ip_address("10.0.0.5"), ip_address("2001:db8::12:3456")
FREE4, FREE6 = ip_address("10.0.0.6"), ip_address("2001:db8::12:3457")
OTHER = "02:00:00:00:00:99"

PATIENT = 1.0
"""Seconds where an answer is expected beside silence: this machine may be busy."""

Netns = Callable[[str], str]


class Lan:
    """A switch and what is plugged into it."""

    def __init__(self, make: Netns) -> None:
        self._make = make
        self.switch = make("switch")
        self._plugged = 0
        sh(self.switch, "ip", "link", "add", "name", "sw", "type", "bridge")
        sh(self.switch, "ip", "link", "set", "dev", "sw", "up")

    def machine(self, name: str, *addresses: IPAddress) -> str:
        """A namespace with `eth0`, up and in the switch; its addresses are usable."""
        ns = self._make(name)
        self._plugged += 1
        port, mac = f"port{self._plugged}", f"02:00:00:00:ab:{self._plugged:02x}"
        sh(ns, "ip", "link", "add", "eth0", "address", mac, "type", "veth", "peer", "name", port, "netns", self.switch)
        sh(self.switch, "ip", "link", "set", "dev", port, "master", "sw", "up")
        sh(ns, "ip", "link", "set", "dev", "eth0", "up")
        give(ns, "eth0", *addresses)
        assert until(lambda: link(ns, "eth0")["operstate"] == "UP")
        assert until(lambda: port_state(self.switch, port) == "forwarding")
        return ns


def give(ns: str, device: str, *addresses: IPAddress) -> None:
    for address in addresses:
        sh(ns, "ip", "address", "add", str(address), "dev", device, *(["nodad"] if address.version == 6 else []))


def link(ns: str, device: str) -> dict[str, object]:
    return json.loads(sh(ns, "ip", "-j", "-d", "link", "show", "dev", device))[0]


def port_state(ns: str, device: str) -> object:
    return link(ns, device)["linkinfo"]["info_slave_data"]["state"]  # type: ignore[index]


def mac_of(ns: str, device: str = "eth0") -> str:
    return str(link(ns, device)["address"])


def without_ipv6(ns: str, device: str) -> None:
    sh(ns, "sysctl", "-qw", f"net.ipv6.conf.{device}.disable_ipv6=1")


@contextmanager
def by_hand(ns: str, answer: Callable[[bytes], Iterable[bytes]]) -> Iterator[list[bytes]]:
    """A machine that answers each ARP and IPv6 frame, tags included, by what `answer` gives; yields all that it hears."""
    wire = inside(ns, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
    wire.setsockopt(263, 8, 1)  # SOL_PACKET, PACKET_AUXDATA
    inside(ns, lambda: wire.bind(("eth0", 3)))
    wire.settimeout(0.05)
    heard: list[bytes] = []
    stop = threading.Event()

    def serve() -> None:
        while not stop.is_set():
            try:
                frame, ancillary, _, sender = wire.recvmsg(2048, socket.CMSG_SPACE(20))
            except TimeoutError:
                continue
            if sender[2] == socket.PACKET_OUTGOING:
                continue
            status, tag = int.from_bytes(ancillary[0][2][:4], sys.byteorder), ancillary[0][2][16:18]
            if status & 16:
                frame = frame[:12] + b"\x81\x00" + int.from_bytes(tag, sys.byteorder).to_bytes(2) + frame[12:]
            heard.append(frame)
            for reply in answer(frame):
                wire.send(reply)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield heard
    finally:
        stop.set()
        thread.join()
        wire.close()


def tag(vlan: int) -> bytes:
    return b"\x81\x00" + vlan.to_bytes(2)


def arp_reply(request: bytes, mac: str = OTHER) -> bytes:
    """The answer to an untagged ARP request, as `mac` would give it."""
    ours, asked = bytes.fromhex(mac.replace(":", "")), request[38:42]
    return request[6:12] + ours + request[12:20] + b"\x00\x02" + ours + asked + request[22:28] + request[28:32]


def is_arp(frame: bytes) -> bool:
    return frame[12:14] == b"\x08\x06"


@pytest.fixture
def lan(netns: Netns) -> Lan:
    return Lan(netns)


def nic(ns: str) -> str:
    return "eth0"


def bare_nic(ns: str) -> str:
    without_ipv6(ns, "eth0")
    return "eth0"


def addressed_nic(ns: str) -> str:
    give(ns, "eth0", ip_address("10.0.0.1"), ip_address("2001:db8::1"))
    return "eth0"


def bridge(ns: str) -> str:
    """The NIC is its port, and has no address, nor has the bridge."""
    sh(ns, "ip", "link", "add", "name", "br0", "address", mac_of(ns), "type", "bridge")
    sh(ns, "ip", "link", "set", "dev", "br0", "up")
    without_ipv6(ns, "br0")
    without_ipv6(ns, "eth0")
    sh(ns, "ip", "link", "set", "dev", "eth0", "master", "br0")
    assert until(lambda: link(ns, "br0")["operstate"] == "UP" and port_state(ns, "eth0") == "forwarding")
    return "br0"


def port_of_a_bridge(ns: str) -> str:
    bridge(ns)
    return "eth0"


def parent(ns: str) -> str:
    """With a child, whose address differs."""
    sh(ns, "ip", "link", "add", "link", "eth0", "name", "mv0", "type", "macvlan", "mode", "bridge")
    sh(ns, "ip", "link", "set", "dev", "mv0", "up")
    give(ns, "mv0", FREE4, FREE6)
    return "eth0"


def passthru_parent(ns: str) -> str:
    sh(ns, "ip", "link", "add", "link", "eth0", "name", "mv0", "type", "macvlan", "mode", "passthru")
    sh(ns, "ip", "link", "set", "dev", "mv0", "up")
    return "eth0"


def filtering(ns: str) -> str:
    """A macvlan interface passes only multicast groups that somebody joined; without IPv6 (RFC 8200: 1280 bytes) nobody has."""
    sh(ns, "ip", "link", "add", "link", "eth0", "name", "mv0", "type", "macvlan", "mode", "bridge")
    sh(ns, "ip", "link", "set", "dev", "mv0", "mtu", "1279", "up")
    assert until(lambda: link(ns, "mv0")["operstate"] == "UP")
    return "mv0"


KINDS = [nic, bare_nic, addressed_nic, bridge, port_of_a_bridge, parent, passthru_parent, filtering]


@pytest.mark.parametrize("kind", KINDS)
def test_who_has_an_address_is_found_and_who_has_not_is_not(lan: Lan, kind: Callable[[str], str]) -> None:
    holder, host = lan.machine("holder", V4, V6), lan.machine("host")
    name = kind(host)
    asked = [Probe(name, a) for a in (V4, FREE4, V6, FREE6)]
    found = inside(host, lambda: probe(asked, PATIENT))
    assert found == {Probe(name, a): mac_of(holder) for a in (V4, V6)}


def test_two_links_are_asked_at_once(lan: Lan, netns: Netns) -> None:
    host, other = lan.machine("host"), Lan(netns)
    first, second = lan.machine("first", V4), other.machine("second", V6)
    sh(second, "ip", "link", "set", "dev", "eth0", "address", OTHER)
    sh(host, "ip", "link", "add", "eth1", "type", "veth", "peer", "name", "far", "netns", other.switch)
    sh(host, "ip", "link", "set", "dev", "eth1", "up")
    sh(other.switch, "ip", "link", "set", "dev", "far", "master", "sw", "up")
    assert until(lambda: port_state(other.switch, "far") == "forwarding")
    asked = [Probe(device, a) for device in ("eth0", "eth1") for a in (V4, V6)]
    assert inside(host, lambda: probe(asked, PATIENT)) == {Probe("eth0", V4): mac_of(first), Probe("eth1", V6): OTHER}


def test_our_own_mac_is_no_conflict(lan: Lan) -> None:
    holder, host = lan.machine("holder", V4, V6), lan.machine("host")
    asked = [Probe("eth0", a, mac=mac_of(holder).upper()) for a in (V4, V6)]
    assert inside(host, lambda: probe(asked)) == {}


def test_our_own_mac_does_not_hide_somebody_else(lan: Lan) -> None:
    holder, host = lan.machine("holder", V4, V6), lan.machine("host")
    asked = [Probe("eth0", a, mac=OTHER) for a in (V4, V6)]
    assert inside(host, lambda: probe(asked, PATIENT)) == dict.fromkeys(asked, mac_of(holder))


def test_our_own_frames_that_come_back_are_no_conflict(lan: Lan) -> None:
    mirror, host = lan.machine("mirror"), lan.machine("host")
    with by_hand(mirror, lambda frame: [frame]) as heard:
        assert inside(host, lambda: probe([Probe("eth0", V4), Probe("eth0", V6)])) == {}
    assert [f for f in heard if is_arp(f)]


@pytest.mark.parametrize("held", [False, True], ids=["both want it", "one has it already"])
def test_two_who_probe_at_once(lan: Lan, held: bool) -> None:
    """Both see each other; who has it already is not troubled by who asks."""
    first, second = lan.machine("first"), lan.machine("second")
    asked = [Probe("eth0", V4), Probe("eth0", V6)]
    with inside(first, lambda: Watch(["eth0"])) as one, inside(second, lambda: Watch(["eth0"])) as two:
        one.start(asked, held=held)
        two.start(asked)
        with ThreadPoolExecutor() as pool:
            deadline = time.monotonic() + PATIENT
            seen = [pool.submit(w.conflicts, deadline) for w in (one, two)]
        assert seen[0].result() == ({} if held else dict.fromkeys(asked, mac_of(second)))
        assert seen[1].result() == dict.fromkeys(asked, mac_of(first))


def test_a_hundred_addresses_at_once(lan: Lan) -> None:
    holder, host = lan.machine("holder"), lan.machine("host")
    taken = [ip_address(f"10.0.0.{n}") for n in range(100, 150)] + [ip_address(f"2001:db8::{n:x}") for n in range(100, 150)]
    free = [ip_address(f"10.0.1.{n}") for n in range(100, 150)] + [ip_address(f"2001:db8::1:{n:x}") for n in range(100, 150)]
    give(holder, "eth0", *taken)
    found = inside(host, lambda: probe([Probe("eth0", a) for a in (*free, *taken)], PATIENT))
    assert found == {Probe("eth0", a): mac_of(holder) for a in taken}


def test_all_answered_ends_the_waiting(lan: Lan) -> None:
    holder, host = lan.machine("holder", V4, V6), lan.machine("host")
    asked = [Probe("eth0", V4), Probe("eth0", V6)]
    assert len(inside(host, lambda: probe(asked, seconds=3600))) == 2, f"{holder} holds both"


def test_a_lost_question_is_asked_again(lan: Lan) -> None:
    late, host = lan.machine("late"), lan.machine("host")
    asked = [Probe("eth0", V4), Probe("eth0", V6)]
    with inside(host, lambda: Watch(["eth0"])) as watch:
        watch.start(asked, seconds=2.0)
        give(late, "eth0", V4, V6)  # whoever was there before would have heard it
        assert watch.conflicts(time.monotonic() + 10) == dict.fromkeys(asked, mac_of(late))


def test_what_is_answered_is_not_asked_again(lan: Lan) -> None:
    peer, host = lan.machine("peer"), lan.machine("host")

    def answer(frame: bytes) -> list[bytes]:
        return [arp_reply(frame)] if is_arp(frame) and V4.packed in frame else []

    with inside(host, lambda: Watch(["eth0"])) as watch, by_hand(peer, answer) as heard:
        watch.start([Probe("eth0", V4), Probe("eth0", FREE4)], seconds=1.2)
        assert watch.conflicts(time.monotonic() + 0.7) == {Probe("eth0", V4): OTHER}
    assert [len([f for f in heard if is_arp(f) and a.packed in f]) for a in (V4, FREE4)] == [1, 3]


def test_a_watch_hears_while_others_work(lan: Lan) -> None:
    holder, host = lan.machine("holder", V4, V6), lan.machine("host")
    asked = [Probe("eth0", a) for a in (V4, V6, FREE4)]
    with inside(host, lambda: Watch(["eth0"])) as watch:
        watch.start(asked[:1])
        watch.start(asked[1:])
        assert until(lambda: watch.conflicts(time.monotonic()) == dict.fromkeys(asked[:2], mac_of(holder)))


def test_an_announcement_is_heard_as_well(lan: Lan) -> None:
    """From a machine that answers no question."""
    silent, host = lan.machine("silent"), lan.machine("host")
    announcement = b"\xff" * 6 + bytes.fromhex("020000000099 0806 0001 0800 06 04 0001 020000000099")
    announcement += V4.packed + bytes(6) + V4.packed
    with inside(host, lambda: Watch(["eth0"])) as watch, by_hand(silent, lambda _: [announcement]):
        watch.start([Probe("eth0", V4)])
        assert watch.conflicts(time.monotonic() + 10) == {Probe("eth0", V4): OTHER}


def test_a_busy_lan_does_not_drown_the_answer(lan: Lan) -> None:
    """More than the socket holds comes in, of what nobody asked for."""
    noisy, host = lan.machine("noisy", V4), lan.machine("host")
    asked = Probe("eth0", V4)
    noise = b"\xff" * 6 + bytes.fromhex("020000000098 88b5") + bytes(1400)
    sender = inside(noisy, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0))
    with inside(host, lambda: Watch(["eth0"])) as watch, sender:
        inside(noisy, lambda: sender.bind(("eth0", 0)))
        for _ in range(20_000):
            sender.send(noise)
        watch.start([asked])
        assert until(lambda: watch.conflicts(time.monotonic()) == {asked: mac_of(noisy)})


def test_questions_of_a_vlan_carry_its_tag(lan: Lan) -> None:
    peer, host = lan.machine("peer"), lan.machine("host")
    with by_hand(peer, lambda _: []) as heard:
        assert inside(host, lambda: probe([Probe("eth0", V4, vlan=100), Probe("eth0", V6, vlan=4094)])) == {}
    tagged = [f for f in heard if f[12:14] == b"\x81\x00"]
    assert {(f[14:16], f[16:18]) for f in tagged} == {(b"\x00\x64", b"\x08\x06"), (b"\x0f\xfe", b"\x86\xdd")}
    assert not [f for f in heard if V4.packed in f and f not in tagged]


@pytest.mark.parametrize(
    ("asked", "answered", "conflict"),
    [
        pytest.param(100, tag(100), True, id="its tag"),
        pytest.param(100, tag(0x6000 + 100), True, id="its tag with a priority"),
        pytest.param(100, b"", False, id="no tag"),
        pytest.param(100, tag(200), False, id="another tag"),
        pytest.param(100, b"\x88\xa8\x00\x64", False, id="a provider's tag"),
        pytest.param(0, b"", True, id="no tag, as asked"),
        pytest.param(0, tag(0), True, id="a mere priority"),
        pytest.param(0, tag(100), False, id="a tag nobody asked for"),
    ],
)
def test_only_answers_of_the_same_vlan_count(lan: Lan, asked: int, answered: bytes, conflict: bool) -> None:
    """Without 802.1q in this kernel the holder is a packet socket that answers by hand."""
    peer, host = lan.machine("peer"), lan.machine("host")

    def answer(frame: bytes) -> list[bytes]:
        plain = frame[:12] + frame[16:] if asked else frame
        if not is_arp(plain):
            return []
        reply = arp_reply(plain)
        return [reply[:12] + answered + reply[12:]]

    question = Probe("eth0", V4, vlan=asked)
    with by_hand(peer, answer) as heard:
        assert inside(host, lambda: probe([question], PATIENT)) == ({question: OTHER} if conflict else {})
    assert heard


def test_a_holder_behind_somebody_elses_macvlan(lan: Lan, netns: Netns) -> None:
    other, container, host = lan.machine("other"), netns("container"), lan.machine("host")
    sh(other, "ip", "link", "add", "link", "eth0", "name", "mv0", "netns", container, "type", "macvlan", "mode", "bridge")
    sh(container, "ip", "link", "set", "dev", "mv0", "up")
    give(container, "mv0", V4, V6)
    assert until(lambda: link(container, "mv0")["operstate"] == "UP")
    name = parent(host)
    asked = [Probe(name, V4), Probe(name, V6)]
    assert inside(host, lambda: probe(asked, PATIENT)) == dict.fromkeys(asked, mac_of(container, "mv0"))


def solicitations(ns: str) -> int:
    text = sh(ns, "cat", "/proc/net/snmp6")
    return int(next(line.split()[1] for line in text.splitlines() if line.startswith("Icmp6OutNeighborSolicits")))


def take_slowly(ns: str) -> None:
    """V6 as any machine takes an address: asking first, and tentative for a second. Returns when it has asked."""
    sh(ns, "sysctl", "-qw", "net.ipv6.conf.eth0.router_solicitation_delay=0")
    assert until(lambda: "tentative" not in sh(ns, "ip", "-6", "address", "show", "dev", "eth0"))
    before = solicitations(ns)
    sh(ns, "ip", "address", "add", f"{V6}/64", "dev", "eth0")
    assert until(lambda: solicitations(ns) > before)


def test_an_address_that_is_tentative_elsewhere(lan: Lan) -> None:
    """Its question was heard: a conflict, and both yield (RFC 4862, section 5.4.3)."""
    other, host = lan.machine("other"), lan.machine("host")
    with inside(host, lambda: Watch(["eth0"])) as watch:
        take_slowly(other)
        watch.start([Probe("eth0", V6)])
        assert watch.conflicts(time.monotonic() + PATIENT) == {Probe("eth0", V6): mac_of(other)}
    assert until(lambda: "dadfailed" in sh(other, "ip", "-6", "address", "show", "dev", "eth0"))


def test_a_machine_that_asked_before_us_yields(lan: Lan) -> None:
    other, host = lan.machine("other"), lan.machine("host")
    take_slowly(other)
    assert inside(host, lambda: probe([Probe("eth0", V6)])) == {}
    assert until(lambda: "dadfailed" in sh(other, "ip", "-6", "address", "show", "dev", "eth0"))


def test_the_host_is_left_as_it_was(lan: Lan) -> None:
    host = lan.machine("host")

    def looks() -> list[str]:
        shown = [["ip", "-d", "link"], ["ip", "address"], ["ip", "maddress"], ["ip", "neighbour"], ["ip", "route"]]
        return [sh(host, *argv) for argv in shown]

    assert until(lambda: "tentative" not in sh(host, "ip", "address"))
    before = looks()
    with inside(host, lambda: Watch(["eth0"])) as watch:
        watch.start([Probe("eth0", V4)])
        assert looks() == before
        watch.start([Probe("eth0", V4, vlan=100), Probe("eth0", V6)])
        assert link(host, "eth0")["promiscuity"] == 1, "a NIC may drop tags that nobody has asked for"
        assert "33:33:ff:12:34:56" in sh(host, "ip", "maddress")
    assert until(lambda: looks() == before)


def test_a_link_that_is_not_there(lan: Lan) -> None:
    with pytest.raises(ApplyError, match="on eth7: there is no such link"):
        inside(lan.machine("host"), lambda: probe([Probe("eth0", V4), Probe("eth7", V4)]))


def test_a_link_that_is_down(lan: Lan) -> None:
    host = lan.machine("host")
    sh(host, "ip", "link", "set", "dev", "eth0", "down")
    with pytest.raises(ApplyError, match="on eth0: it is down") as caught:
        inside(host, lambda: Watch(["eth0"]))
    assert caught.value.hint == "ip link set dev eth0 up"


ENDS = pytest.mark.parametrize("end", [["set", "dev", "eth0", "down"], ["del", "dev", "eth0"]], ids=["down", "gone"])
ASKED = [Probe("eth0", V4), Probe("eth0", V6), Probe("eth0", V4, vlan=5)]


@ENDS
@pytest.mark.parametrize("asked", ASKED, ids=["IPv4", "IPv6", "tagged"])
def test_a_link_that_ends_before_it_is_asked(lan: Lan, end: list[str], asked: Probe) -> None:
    host = lan.machine("host")
    with inside(host, lambda: Watch(["eth0"])) as watch:
        sh(host, "ip", "link", *end)
        with pytest.raises(ApplyError, match=r"on eth0: (it is down|there is no such link)"):
            watch.start([asked])


@ENDS
def test_a_link_that_ends_while_it_is_heard(lan: Lan, end: list[str]) -> None:
    host = lan.machine("host")
    with inside(host, lambda: Watch(["eth0"])) as watch:
        watch.start([Probe("eth0", V4)])
        sh(host, "ip", "link", *end)
        with pytest.raises(ApplyError, match="on eth0: it is down, or went down meanwhile"):
            watch.conflicts(time.monotonic())


def test_what_is_no_ethernet_is_refused(lan: Lan) -> None:
    with pytest.raises(ApplyError, match=r"lo: wanted an Ethernet link .*, got one of type 772"):
        inside(lan.machine("host"), lambda: probe([Probe("lo", V4)]))


def test_a_link_without_carrier_is_told(lan: Lan) -> None:
    host = lan.machine("host")
    with inside(host, lambda: Watch(["eth0"])) as watch:
        assert watch.unplugged() == []
        sh(lan.switch, "ip", "link", "set", "dev", "port1", "down")
        assert until(lambda: watch.unplugged() == ["eth0"])
        watch.start([Probe("eth0", V4)])
        assert watch.conflicts(time.monotonic() + 0.1) == {}


def test_without_rights_the_error_says_which() -> None:
    code = (
        "import os; from ductwork.backends.dad import probe, Probe; from ipaddress import ip_address; os.setuid(65534)\n"
        "try: probe([Probe('lo', ip_address('10.0.0.5'))])\nexcept Exception as e: print(type(e).__name__, e)"
    )
    assert run(sys.executable, "-c", code) == "MissingToolError looking for duplicate addresses needs root (CAP_NET_RAW)\n"


def test_nothing_stays_open(lan: Lan) -> None:
    host = lan.machine("host")
    before = len(os.listdir("/proc/self/fd"))
    inside(host, lambda: probe([Probe("eth0", V4)], seconds=0.01))
    with pytest.raises(ApplyError):
        inside(host, lambda: probe([Probe("eth0", V4), Probe("eth7", V4)]))
    assert until(lambda: len(os.listdir("/proc/self/fd")) == before)


def test_nothing_asked_is_nothing_found() -> None:
    assert probe([]) == {}
