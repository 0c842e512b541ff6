"""What duplicate address detection sends and understands. The frames in hexadecimal were captured from Linux 6.18."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest

from ductwork.backends.dad_frames import Claim, claim_of, group_mac, question
from ductwork.resources import IPAddress

V4, V6 = IPv4Address("10.0.0.5"), IPv6Address("2001:db8::12:3456")
OURS = bytes.fromhex("020000000001")
HOLDER = "02:00:00:00:00:02"

ARP_REQUEST = "ffffffffffff 020000000001 0806 0001 0800 06 04 0001 020000000001 0a000006 000000000000 0a000005"
ARP_REPLY = "020000000001 020000000002 0806 0001 0800 06 04 0002 020000000002 0a000005 020000000001 0a000006"
SOLICITATION = (
    "3333ff123456 020000000001 86dd 60000000 0018 3a ff 00000000000000000000000000000000 ff0200000000000000000001ff123456"
    "8700 e41e 00000000 20010db8000000000000000000123456"
)
ADVERTISEMENT = (
    "333300000001 020000000002 86dd 60000000 0020 3a ff 20010db8000000000000000000123456 ff020000000000000000000000000001"
    "8800 905b 20000000 20010db8000000000000000000123456 0201 020000000002"
)
HOPS, CODE, OPTION = 21, 55, 78
"""Where in a neighbour discovery frame these are."""


def frame(text: str) -> bytes:
    return bytes.fromhex(text)


def changed(data: bytes, at: int, by: bytes) -> bytes:
    return data[:at] + by + data[at + len(by) :]


def test_arp_probe_is_a_request_without_a_sender_address() -> None:
    assert question(V4, OURS) == changed(frame(ARP_REQUEST), 28, bytes(4))


def test_solicitation_is_the_kernels() -> None:
    assert question(V6, OURS) == frame(SOLICITATION)


@pytest.mark.parametrize("address", [V4, V6])
def test_a_tag_lies_between_addresses_and_protocol(address: IPAddress) -> None:
    plain, tagged = question(address, OURS), question(address, OURS, 4094)
    assert tagged == plain[:12] + bytes.fromhex("81000ffe") + plain[12:]


@pytest.mark.parametrize("last", [0, 0xFFFF, 0xFFFF_FFFF_FFFF, 0xE41E])
def test_checksum_makes_the_sum_all_ones(last: int) -> None:
    packet = question(ip_address(V6.packed[:8] + last.to_bytes(8)), OURS)[14:]
    summed = packet[8:40] + struct.pack("!II", 24, 58) + packet[40:]
    assert sum(struct.unpack(f"!{len(summed) // 2}H", summed)) % 0xFFFF == 0


def test_group() -> None:
    assert group_mac(V6).hex(":") == "33:33:ff:12:34:56"


@pytest.mark.parametrize(
    ("text", "claim"),
    [
        (ARP_REPLY, Claim(V4, HOLDER, False)),
        (ARP_REQUEST, Claim(ip_address("10.0.0.6"), OURS.hex(":"), False)),
        (ADVERTISEMENT, Claim(V6, HOLDER, False)),
        (SOLICITATION, Claim(V6, OURS.hex(":"), True)),
        (ARP_REPLY + "00" * 18, Claim(V4, HOLDER, False)),
    ],
    ids=["reply", "request", "advertisement", "solicitation", "padded to Ethernet's 60"],
)
def test_claims(text: str, claim: Claim) -> None:
    assert claim_of(frame(text)) == claim


def test_a_probe_of_somebody_else() -> None:
    assert claim_of(question(V4, OURS)) == Claim(V4, OURS.hex(":"), True)
    assert claim_of(question(V6, OURS)) == Claim(V6, OURS.hex(":"), True)


def test_an_announcement_is_a_claim() -> None:
    announcement = changed(frame(ARP_REQUEST), 28, V4.packed)
    assert claim_of(announcement) == Claim(V4, OURS.hex(":"), False)


def test_a_solicitation_speaks_for_its_sender_not_for_its_target() -> None:
    sender = ip_address("2001:db8::7")
    assert claim_of(changed(frame(SOLICITATION), 22, sender.packed)) == Claim(sender, OURS.hex(":"), False)


def test_an_advertisement_names_the_mac_in_its_option_before_the_frames() -> None:
    data = changed(frame(ADVERTISEMENT), OPTION + 2, bytes.fromhex("020000000099"))
    assert claim_of(data) == Claim(V6, "02:00:00:00:00:99", False)
    behind_a_nonce = frame(ADVERTISEMENT)[:OPTION] + bytes.fromhex("0e01bb62713809d2") + data[OPTION:]
    behind_a_nonce = changed(behind_a_nonce, 18, (40).to_bytes(2))
    assert claim_of(behind_a_nonce) == Claim(V6, "02:00:00:00:00:99", False)


@pytest.mark.parametrize("option", ["", "0200020000000099", "02"], ids=["none", "of no length", "cut short"])
def test_without_that_option_the_frames_sender_counts(option: str) -> None:
    length = 24 + len(bytes.fromhex(option))
    data = changed(frame(ADVERTISEMENT)[:OPTION] + bytes.fromhex(option), 18, length.to_bytes(2))
    assert claim_of(data) == Claim(V6, HOLDER, False)


@pytest.mark.parametrize(
    "data",
    [
        changed(frame(ARP_REPLY), 14, b"\x00\x06"),
        changed(frame(ARP_REPLY), 16, b"\x08\x01"),
        changed(frame(ARP_REPLY), 20, b"\x00\x03"),
        changed(frame(ARP_REPLY), 28, bytes(4)),
        changed(frame(ARP_REPLY), 12, b"\x08\x00"),
        changed(frame(ADVERTISEMENT), HOPS, b"\xfe"),
        changed(frame(ADVERTISEMENT), CODE, b"\x01"),
        changed(frame(ADVERTISEMENT), CODE - 1, b"\x85"),
        changed(frame(ADVERTISEMENT), 14, b"\x40"),
        changed(frame(ADVERTISEMENT), 20, b"\x11"),
    ],
    ids=[
        *("token ring", "not for IPv4", "reverse ARP", "a reply from nobody", "IPv4"),
        *("was forwarded", "unknown code", "router solicitation", "not version 6", "UDP"),
    ],
)
def test_others_tell_nothing(data: bytes) -> None:
    assert claim_of(data) is None


@pytest.mark.parametrize("text", [ARP_REPLY, SOLICITATION])
def test_what_is_cut_short_tells_nothing(text: str) -> None:
    whole = frame(text)
    assert {claim_of(whole[:length]) for length in range(len(whole))} == {None}
