"""Ports opened by hand, and what of them is remembered, in part or no longer."""

from __future__ import annotations

import json
import socket

import pytest
from conftest import inside
from host import World
from test_publish import HOST, SITE, listed, publish, unpublish, world

from ductwork.errors import ConflictError, DuctworkError
from ductwork.store.sqlite import SqliteStore

__all__ = ["world"]
pytestmark = pytest.mark.netns


@pytest.mark.parametrize("forgotten", ["8005", "8000-8005", "8005-8006"])
def test_a_lost_store_and_a_range_of_the_file(world: World, forgotten: str) -> None:
    """What it forgot is in the way, be it in another map."""
    world.settle(SITE)
    publish(world, forgotten, f"<db>:{forgotten}")
    for file in world.state.iterdir():
        file.unlink()
    with pytest.raises(ConflictError, match=f"port {forgotten}/tcp leads to .* already, and belongs to publish office"):
        world.apply(SITE + 'ports: [{listen: 8004-8010, to: "netns:<web>:8004-8010"}]\n')
    world.apply(SITE + 'ports: [{listen: 8004-8010, to: "netns:<web>:8004-8010", protocol: udp}]\n')


@pytest.mark.parametrize("lost", ["ports", "numbers of ports"])
def test_what_is_remembered_in_half(world: World, lost: str) -> None:
    """Whoever was killed between the two: `apply` makes it whole. At ::1, nothing but the memory tells of a port."""
    site = SITE + 'ports: [{listen: "[::1]:8088", to: "netns:<web>:80"}]\n'
    world.settle(site)
    [file] = world.state.glob("*.db")
    store = SqliteStore(file)
    [name] = store.remembered(lost)
    store.remember(lost, name, None)
    store.close()
    assert listed(world) in ([], [("[::1]:8088", "tcp", "site", "needs the agent")])
    world.apply(site)
    with pytest.raises(ConflictError, match="is published already by site"):
        publish(world, "[::1]:8088", "<db>:80")


@pytest.mark.parametrize(("where", "to", "part"), [("7000-7002", "<web>:79-81", "7001"), ("7000", "<web>:79", "0.0.0.0:7000")])
def test_no_part_is_closed(world: World, where: str, to: str, part: str) -> None:
    world.settle(SITE)
    publish(world, where, to)
    with pytest.raises(DuctworkError, match=f"{where} is"):
        unpublish(world, part)
    assert not world.apply(SITE).operations


def test_undo_opens_what_destroy_has_closed(world: World) -> None:
    """To where it led last."""
    world.settle(SITE)
    publish(world, "8088", "<web>:80")
    unpublish(world, "8088")
    publish(world, "8088", "<db>:80")
    world.destroy()
    world.engine(lambda engine: engine.undo())
    [row] = json.loads(world.cli("ports", "--json").out)
    assert (row["container"], row["state"]) == (world.fill("netns:<db>"), "published")
    assert not world.apply(SITE).operations


def test_a_connection_stays_with_a_range_that_grows(world: World) -> None:
    """Its port leads where it did."""
    site = (
        SITE.replace("driver: bridge", "driver: bridge, nat: none")
        + 'ports: [{listen: 8000-8010, to: "netns:<web>:8000-8010"}]\n'
    )
    world.settle(site)
    with inside(world.names["web"], lambda: socket.create_server(("10.1.1.2", 8005))) as server:
        client = inside(world.names["out"], lambda: socket.create_connection((HOST, 8005), 5))
        accepted, _ = server.accept()
        with client, accepted:
            world.settle(site.replace("8010", "8020"))
            accepted.sendall(b"still")
            assert client.recv(9) == b"still"
