"""Hostile surroundings: what is in the way is named and left alone; what races is survived; what is foreign is untouched."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import pytest
from conftest import run, sh
from host import World, build_world, cookie, same

from ductwork.errors import ApplyError, ConflictError, ContainerError
from ductwork.naming import host_ifname
from ductwork.reconciler import Report
from ductwork.resources import Owner

pytestmark = pytest.mark.netns

SITE = """
networks:
  lan: {driver: bridge, subnet: 10.1.1.0/24}
attachments:
  - {container: "netns:<web>", network: lan, address: 10.1.1.2}
  - {container: "netns:<db>", network: lan, address: 10.1.1.3}
"""


@pytest.fixture
def world(netns: Callable[[str], str], tmp_path: Path) -> World:
    return build_world(netns, tmp_path)


def at_moment(moment: int, deed: Callable[[], object]) -> Callable[[str], None]:
    """A gate by which something happens once, at the n-th moment around a send."""
    left = moment

    def gate(_: str) -> None:
        nonlocal left
        left -= 1
        if not left:
            deed()

    return gate


def foreign(ns: str, name: str, *words: str) -> None:
    """Somebody's link."""
    macs = [f"02:ff:00:00:{end}:{sum(name.encode()) % 256:02x}" for end in ("00", "01")]
    peer = ["peer", "name", f"{name[:13]}-p", "address", macs[1]]
    run("ip", "-n", ns, "link", "add", "name", name, "address", macs[0], "type", "veth", *peer)
    run("ip", "-n", ns, "link", "set", "dev", name, *(words or ("down",)))


# in the way, and seen


def _bridge_name(world: World) -> str:
    foreign(world.host, "dw-lan")
    return "dw-lan"


def _bridge(world: World) -> str:
    """The right kind does not make it ours."""
    run("ip", "-n", world.host, "link", "add", "name", "dw-lan", "type", "bridge")
    return "dw-lan"


def _host_end(world: World) -> str:
    name = host_ifname(f"netns:{world.names['web']}", "eth1")
    foreign(world.host, name)
    return name


def _container_interface(world: World) -> str:
    foreign(world.names["web"], "eth1")
    return "eth1"


def _nft_element(world: World) -> str:
    sh(world.host, "nft", "add table inet ductwork; add set inet ductwork bridges { type ifname; }")
    sh(world.host, "nft", 'add element inet ductwork bridges { "dw-lan" }')
    return "dw-lan"


def _gateway_address(world: World) -> str:
    foreign(world.host, "eth9", "up")
    sh(world.host, "ip", "address", "add", "10.1.1.1/32", "dev", "eth9")
    return "10.1.1.1"


def _container_address(world: World) -> str:
    foreign(world.names["web"], "eth9", "up")
    sh(world.names["web"], "ip", "address", "add", "10.1.1.2/32", "dev", "eth9")
    return "10.1.1.2"


@pytest.mark.parametrize(
    "obstruct",
    [_bridge_name, _bridge, _host_end, _container_interface, _nft_element, _gateway_address, _container_address],
)
def test_in_the_way(world: World, obstruct: Callable[[World], str]) -> None:
    named = obstruct(world)
    before = world.snapshot()
    with pytest.raises(ConflictError) as caught:
        world.apply(SITE)
    assert named in caught.value.message
    same(before, world.snapshot())


def test_in_the_way_by_the_command_line(world: World) -> None:
    foreign(world.host, "dw-lan")
    before = world.snapshot()
    site = world.write(SITE)
    for command in ("plan", "apply"):
        assert "link dw-lan is in the way" in world.cli(command, site, code=1).err
    same(before, world.snapshot())


# in the way, half-way


@pytest.mark.parametrize("moment", [1, 5])
@pytest.mark.parametrize("where", ["host", "web"])
def test_a_link_that_races_into_the_way(world: World, where: str, moment: int) -> None:
    """5: after the packet filter, before the links."""
    ns, name = (world.host, "dw-lan") if where == "host" else (world.names["web"], "eth1")
    foreign(ns, name, "alias", "theirs")
    expected = world.snapshot()
    run("ip", "-n", ns, "link", "del", "dev", name)
    with pytest.raises(ApplyError) as caught:
        world.apply(SITE, gate=at_moment(moment, lambda: foreign(ns, name, "alias", "theirs")))
    assert name in caught.value.message or host_ifname(f"netns:{world.names['web']}", "eth1") in caught.value.message
    assert "taken back" in caught.value.message
    same(expected, world.snapshot())


# an interrupt (ctrl-C, SIGTERM)


@pytest.mark.parametrize("moment", [2, 7, 12])
def test_an_interrupted_apply_is_taken_back(world: World, moment: int) -> None:
    world.uplink()
    before = world.snapshot()

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(ApplyError, match=r"interrupted\. What was begun was taken back"):
        world.apply(SITE, gate=at_moment(moment, interrupt))
    same(before, world.snapshot())
    assert world.apply(SITE).rounds == 1


# foreign, and left alone


def test_what_is_foreign_is_untouched(world: World) -> None:
    world.uplink()
    mark = Owner("office", "site", "lan").alias("dw-lan", "bridge")
    foreign(world.host, "copied", "alias", mark, "group", "7")
    foreign(world.host, "grouped", "group", "70000")
    inside_mark = Owner("office", "site", "lan", f"netns:{world.names['web']}", "fake", cookie(world.names["web"]))
    foreign(world.names["web"], "fake", "alias", inside_mark.alias("fake", "veth"))
    sh(world.host, "ip", "rule", "add", "fwmark", "5", "lookup", "100")
    sh(world.host, "ip", "route", "add", "10.9.0.0/16", "via", "192.0.2.2", "table", "100")
    sh(world.host, "ip", "route", "add", "10.9.0.0/16", "via", "192.0.2.2", "proto", "220")
    sh(world.host, "nft", "add table inet theirs; add chain inet theirs c { type filter hook forward priority 0; }")
    sh(world.host, "iptables", "-A", "FORWARD", "-m", "mark", "--mark", "0x10000000/0x10000000", "-j", "ACCEPT")
    before = world.snapshot()
    world.settle(SITE)
    world.settle(SITE.replace("10.1.1.", "10.1.2."))
    world.engine(lambda engine: engine.undo())
    world.destroy()
    same(before, world.snapshot())
    world.settle(SITE)
    world.destroy(None)
    same(before, world.snapshot())


def test_what_others_put_on_our_bridge_stays_there(world: World) -> None:
    before = world.snapshot()
    world.settle(SITE)
    foreign(world.host, "theirs")
    sh(world.host, "ip", "link", "set", "dev", "theirs", "master", "dw-lan", "up")
    sh(world.host, "ip", "address", "add", "10.1.1.77/24", "dev", "dw-lan", "label", "dw-lan:x")
    sh(world.host, "ip", "route", "add", "10.8.0.0/16", "via", "10.1.1.2")
    theirs = world.snapshot()
    world.settle(SITE)
    same(theirs, world.snapshot())
    report = world.destroy()
    assert "dw-lan" in {resource.key.ident[0] for resource in report.kept}
    assert "master dw-lan" in sh(world.host, "ip", "link", "show", "dev", "theirs")
    assert "10.1.1.77/24" in sh(world.host, "ip", "address", "show", "dev", "dw-lan")
    assert "eth1" not in sh(world.names["web"], "ip", "link")
    assert not world.destroy().operations
    kept = world.cli("destroy", world.write(SITE)).out
    assert "kept: bridge dw-lan" in kept
    sh(world.host, "ip", "link", "del", "dev", "theirs")
    world.destroy()
    same(before, world.snapshot())


def test_the_bridge_of_another_site_is_in_the_way(world: World) -> None:
    world.settle(SITE)
    before = world.snapshot()
    with pytest.raises(ConflictError, match="belongs to site office"):
        world.apply(SITE.replace("netns:<web>", "netns:none").replace("netns:<db>", "netns:nobody"), "second")
    same(before, world.snapshot())


@pytest.mark.parametrize("name", ["n", "m", "dev", "up"])
def test_links_named_like_keywords(world: World, name: str) -> None:
    foreign(world.host, name, "up")
    sh(world.host, "ip", "address", "add", "192.0.2.1/24", "dev", name)
    sh(world.host, "ip", "route", "add", "default", "via", "192.0.2.2")
    before = world.snapshot()
    text = SITE.replace("address: 10.1.1.2", f"address: 10.1.1.2, interface: {name}")
    world.settle(text.replace("driver: bridge", f"driver: bridge, bridge: {name}x"))
    assert world.ping("web", "10.1.1.3")
    world.destroy()
    same(before, world.snapshot())


# at once


def test_two_applies_at_once(world: World) -> None:
    site = world.write(SITE)
    world.cli("apply", site)
    wanted = world.snapshot()
    world.cli("destroy", site)
    processes = [world.start("apply", site) for _ in range(2)]
    for process in processes:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, out + err
    same(wanted, world.snapshot())
    assert "nothing to do" in world.cli("apply", site).out


def test_a_second_apply_waits_for_the_first(world: World) -> None:
    """Begun while the first is about to send, it finds all done."""
    with ThreadPoolExecutor(1) as pool:
        second: list[Future[Report]] = []

        def begin() -> None:
            second.append(pool.submit(world.apply, SITE))
            done, _ = wait(second, timeout=0.3)
            assert not done

        assert world.apply(SITE, gate=at_moment(1, begin)).operations
        assert not second[0].result().operations


# containers that go and come


@pytest.mark.parametrize("moment", range(1, 24, 2))
def test_a_container_dies_between_reading_and_acting(world: World, moment: int) -> None:
    report = world.apply(SITE, gate=at_moment(moment, lambda: world.kill("web")))
    assert not os.path.exists(f"/run/netns/{world.names['web']}"), "there are fewer moments by now"
    assert moment > 12 or f"netns:{world.names['web']}" in report.waiting
    assert world.ping("db", "10.1.1.1")
    world.settle(SITE)
    assert host_ifname(f"netns:{world.names['web']}", "eth1") not in sh(world.host, "ip", "link")


@pytest.mark.parametrize("moment", range(1, 24, 2))
def test_a_container_starts_anew_between_reading_and_acting(world: World, moment: int) -> None:
    def restart() -> None:
        world.kill("web")
        world.container("web")

    world.apply(SITE, gate=at_moment(moment, restart))
    world.apply(SITE)
    assert world.ping("web", "10.1.1.3")
    assert not world.apply(SITE).operations


def test_a_container_that_dies_while_all_is_taken_away(world: World) -> None:
    before = world.snapshot()["host"]
    world.settle(SITE)
    world.destroy(gate=at_moment(1, lambda: world.kill("web")))
    same(before, world.snapshot()["host"])


# namespaces that are not a container's own


def refuses(world: World, text: str, words: str) -> None:
    before = world.snapshot()
    with pytest.raises(ContainerError, match=words):
        world.apply(text)
    same(before, world.snapshot())


def test_the_hosts_own_namespace_is_refused(world: World) -> None:
    refuses(world, SITE.replace("<web>", world.host), "host's own network namespace")


def test_a_process_in_the_hosts_namespace_is_refused(world: World) -> None:
    def work(engine: Any) -> None:
        with pytest.raises(ContainerError, match="host's own network namespace"):
            engine.apply(site, "")

    before = world.snapshot()
    argv = ["ip", "netns", "exec", world.host, "sleep", "60"]
    with subprocess.Popen(argv) as process:
        try:
            own = os.stat(f"/run/netns/{world.host}").st_ino
            while os.stat(f"/proc/{process.pid}/ns/net").st_ino != own:
                pass
            site = world.site(SITE.replace("netns:<web>", f"pid:{process.pid}"))
            world.engine(work)
        finally:
            process.kill()
    same(before, world.snapshot())


def test_a_shared_namespace_is_refused(world: World, netns: Callable[[str], str]) -> None:
    second = netns("alias")
    run("umount", f"/run/netns/{second}")
    run("mount", "--bind", f"/run/netns/{world.names['web']}", f"/run/netns/{second}")
    text = SITE + f'  - {{container: "netns:{second}", network: lan, address: 10.1.1.4}}\n'
    refuses(world, text, "share one network namespace")
