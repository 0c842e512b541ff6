"""The values of a site file: text to `ipaddress` objects and checked names.

Invariant: each function takes whatever YAML gave and returns a value of its type or raises `Refused` with the mistake and
its remedy; no text that still has to be parsed gets past here.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, IPv6Network, ip_address, ip_network
from typing import Literal, NamedTuple

from ductwork.naming import IFNAMSIZ
from ductwork.resources import IPAddress, IPInterface, IPNetwork
from ductwork.site.document import shorten
from ductwork.site.model import AddressRange, Nat, Permission, PortRange, PublishedPort, Rate

RUNTIMES = ("docker", "podman", "netns", "pid")
MIN_MTU, MAX_MTU = 68, 65535
"""RFC 791; IP_MAX_MTU in include/net/ip.h."""

MIN_RATE, MAX_RATE = 8_000, 100 * 10**9
"""Bits per second."""
MAX_PORT = 65535
MAX_VLAN = 4094
"""IEEE 802.1Q: 0 and 4095 mean something else."""

NOT_YET = "is not in this version of ductwork yet"

HOST_NAME = r"^[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$"
NETWORK_NAME = r"^[a-z0-9-]{1,63}$"
INTERFACE_NAME = rf"^[^\s/:]{{1,{IFNAMSIZ}}}$"
CONTAINER_NAME = r"^((docker|podman|netns|pid):)?[^\s/]+$"
PORT_RANGE = r"^[0-9]{1,5}(-[0-9]{1,5})?(/(tcp|udp|sctp))?$"
_PORT_FORMS = "write `8088`, `8000-8999` or `5353/udp`"
MAC = r"^([0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$"


class Refused(ValueError):
    """What is wrong with a value, and what to write instead."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class WrittenAddress(NamedTuple):
    """An address, and its prefix length where one was written."""

    address: IPAddress
    prefix_length: int | None = None


def describe(value: object) -> str:
    """A value as messages name it. Lists and mappings are never shown: aliases can make them endless."""
    match value:
        case None:
            return "nothing"
        case bool():
            return f"`{str(value).lower()}`"
        case str():
            return f"`{shorten(value)}`"
        case int() | float():
            return f"the number {shorten(str(value)) if not isinstance(value, float) or math.isfinite(value) else value}"
        case list() | tuple():
            return "a list"
        case _:
            return "a mapping"


def closest(word: str, known: Iterable[str]) -> str:
    """`did you mean …?`, or nothing where nothing is near. Of very many names, the first are looked at: a thousand
    mistakes in a file with a thousand networks should not take minutes."""
    found = difflib.get_close_matches(word[:100], list(known)[:200], n=1, cutoff=0.6)
    return f"did you mean `{found[0]}`? " if found else ""


def listing(words: Iterable[str], limit: int = 20) -> str:
    """`a, b, c`: what could have been written."""
    known = [shorten(word) for word in words]
    return ", ".join(known[:limit]) + (f", … ({len(known)} in all)" if len(known) > limit else "")


def instead_of_network(name: str, known: Iterable[str]) -> str:
    """What to do about a network that is not in the file."""
    networks = sorted(known)
    if not networks:
        return f"add it below `networks:`: `{shorten(name)}:`"
    return f"{closest(name, networks)}networks: {listing(networks)}"


def text(value: object, example: str) -> str:
    if isinstance(value, str):
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            raise Refused(f"{describe(value)} has half a character", f"write text, such as `{example}`")
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise Refused(f"{describe(value)} is not text", f"write it in quotes, such as `{example}`")
    raise Refused(f"{describe(value)} is not text", f"write one value, such as `{example}`")


def address(value: object) -> IPAddress:
    """One address without prefix length."""
    written = address_with_prefix(value)
    if written.prefix_length is not None:
        raise Refused(f"{describe(value)} has a prefix length", f"write the address alone: `{written.address}`")
    return written.address


def address_with_prefix(value: object) -> WrittenAddress:
    word = text(value, "10.1.1.2")
    if word == "dhcp":
        raise Refused(f"`dhcp` {NOT_YET}", "write an address, or leave the key out: then one is allocated and remembered")
    host, slash, length = word.partition("/")
    try:
        found = ip_address(host)
    except ValueError:
        raise Refused(f"{describe(word)} is no IP address", "write it as `10.1.1.2` or `fd00:1::2`") from None
    if "%" in host:
        raise Refused(f"{describe(word)} has a zone", f"delete `%` and what follows: `{host.partition('%')[0]}`")
    if found.is_multicast or found.is_unspecified:
        raise Refused(f"`{found}` is no address of a single machine", "write a unicast address")
    if not slash:
        return WrittenAddress(found)
    if not (length.isascii() and length.isdigit()) or int(length[:4]) > found.max_prefixlen:
        hint = f"write the number of bits, 0 to {found.max_prefixlen}, or leave it out"
        raise Refused(f"`/{shorten(length)}` is no prefix length of an IPv{found.version} address", hint)
    return WrittenAddress(found, int(length))


def underlay_address(value: object) -> IPInterface:
    """A host's address; the prefix length is a full one where none is written."""
    written = address_with_prefix(value)
    length = written.address.max_prefixlen if written.prefix_length is None else written.prefix_length
    return interface(written.address, length)


def interface(address: IPAddress, prefix_length: int) -> IPInterface:
    """From the number, since `ipaddress` would write the address out and parse it again."""
    if isinstance(address, IPv4Address):
        return IPv4Interface((int(address), prefix_length))
    return IPv6Interface((int(address), prefix_length))


def prefix(value: object, example: str = "10.1.1.0/24") -> IPNetwork:
    word = text(value, example)
    if "/" not in word:
        raise Refused(f"{describe(word)} has no prefix length", f"write it as `{example}`")
    host, _, length = word.partition("/")
    if not (length.isascii() and length.isdigit()):
        raise Refused(f"`/{shorten(length)}` is no prefix length", f"write the number of bits, as in `{example}`")
    try:
        found = ip_network(word, strict=False)
    except ValueError:
        raise Refused(f"{describe(word)} is no prefix", f"write it as `{example}`") from None
    if "%" in host:
        raise Refused(f"{describe(word)} has a zone", f"write it as `{found.supernet(0)}`")
    if ip_address(host) != found.network_address:
        raise Refused(f"`{word}` has bits set behind its prefix", f"did you mean `{found}`?")
    return found


def subnet(value: object) -> IPNetwork:
    found = prefix(value)
    if found.prefixlen == 0:
        raise Refused(f"`{found}` is every address there is", "write a private prefix, such as `10.1.1.0/24`")
    if found.is_multicast or found.is_loopback or found.network_address.is_unspecified:
        raise Refused(f"`{found}` cannot be given to containers", "write a private prefix, such as `10.1.1.0/24`")
    return found


def address_range(value: object) -> AddressRange:
    """A prefix, or FIRST-LAST."""
    word = text(value, "10.1.1.100-10.1.1.199")
    if "/" in word:
        found = prefix(word, "10.1.1.64/26")
        return AddressRange(found[0], found[-1])
    first, dash, last = word.partition("-")
    if not dash:
        hint = "write a prefix such as `10.1.1.64/26`, or `10.1.1.100-10.1.1.199`"
        raise Refused(f"{describe(word)} is no range of addresses", hint)
    low, high = address(first.strip()), address(last.strip())
    if low.version != high.version:
        raise Refused(f"`{word}` goes from one family to the other", "write one range per family")
    if int(low) > int(high):
        raise Refused(f"`{word}` ends before it begins", f"write `{high}-{low}`")
    return AddressRange(low, high)


def permission(value: object) -> Permission:
    """What labels may ask for in a network: `true` or nothing for all of its addresses, a range, a list of them, or
    `{addresses: …, ports: …}`."""
    if not isinstance(value, dict):
        return Permission(_label_ranges(value))
    unknown = [key for key in value if key not in ("addresses", "ports")]
    if unknown or not value:
        word = str(next(iter(unknown), ""))
        message = f"unknown key {describe(unknown[0])}" if unknown else "nothing is written in it"
        raise Refused(message, closest(word, ["addresses", "ports"]) + "write `{addresses: FIRST-LAST, ports: [FIRST-LAST]}`")
    return Permission(_label_ranges(value.get("addresses")), _label_ports(value["ports"]) if "ports" in value else ())


def _label_ranges(value: object) -> tuple[AddressRange, ...]:
    if value is None or value is True:
        return ()
    if value is False or value == []:
        raise Refused(f"{describe(value)} permits nothing", "delete the network from `labels`, or write `true`")
    return tuple(address_range(item) for item in (value if isinstance(value, list) else [value]))


def _label_ports(value: object) -> tuple[PortRange, ...]:
    found = []
    for item in value if isinstance(value, list) else [value]:
        word = str(item) if isinstance(item, int) and not isinstance(item, bool) else item
        if not isinstance(word, str):
            raise Refused(f"{describe(item)} is no port that labels may have", _PORT_FORMS)
        numbers, its_protocol = with_protocol(word)
        found.append(PortRange(its_protocol, *port_range(numbers, _PORT_FORMS)))
    if not found:
        raise Refused("an empty list of `ports` permits nothing", f"delete the key, or {_PORT_FORMS}")
    return tuple(found)


def mac(value: object) -> str:
    """An address in lower case, or `seed:TEXT` as it is."""
    word = text(value, "02:00:00:00:00:01")
    if word.startswith("seed:"):
        if not word.removeprefix("seed:").strip():
            raise Refused("`seed:` has no text", "write some behind it, as in `seed:web`")
        return word
    if not re.fullmatch(MAC, word):
        hint = "write six pairs of hexadecimal digits such as `02:00:00:00:00:01`, or `seed:TEXT`"
        raise Refused(f"{describe(word)} is no MAC address", hint)
    if int(word[:2], 16) & 1 or word == "00:00:00:00:00:00":
        hint = "the first pair must be even, as in `02:00:00:00:00:01`"
        raise Refused(f"`{word}` is not the address of a single interface", hint)
    return word.lower()


def container(value: object) -> str:
    """RUNTIME:NAME or NAME, as written."""
    word = text(value, "netns:web")
    runtime, colon, name = word.partition(":")
    if not colon:
        runtime, name = "", word
    if colon and runtime not in RUNTIMES:
        hint = closest(runtime, RUNTIMES) + f"runtimes: {listing(RUNTIMES)}; or write the name alone"
        raise Refused(f"unknown runtime {describe(runtime)}", hint)
    if not name or name in {".", ".."}:
        raise Refused(f"{describe(word)} names no container", "write RUNTIME:NAME, such as `netns:web`, or the name alone")
    if len(word) > 100:
        raise Refused(f"this container's name has {len(word)} characters", "100 are the most: use a shorter name or `pid:`")
    if not word.isprintable() or re.search(r"[\s/]", word):
        raise Refused(f"{describe(word)} has a `/` or white space in it", "write the container's name as `docker ps` shows it")
    if runtime == "pid" and not re.fullmatch(r"[1-9][0-9]{0,9}", name):
        raise Refused(f"{describe(name)} is no process number", "write a positive number, such as `pid:4711`")
    return word


def interface_name(value: object) -> str:
    """A name that the kernel takes (dev_valid_name in net/core/dev.c), of an interface other than the loopback."""
    word = text(value, "eth1")
    length = len(word.encode(errors="replace"))
    if length > IFNAMSIZ:
        raise Refused(f"{describe(word)} has {length} characters", f"{IFNAMSIZ} are the most")
    if not word or re.search(r"[\s/:%]", word) or not word.isprintable() or word in {".", ".."}:
        hint = "no `/`, `:`, `%` or white space, and not `.` or `..`; such as `eth1`"
        raise Refused(f"{describe(word)} is no interface name", hint)
    if word == "lo":
        raise Refused("`lo` is the loopback", "choose another name, such as `eth1`")
    if word in {"all", "default"}:
        hint = "choose another name, such as `eth1`"
        raise Refused(f"`{word}` is no interface name: in /proc/sys/net it stands for all or for new ones", hint)
    return word


def mtu(value: object) -> int:
    hint = f"write a number from {MIN_MTU} to {MAX_MTU}, without quotes"
    if not isinstance(value, int) or isinstance(value, bool):
        raise Refused(f"{describe(value)} is no number of bytes", hint)
    if not MIN_MTU <= value <= MAX_MTU:
        raise Refused(f"{describe(value)} is no MTU that a link can have", hint)
    return value


def rate(value: object) -> Rate:
    """`{ingress: 100mbit, egress: 20mbit}`, either or both."""
    forms = "write `{ingress: 100mbit, egress: 20mbit}`, or one of the two"
    if not isinstance(value, dict):
        raise Refused(f"{describe(value)} is no pair of limits", forms)
    unknown = [key for key in value if key not in ("ingress", "egress")]
    if unknown or not value:
        raise Refused(f"unknown key {describe(unknown[0])}" if unknown else "no limit in it", forms)
    return Rate(**{key: bits_per_second(limit) for key, limit in value.items()})


def bits_per_second(value: object) -> int:
    """As `tc` writes them: a number and a unit, in decimal (`100mbit` is 100,000,000)."""
    word = text(value, "100mbit")
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(bit|kbit|mbit|gbit)", word.lower())
    if not found:
        raise Refused(f"{describe(word)} is no rate", "write a number and bit, kbit, mbit or gbit, such as `100mbit`")
    bits = round(float(found[1]) * {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9}[found[2]])
    if not MIN_RATE <= bits <= MAX_RATE:
        raise Refused(f"{describe(word)} is no rate that can be kept", "from 8kbit to 100gbit")
    return bits


def vlan_ids(value: object) -> tuple[int, ...]:
    """Numbers and ranges, one or a list: `100`, `[100, "200-210"]`."""
    found: set[int] = set()
    for item in value if isinstance(value, list) else [value]:
        first, dash, last = (str(item) if not isinstance(item, bool) else "").partition("-")
        bounds = [first, last if dash else first]
        if not all(re.fullmatch("[0-9]{1,4}", bound) and 1 <= int(bound) <= MAX_VLAN for bound in bounds):
            raise Refused(f"{describe(item)} is neither a VLAN nor a range of them", "write `[100, 200-210]`: from 1 to 4094")
        if int(bounds[0]) > int(bounds[1]):
            raise Refused(f"{describe(item)} ends before it begins", f"write `{last}-{first}`")
        found |= set(range(int(bounds[0]), int(bounds[1]) + 1))
    return tuple(sorted(found))


def allowed_pairs(value: object) -> tuple[tuple[str, str], ...]:
    """`[[lan, pods], [pods, lan]]`: from, to."""
    forms = "write `[[FROM, TO], …]`, each the name of a leg"
    if not isinstance(value, list):
        raise Refused(f"{describe(value)} is no list of pairs", forms)
    for pair in value:
        if not (isinstance(pair, list) and len(pair) == 2 and all(isinstance(name, str) for name in pair)):
            raise Refused(f"{describe(pair)} is no pair of two names", forms)
    return tuple((source, target) for source, target in value)


LOOPBACK6 = IPv6Address(1)
RELAYED_AT_MOST = 4096
"""Ports there."""


class Listen(NamedTuple):
    """Ports `first` to `last`; `address` None: on every address."""

    address: IPAddress | None
    first: int
    last: int


class PortTarget(NamedTuple):
    """Ports `first` to `last` of a container."""

    container: str
    first: int
    last: int


def listen(value: object) -> Listen:
    """PORT, FIRST-LAST, ADDRESS:PORT or [V6]:PORT."""
    forms = "write `8088`, `8000-8010`, `192.0.2.1:8088` or `[2001:db8::1]:8088`"
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise Refused(f"{describe(value)} is no port", forms)
    host, colon, ports = value.rpartition(":")
    if not colon:
        return Listen(None, *port_range(ports, forms))
    bracketed = host.startswith("[") and host.endswith("]")
    try:
        found = ip_address(host.strip("[]"))
    except ValueError:
        raise Refused(f"{describe(value)} is no place to listen", forms) from None
    if bracketed != (found.version == 6):
        raise Refused(f"{describe(value)} is no place to listen", "an IPv6 address is in brackets, and no other is: " + forms)
    if "%" in host or found.is_multicast or found.is_link_local:
        raise Refused(f"`{found}` is no address that others can reach", "write a global address of the host's")
    return Listen(found, *port_range(ports, forms))


def port_target(value: object) -> PortTarget:
    """CONTAINER:PORT or CONTAINER:FIRST-LAST."""
    forms = "write CONTAINER:PORT, such as `netns:web:80`"
    word = text(value, "netns:web:80")
    name, colon, ports = word.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]+(-[0-9]+)?", ports):
        raise Refused(f"{describe(word)} has no port", forms)
    return PortTarget(container(name), *port_range(ports, forms))


def published(word: str) -> PublishedPort:
    """`[ADDRESS:]PORT[:TO][/PROTOCOL]`, as Docker users know it: nobody's yet. Without TO, the container's port is the same."""
    forms = "write `8088:80`, `127.0.0.1:5353:53/udp`, `[::1]:80` or `9000-9009:9000-9009`"
    where, its_protocol = with_protocol(word)
    head, colon, last = where.rpartition(":")
    if not colon or head.endswith("]") or re.fullmatch(r"[^:-]*\.[^:-]*", head):
        its = listen(where)
        to, to_last = its.first, its.last
    else:
        its, (to, to_last) = listen(head), port_range(last, forms)
    if to != to_last and to_last - to != its.last - its.first:
        message = f"{its.last - its.first + 1} ports lead to {to_last - to + 1}"
        raise Refused(f"{describe(word)}: {message}", "write ranges of one length, or one port for all of it")
    refuse_unrelayed(its, its_protocol)
    return PublishedPort("", "", "", "", its_protocol, its.first, its.last, to, to == to_last, its.address)


def with_protocol(word: str) -> tuple[str, Literal["tcp", "udp", "sctp"]]:
    """`53/udp` says its protocol, as for Docker; by default it is tcp."""
    head, slash, name = word.rpartition("/")
    return (head, protocol(name)) if slash else (word, "tcp")


def protocol(value: object) -> Literal["tcp", "udp", "sctp"]:
    match value:
        case "tcp" | "udp" | "sctp":
            return value
    raise Refused(f"{describe(value)} is no protocol of ports", "write tcp, udp or sctp")


def refuse_unrelayed(listen: Listen, protocol: str) -> None:
    """At ::1, which the kernel cannot translate, the agent answers, with a socket for each port."""
    number = listen.last - listen.first + 1
    if listen.address == LOOPBACK6 and protocol == "sctp":
        raise Refused("the agent does not relay sctp at `::1`", "write tcp or udp, or another address")
    if listen.address == LOOPBACK6 and number > RELAYED_AT_MOST:
        raise Refused(f"{number} ports at `::1`", f"{RELAYED_AT_MOST} are the most that the agent relays there")


def port_range(word: str, forms: str) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", word)
    bounds = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not all(1 <= bound <= MAX_PORT for bound in bounds):
        raise Refused(f"{describe(word)} is no port", f"from 1 to {MAX_PORT}: {forms}")
    if bounds[0] > bounds[1]:
        raise Refused(f"{describe(word)} ends before it begins", f"write `{bounds[1]}-{bounds[0]}`")
    return bounds


def nat(value: object) -> Nat:
    forms = "write `masquerade`, `none` or `{snat: ADDRESS}`"
    match value:
        case "masquerade":
            return Nat("masquerade")
        case "none":
            return Nat("none")
        case {"snat": source, **rest} if not rest:
            return Nat("snat", address(source))
        case {"snat": _, **rest}:
            raise Refused(f"unknown key {describe(next(iter(rest)))}: `nat` takes `snat` alone", forms)
        case dict():
            word = str(next(iter(value), ""))
            raise Refused(f"unknown key {describe(word)}", closest(word, ["snat"]) + forms)
        case str():
            raise Refused(f"{describe(value)} is no kind of nat", closest(value, ["masquerade", "none", "snat"]) + forms)
    raise Refused(f"{describe(value)} is no kind of nat", forms)


def container_gateway(value: object) -> bool | IPAddress:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in {"yes", "no", "on", "off"}:
        raise Refused(f"`{value}` is text in YAML 1.2", "write true or false, or an address")
    return address(value)


def route_target(value: object) -> IPNetwork | None:
    """A prefix, an address, or `default` (None)."""
    word = text(value, "10.2.0.0/16")
    if word == "default":
        return None
    if "/" not in word:
        return ip_network(address(word))
    return prefix(word, "10.2.0.0/16")


def special_address(subnet: IPNetwork, address: IPAddress) -> str:
    """What `address` stands for in `subnet` besides a single machine: its network or broadcast address (RFC 3021: none in
    a /31), or the subnet-router anycast address (RFC 4291, 2.6.1; RFC 6164: none in a /127)."""
    if isinstance(subnet, IPv6Network):
        anycast = subnet.prefixlen < 127 and address == subnet.network_address
        return "the subnet-router anycast address" if anycast else ""
    if subnet.prefixlen >= 31:
        return ""
    if address == subnet.network_address:
        return "the network address"
    return "the broadcast address" if address == subnet.broadcast_address else ""
