"""A thousand times attached and detached: the engine holds no more than before, and nothing is left anywhere."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest
from conftest import sh, until
from host import World, build_world, same

from ductwork.engine import AttachRequest, Engine

pytestmark = pytest.mark.netns

SITE = "networks: {lan: {driver: bridge, subnet: 10.1.1.0/24}}\nattachments: [{container: 'netns:<db>', network: lan}]\n"
CYCLES = 1000
_PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024


class Held(NamedTuple):
    descriptors: int
    threads: int
    rss_kib: int


def held() -> Held:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Held(len(os.listdir("/proc/self/fd")), threading.active_count(), pages * _PAGE_KIB)


@pytest.fixture
def world(netns: Callable[[str], str], tmp_path: Path) -> World:
    return build_world(netns, tmp_path)


def cycle(world: World, engine: Engine, times: int) -> None:
    web = f"netns:{world.names['web']}"
    for _ in range(times):
        engine.attach(AttachRequest(web, "lan", interface="eth1", gateway=True))
        engine.detach(web, "lan")


def test_a_thousand_cycles_leave_nothing(netns: Callable[[str], str], tmp_path: Path) -> None:
    """On four hosts at once, since what takes the time is the kernel's waiting for a deleted link's last reader."""
    worlds = [build_world(netns, tmp_path / str(number)) for number in range(4)]
    fars = []
    for world in worlds:
        world.apply(SITE)
        fars.append(world.eth0("web"))
    before = [world.snapshot() for world in worlds]
    measured: list[Held] = []
    meeting = threading.Barrier(len(worlds), action=lambda: measured.append(held()), timeout=120)

    def work(engine: Engine, world: World, far: str) -> None:
        cycle(world, engine, CYCLES // 40)
        meeting.wait()
        cycle(world, engine, CYCLES // 4)
        meeting.wait()
        world.kill("web")
        assert until(lambda: "eth0" not in sh(far, "ip", "link"), 2), "something keeps the dead namespace alive"

    with ThreadPoolExecutor(len(worlds)) as pool:
        runs = [pool.submit(world.engine, partial(work, world=world, far=far)) for world, far in zip(worlds, fars, strict=True)]
        for done in runs:
            done.result()
    early, late = measured
    assert late[:2] == early[:2]
    assert late.rss_kib - early.rss_kib < 2048
    for world, was in zip(worlds, before, strict=True):
        same(was["host"], world.snapshot()["host"])


def test_plans_and_failures_hold_nothing(world: World) -> None:
    """Engines that come and go, containers that are not there, and applies that are refused."""
    site, waiting = world.site(SITE), world.site(SITE.replace("<db>", "nobody"))
    sh(world.host, "ip", "link", "add", "name", "dw-taken", "type", "bridge")
    taken = world.site(SITE.replace("lan", "taken"), "second")

    def cycle() -> None:
        world.engine(lambda engine: engine.apply(site, ""))
        world.engine(lambda engine: engine.plan(waiting, ""))
        with pytest.raises(Exception, match="in the way"):
            world.engine(lambda engine: engine.apply(taken, ""))
        world.destroy()

    cycle()
    early = held()
    for _ in range(10):
        cycle()
    assert held()[:2] == early[:2]
