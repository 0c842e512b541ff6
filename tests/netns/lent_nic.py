"""A host whose NIC `nic7` leads to a LAN with another machine, and has more on it than an address."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from conftest import sh, until
from host import World, build_world
from lan import Lan


def build_lender(make: Callable[[str], str], directory: Path) -> World:
    """`make` is the fixture `netns`, `directory` that of the test; the other machine is `other`."""
    made = build_world(make, directory)
    lan = Lan(make)
    lan.plug_in(made.host, "nic7")
    made.names["other"] = lan.machine("other", "192.168.7.9/24")
    for address in ("192.168.7.1/24", "192.168.7.3/24", "10.7.0.1/32"):
        sh(made.host, "ip", "address", "add", address, "dev", "nic7")
    sh(made.host, "ip", "address", "add", "2001:db8:7::1/64", "dev", "nic7", "nodad")
    sh(made.host, "ip", "route", "add", "default", "via", "192.168.7.254", "metric", "50")
    sh(made.host, "ip", "-6", "route", "add", "2001:db8:8::/48", "via", "2001:db8:7::9", "table", "100")
    sh(made.host, "sysctl", "-qw", "net.ipv4.conf.nic7.rp_filter=2", "net.ipv6.conf.nic7.accept_ra=0")
    assert until(lambda: "tentative" not in sh(made.host, "ip", "address"))
    return made
