"""Killed before and after each send, in turn: the next `apply` makes it as if nothing had happened, and `destroy` leaves the
host as it was before; also where the state directory, or the run directory, is lost in between.

A run tries one moment of three, beginning with another one each time (`DUCTWORK_SEED`, as it prints, begins there again);
`DUCTWORK_STRIDE=1` tries all.

Invariant of these tests: one host is used for all deaths of a test, so each begins where the one before has ended.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from host import World, build_world, forget, same

from ductwork.engine import Engine
from ductwork.site.model import Site

pytestmark = pytest.mark.netns

STRIDE = int(os.environ.get("DUCTWORK_STRIDE", "3"))
SEED = int(os.environ.get("DUCTWORK_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)

SITE = """
hosts:
  alpha: {address: 192.0.2.1/24}
  beta: {address: 192.0.2.2/24}
networks:
  lan: {driver: bridge, subnets: [10.1.1.0/24, "fd00:1::/64"]}
  pods: {driver: vxlan, vni: 42, subnet: 10.2.2.0/24, host_addresses: {alpha: 10.2.2.251, beta: 10.2.2.252}}
attachments:
  - {container: "netns:<web>", host: alpha, network: lan, address: [10.1.1.2, "fd00:1::2"], gateway: true,
     rate: {ingress: 100mbit, egress: 20mbit}}
  - {container: "netns:<db>", host: alpha, network: pods, address: 10.2.2.3, routes: [{to: 10.7.0.0/16, via: 10.2.2.1}]}
  - {container: "netns:elsewhere", host: beta, network: pods, address: 10.2.2.4}
"""
CHANGED = """
hosts:
  alpha: {address: 192.0.2.1/24}
  beta: {address: 192.0.2.2/24}
networks:
  lan: {driver: bridge, subnet: 10.1.0.0/16, nat: {snat: 192.0.2.1}, isolated: true}
  pods: {driver: vxlan, vni: 43, subnet: 10.2.2.0/24, allocate: {alpha: 10.2.2.10-10.2.2.19}}
attachments:
  - {container: "netns:<web>", host: alpha, network: pods, gateway: true}
  - {container: "netns:<db>", host: alpha, network: lan, address: 10.1.1.9, mtu: 1400, spoofing: allow, rate: {egress: 1mbit}}
  - {container: "netns:elsewhere", host: beta, network: pods, address: 10.2.2.5}
"""
Work = Callable[[Engine], object]


@pytest.fixture
def world(netns: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Without iptables, whose eight programs take longer than all else; `test_killed_beside_iptables` has it."""
    monkeypatch.setattr(shutil, "which", lambda _: None)
    made = build_world(netns, tmp_path)
    made.uplink()
    made.eth0("web")
    return made


def dies(world: World, moment: int, work: Work) -> bool:
    """Whether the work, in a process of its own, got as far as the n-th moment, and was killed there."""
    child = os.fork()
    if child == 0:
        _work_until(world, moment, work)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def _work_until(world: World, moment: int, work: Work) -> NoReturn:
    left = moment

    def gate(_: str) -> None:
        nonlocal left
        left -= 1
        if not left:
            os.kill(os.getpid(), signal.SIGKILL)

    code = 1
    try:
        world.engine(work, gate)
        code = 0
    finally:
        os._exit(code)


def moments(
    world: World, work: Work, between: Callable[[], object], grain: int = 1, stride: int = STRIDE, last: int = 1000
) -> Iterator[int]:
    """Moments at which the work was killed. `between`: what is done before it is begun. `grain`: 2 where only what is after a
    send differs. The first is early enough for any work, however long the stride."""
    print(f"DUCTWORK_SEED={SEED}")
    moment = first = grain * (1 + SEED % min(stride, 8))
    between()
    while moment <= last and dies(world, moment, work):
        print(f"killed at moment {moment}")
        yield moment
        moment += grain * stride
        between()
    assert moment > first, "not once"


def nothing() -> None:
    """Needs to be done."""


def before_and_wanted(world: World, site: Site) -> tuple[Any, Any]:
    """How the host is without the site, and with it."""
    before = world.snapshot()
    world.engine(lambda engine: engine.apply(site, "alpha" if site.hosts else ""))
    wanted = world.snapshot()
    world.destroy()
    same(before, world.snapshot())
    return before, wanted


def test_killed_while_applying(world: World) -> None:
    site = world.site(SITE)
    before, wanted = before_and_wanted(world, site)
    for _ in moments(world, lambda engine: engine.apply(site, "alpha"), nothing):
        world.engine(lambda engine: engine.apply(site, "alpha"))
        same(wanted, world.snapshot())
        world.destroy()
        same(before, world.snapshot())
    assert not world.engine(lambda engine: engine.apply(site, "alpha")).operations


def test_killed_while_changing(world: World) -> None:
    site, changed = world.site(SITE), world.site(CHANGED)
    before, wanted = before_and_wanted(world, changed)
    for moment in moments(
        world,
        lambda engine: engine.apply(changed, "alpha"),
        lambda: world.engine(lambda engine: engine.apply(site, "alpha")),
    ):
        world.engine(lambda engine: engine.apply(changed, "alpha"))
        same(wanted, world.snapshot())
        if moment % 8 < STRIDE:
            world.destroy()
            same(before, world.snapshot())


@pytest.mark.parametrize("then", ["apply", "destroy"])
def test_killed_while_destroying(world: World, then: str) -> None:
    site = world.site(SITE)
    before, wanted = before_and_wanted(world, site)
    for _ in moments(
        world,
        lambda engine: engine.destroy("office"),
        lambda: world.engine(lambda engine: engine.apply(site, "alpha")),
    ):
        if then == "destroy":
            world.destroy()
            same(before, world.snapshot())
        else:
            world.engine(lambda engine: engine.apply(site, "alpha"))
            same(wanted, world.snapshot())
    same(before, world.snapshot())


@pytest.mark.parametrize("what", ["state", "run"])
def test_killed_and_a_directory_lost(world: World, what: str) -> None:
    """After each send; between it and the next there is nothing more to lose."""
    site = world.site(SITE)
    before, wanted = before_and_wanted(world, site)
    for _ in moments(world, lambda engine: engine.apply(site, "alpha"), nothing, grain=2):
        forget(world.directory / what)
        world.engine(lambda engine: engine.apply(site, "alpha"))
        same(wanted, world.snapshot())
        forget(world.directory / what)
        world.destroy()
        same(before, world.snapshot())
    for _ in moments(
        world,
        lambda engine: engine.destroy("office"),
        lambda: world.engine(lambda engine: engine.apply(site, "alpha")),
        grain=2,
    ):
        forget(world.directory / what)
        world.engine(lambda engine: engine.apply(site, "alpha"))
        same(wanted, world.snapshot())


def test_killed_beside_iptables(netns: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One family of the two, which go the same way; when applying, the filter comes first."""
    monkeypatch.setattr(shutil, "which", lambda program: program if program == "iptables" else None)
    world = build_world(netns, tmp_path)
    world.uplink()
    site = world.site(
        "networks: {lan: {driver: bridge, subnet: 10.1.1.0/24}}\n"
        'attachments: [{container: "netns:<web>", network: lan, address: 10.1.1.2}]\n',
    )
    before, wanted = before_and_wanted(world, site)
    for _ in moments(
        world,
        lambda engine: engine.destroy("office"),
        lambda: world.engine(lambda engine: engine.apply(site, "")),
    ):
        world.engine(lambda engine: engine.apply(site, ""))
        same(wanted, world.snapshot())
    for _ in moments(world, lambda engine: engine.apply(site, ""), world.destroy, last=10):
        world.engine(lambda engine: engine.apply(site, ""))
        same(wanted, world.snapshot())
    world.destroy()
    same(before, world.snapshot())
