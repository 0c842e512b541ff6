"""Names and MAC addresses that ductwork makes: pure functions of what they name, so that every host agrees on them."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import lru_cache

IFNAMSIZ = 15
"""Longest interface name (include/uapi/linux/if.h, less the terminating zero)."""


@lru_cache(4096)
def host_ifname(container: str, interface: str) -> str:
    """The host's end of an attachment: `dw`, the container's first letters, seven characters of digest."""
    readable = re.sub(r"[^a-z0-9]", "", container.rpartition(":")[2].lower())[:5]
    return f"dw{readable}-{_digest(container, interface)}"


def ifb_ifname(container: str, interface: str) -> str:
    """The device by whose way an attachment's limited packets go: as the host's end, with another beginning."""
    return f"di{host_ifname(container, interface).removeprefix('dw')}"


def bridge_ifname(network: str) -> str:
    return _shortened("dw-", network)


def vxlan_ifname(network: str) -> str:
    return _shortened("vx-", network)


@lru_cache(16384)
def mac_address(*seed: str) -> str:
    """A stable, locally administered unicast MAC (IEEE 802: second-lowest bit of the first octet)."""
    octets = hashlib.blake2b("\0".join(seed).encode(), digest_size=5).digest()
    return ":".join(f"{octet:02x}" for octet in (0x02, *octets))


def _shortened(prefix: str, name: str) -> str:
    if len(prefix) + len(name) <= IFNAMSIZ:
        return prefix + name
    return f"{prefix}{name[:4]}-{_digest(name)}"


def _digest(*parts: str) -> str:
    """35 bits: with a thousand attachments on a host, one chance in 70,000 that two names are the same."""
    raw = hashlib.blake2b("\0".join(parts).encode(), digest_size=5).digest()
    return base64.b32encode(raw).decode().lower()[:7]
