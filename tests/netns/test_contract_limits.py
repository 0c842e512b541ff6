"""The contract suite, continued: limits of what leaves by a link, and detours of what comes in."""

from __future__ import annotations

from dataclasses import replace

import pytest
from conftest import sh
from machines import Machine, Real, fresh, plug_in, read

from ductwork.resources import HOST, Create, Delete, Key, Link, Owner, Redirect, Resource, Shaper, Update
from ductwork.resources.shaper import burst_bytes

THROUGH = "diweb"


def made(machine: Machine) -> tuple[Link, Shaper, Redirect]:
    """The device, the limit on it, and the detour by its way, at the host's end of a pair; nothing of it there yet."""
    host_end, _, _ = plug_in(machine)
    owner: Owner | None = host_end.owner
    ifb = Link(HOST, THROUGH, "ifb", "02:00:00:00:00:0d", 1500, owner=owner)
    return ifb, Shaper(HOST, THROUGH, 8_000_000, 12_288, owner), Redirect(HOST, host_end.name, THROUGH, owner)


def limits(machine: Machine) -> dict[Key, Resource]:
    return {key: r for key, r in read(machine).items() if isinstance(r, Shaper | Redirect)}


def test_limits_and_detours(machine: Machine) -> None:
    ifb, shaper, detour = made(machine)
    ingress = replace(shaper, link=detour.link)
    assert machine.do(*map(Create, (ifb, shaper, ingress, detour))) == [""] * 4
    assert limits(machine) == {r.key: r for r in (shaper, ingress, detour)}
    assert machine.do(Create(shaper), Create(detour)) != ["", ""], "they are there"
    tighter = replace(shaper, bits_per_second=64_000, burst_bytes=4096)
    assert machine.do(Update(shaper, tighter)) == [""]
    assert limits(machine)[shaper.key] == tighter
    gone = [*map(Delete, (detour, ingress, tighter)), Delete(fresh(machine, ifb))]
    assert machine.do(*gone) == [""] * 4
    assert machine.do(*map(Delete, (detour, ingress))) == ["", ""], "they are gone"
    assert limits(machine) == {}


def test_they_go_with_their_link(machine: Machine) -> None:
    ifb, shaper, detour = made(machine)
    ingress = replace(shaper, link=detour.link)
    assert machine.do(*map(Create, (ifb, shaper, ingress, detour))) == [""] * 4
    assert machine.do(Delete(fresh(machine, ifb))) == [""]
    assert limits(machine) == {r.key: r for r in (ingress, replace(detour, to=""))}
    [host_end] = [r for r in read(machine).values() if isinstance(r, Link) and r.name == detour.link]
    assert machine.do(Delete(host_end)) == [""]
    assert limits(machine) == {}


def test_a_detour_needs_its_device(machine: Machine) -> None:
    _, shaper, detour = made(machine)
    assert machine.do(Create(shaper), Create(detour)) == ["No such device", "No such device"]


@pytest.mark.parametrize("mtu_bytes", [1280, 1500, 9000, 65_535])
@pytest.mark.parametrize("bits", [8_000, 64_000, 1_000_000, 33_333_336, 10**9, 40 * 10**9, 10**11])
def test_any_limit_is_read_as_it_was_made(real: Real, bits: int, mtu_bytes: int) -> None:
    """The kernel keeps the burst as a time, and more than 32 bits of octets a second elsewhere."""
    ifb, _, _ = made(real)
    burst = burst_bytes(bits, mtu_bytes)
    assert burst > mtu_bytes
    shaper = Shaper(HOST, THROUGH, bits, burst, ifb.owner)
    assert real.do(Create(ifb), Create(shaper)) == ["", ""]
    assert limits(real) == {shaper.key: shaper}


def test_what_is_not_ours_is_not_seen(real: Real) -> None:
    _, shaper, detour = made(real)
    bucket = ("tbf", "rate", "8mbit", "burst", "12288", "limit", "99999")
    sh(real.host, "tc", "qdisc", "add", "dev", detour.link, "root", "handle", "7:", *bucket)
    sh(real.host, "tc", "qdisc", "add", "dev", detour.link, "ingress")
    passing = ("u32", "match", "u32", "0", "0", "action", "mirred", "egress", "redirect", "dev", "dw-br")
    sh(
        real.host,
        "tc",
        "filter",
        "add",
        "dev",
        detour.link,
        "parent",
        "ffff:",
        "pref",
        "7",
        "protocol",
        "all",
        *passing,
        check=False,
    )
    assert limits(real) == {}
    assert real.do(Create(replace(shaper, link=detour.link))) != [""]
    assert real.do(Delete(replace(shaper, link=detour.link))) == [""]
    assert "qdisc tbf 7:" in sh(real.host, "tc", "qdisc", "show", "dev", detour.link)
