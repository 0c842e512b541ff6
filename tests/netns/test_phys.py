"""A NIC lent to a container, and given back as it was. The NICs here are veth pairs that are taken for hardware: what happens
to a real one whose container dies is for the VM."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from conftest import sh, until
from host import World, same, snapshot
from lent_nic import build_lender
from test_crash import moments, nothing

from ductwork.backends.nic import NicReader
from ductwork.engine import AttachRequest
from ductwork.errors import DuctworkError
from ductwork.front.changes import as_commands
from ductwork.resources import NicFacts

pytestmark = pytest.mark.netns

SITE = """
networks:
  direct: {driver: phys, device: nic7, subnet: 192.168.7.0/24}
attachments:
  - {container: "netns:<web>", network: direct, interface: lan0, address: 192.168.7.2}
"""


@pytest.fixture
def world(netns: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    return build_lender(netns, tmp_path)


@pytest.fixture
def hardware(monkeypatch: pytest.MonkeyPatch) -> None:
    read = NicReader.read

    def told(self: NicReader, names: list[str]) -> dict[str, NicFacts]:
        return {name: replace(known, virtual=False) for name, known in read(self, names).items()}

    monkeypatch.setattr(NicReader, "read", told)


def settled(world: World) -> dict[str, object]:
    assert until(lambda: "tentative" not in sh(world.host, "ip", "address"))
    found: dict[str, object] = world.snapshot()
    return found


@pytest.mark.usefixtures("hardware")
def test_lent_and_given_back(world: World) -> None:
    before = settled(world)
    world.settle(SITE)
    assert world.ping("web", "192.168.7.9")
    assert "nic7" not in sh(world.host, "ip", "link")
    world.destroy()
    same(before, settled(world))
    world.settle(SITE)
    world.engine(lambda engine: engine.undo())
    same(before, settled(world))


@pytest.mark.usefixtures("hardware")
def test_given_back_when_the_file_no_longer_has_it(world: World) -> None:
    before = settled(world)
    world.settle(SITE)
    world.settle("networks: {direct: {driver: phys, device: nic7}}\nattachments: []\n")
    same(before, settled(world))


@pytest.mark.usefixtures("hardware")
def test_by_hand(world: World) -> None:
    before = settled(world)
    network = "{driver: phys, device: nic7, subnet: 192.168.7.0/24, hosts: [alpha]}"
    world.apply(f"hosts: {{alpha: {{}}}}\nnetworks: {{direct: {network}}}\n", host="alpha")
    request = AttachRequest("netns:" + world.names["db"], "direct", addresses=(ip_address("192.168.7.2"),))
    report = world.engine(lambda engine: engine.attach(request))
    assert any("comes back" in note for note in report.notes)
    assert world.ping("db", "192.168.7.9")
    world.engine(lambda engine: engine.detach(request.container, "direct"))
    same(before, settled(world))


@pytest.mark.usefixtures("hardware")
def test_killed_on_its_way(world: World) -> None:
    """At each send, there and back: the next command knows it again."""
    before, site = settled(world), world.site(SITE)
    world.apply(SITE)
    wanted = settled(world)
    world.destroy()
    for moment in moments(world, lambda engine: engine.apply(site, ""), nothing):
        if moment % 2:
            world.apply(SITE)
            same(wanted, settled(world))
        world.destroy()
        same(before, settled(world))
    for moment in moments(world, lambda engine: engine.destroy("office"), lambda: world.apply(SITE)):
        if moment % 2:
            world.apply(SITE)
            same(wanted, settled(world))
        world.destroy()
        same(before, settled(world))


@pytest.mark.usefixtures("hardware")
@pytest.mark.parametrize("name", ["office", None], ids=["its site", "everything"])
def test_another_host_of_this_machine_leaves_it(
    world: World, netns: Callable[[str], str], tmp_path: Path, name: str | None
) -> None:
    """And its own knows it by the mark alone, when the journal is lost."""
    world.apply(SITE)
    lent = settled(world)
    beta = World(netns, tmp_path / "beta", netns("beta"))
    beta.directory.mkdir()
    empty = snapshot(beta.host)
    beta.destroy(name)
    same(empty, snapshot(beta.host))
    same(lent, settled(world))
    shutil.rmtree(world.run_directory)
    world.destroy(name)
    assert "nic7" in sh(world.host, "ip", "link")


@pytest.mark.usefixtures("hardware")
def test_the_printed_commands(world: World) -> None:
    """There and back: typed, they leave nothing to do."""
    without = SITE[: SITE.index("attachments:")]
    for text in (SITE, without):
        site = world.site(text)
        preview = world.engine(lambda engine, site=site: engine.plan(site, ""))
        lines = as_commands(preview.plan.operations, lambda name: name.rpartition(":")[2])
        sh(world.host, "sh", "-ec", "\n".join(lines))
        assert not world.engine(lambda engine, site=site: engine.plan(site, "")).plan.operations
    assert "nic7" in sh(world.host, "ip", "link")


def test_what_would_die_with_its_container_is_refused(world: World) -> None:
    before = settled(world)
    with pytest.raises(DuctworkError, match="would die with its container"):
        world.apply(SITE)
    same(before, settled(world))
