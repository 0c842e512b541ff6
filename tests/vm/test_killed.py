"""Killed before and after a send, on this kernel: every few moments of those that tests/netns/test_crash.py tries all."""

from __future__ import annotations

from host import World, same
from test_crash import SITE, before_and_wanted, moments, nothing, world

__all__ = ["world"]  # a fixture

STEP = 17


def test_killed_while_applying(world: World) -> None:
    site = world.site(SITE)
    before, wanted = before_and_wanted(world, site)
    for _ in moments(world, lambda engine: engine.apply(site, "alpha"), nothing, step=STEP, first=3):
        world.engine(lambda engine: engine.apply(site, "alpha"))
        same(wanted, world.snapshot())
        world.destroy()
        same(before, world.snapshot())


def test_killed_while_destroying(world: World) -> None:
    site = world.site(SITE)
    before, _ = before_and_wanted(world, site)

    def applied() -> None:
        world.engine(lambda engine: engine.apply(site, "alpha"))

    for _ in moments(world, lambda engine: engine.destroy("office"), applied, step=STEP, first=6):
        world.destroy()
        same(before, world.snapshot())
    world.destroy()
