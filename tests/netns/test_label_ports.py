"""Ports that containers' labels open: real namespaces and sockets, and a runtime that knows their labels; with the agent and
Docker itself, see `test_labels_docker.py`."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import pytest
from conftest import inside, sh
from host import World, same, snapshot

from ductwork.engine import Engine
from ductwork.errors import ContainerError, DuctworkError
from ductwork.front.changes import as_commands
from ductwork.lab.namespaces import open_namespace
from ductwork.publishing import PublishRequest
from ductwork.reconciler import Report
from ductwork.runtimes import Runtime, Sandbox, Tags
from ductwork.site.values import listen, port_target
from talk import REFUSED, ask, served

pytestmark = pytest.mark.netns

T = TypeVar("T")

NETWORKS = """
networks:
  lan: {driver: bridge, subnets: [10.1.1.0/24, "fd00:1::/64"]}
  dmz: {driver: bridge, subnet: 10.2.2.0/24}
attachments:
  - {container: "netns:<db>", network: lan, address: [10.1.1.2, "fd00:1::2"]}
  - {container: "netns:<dns>", network: dmz, address: 10.2.2.2}
"""
SITE = "labels: {lan: {ports: [8000-8999, 5353/udp]}, dmz: {ports: 8000-8099}}\n" + NETWORKS
HOST, OUTSIDE = "192.0.2.1", "192.0.2.2"
HOST6, OUTSIDE6 = "2001:db8::1", "2001:db8::2"


@dataclass
class Labelled:
    """Containers of a runtime called `docker`: namespaces with labels."""

    name: ClassVar[str] = "docker"
    places: dict[str, str] = field(default_factory=dict)
    labels: dict[str, dict[str, str]] = field(default_factory=dict)
    stopped: set[str] = field(default_factory=set)
    silent: bool = False

    def find(self, names: list[str]) -> dict[str, Sandbox | None]:
        self._answer()
        return {name: None if name in self.stopped else self._sandbox(name) for name in names if name in self.places}

    def tagged(self) -> dict[str, Tags]:
        self._answer()
        return {name: self._tags(name) for name in self.places if name not in self.stopped}

    def _answer(self) -> None:
        if self.silent:
            raise ContainerError("Docker does not answer")

    def _tags(self, name: str) -> Tags:
        return Tags(name, name.encode().hex().ljust(64, "0"), labels=self.labels[name])

    def _sandbox(self, name: str) -> Sandbox:
        return Sandbox("docker", name, self.places[name], partial(open_namespace, self.places[name]), tags=self._tags(name))


@dataclass
class Place:
    world: World
    docker: Labelled = field(default_factory=Labelled)

    @property
    def host(self) -> str:
        return self.world.host

    def run(self, name: str, **labels: str) -> None:
        """`lan="8088:80"`: what it asks to be open."""
        self.docker.places[name] = self.world.container(name)
        self.docker.stopped.discard(name)
        self.docker.labels[name] = {f"ductwork.{network}.ports": written for network, written in labels.items()}

    def end(self, name: str, *, removed: bool = True) -> None:
        self.world.kill(name)
        self.docker.stopped.add(name)
        if removed:
            del self.docker.places[name]

    def engine(self, work: Callable[[Engine], T]) -> T:
        runtimes: dict[str, Callable[[], Runtime]] = {"docker": lambda: self.docker, "netns": self._netns}
        return self.world.engine(work, runtimes=runtimes)

    @staticmethod
    def _netns() -> Runtime:
        from ductwork.runtimes.netns import NetnsRuntime

        return NetnsRuntime()

    def apply(self, text: str = SITE) -> Report:
        site = self.world.site(text)
        return self.engine(lambda engine: engine.apply(site, ""))

    def settle(self, text: str = SITE) -> Report:
        """Apply in one round, and a second time for nothing."""
        report = self.apply(text)
        assert report.rounds <= 1
        assert not self.apply(text).operations
        return report

    def started(self, name: str, text: str = SITE) -> Report:
        """As the agent does."""
        site = self.world.site(text)
        report = self.engine(lambda engine: engine.plug_in(site, "", f"docker:{name}"))
        assert report
        return report

    def publish(self, where: str, to: str) -> Report:
        return self.engine(lambda engine: engine.publisher.publish(PublishRequest(listen(where), port_target(to))))

    def unpublish(self, where: str) -> Report:
        return self.engine(lambda engine: engine.publisher.unpublish(listen(where), "tcp"))

    def listed(self) -> list[tuple[str, ...]]:
        rows = json.loads(self.world.cli("ports", "--json").out)
        return [tuple(row[key] for key in ("listen", "protocol", "origin", "container", "state")) for row in rows]

    def asks(self, port: int = 8088, protocol: str = "tcp", address: str = HOST) -> str:
        return ask(self.world.names["out"], address, port, protocol)

    def leads_to(self, port: int = 8088) -> str:
        """The address, as the kernel has it; "" where the port is closed."""
        told = sh(self.host, "nft", "-j", "list", "map", "inet", "ductwork", "ports4")
        [found] = [entry["map"] for entry in json.loads(told)["nftables"] if "map" in entry]
        leads = {key["elem"]["val"]["concat"][1]: value["concat"][0] for key, value in found.get("elem", [])}
        return str(leads.get(port, ""))


@pytest.fixture
def place(netns: Callable[[str], str], tmp_path: Path) -> Place:
    world = World(netns, tmp_path, netns("host"))
    world.container("db")
    world.container("dns")
    world.names["out"] = world.uplink()
    return Place(world)


def test_opened_and_closed(place: Place) -> None:
    """In both families and every form, from outside and from the host; it goes with its container, and leaves nothing."""
    place.settle()
    before = snapshot(place.host)
    place.run("web", lan="8088:80,127.0.0.1:8089:80, 5353:53/udp,8100-8101:80, [2001:db8::1]:8090:80")
    place.settle()
    web = place.world.names["web"]
    with served((web, 80), (web, 53)):
        assert (place.asks(), place.asks(address=HOST6)) == (OUTSIDE, OUTSIDE6)
        assert (place.asks(5353, "udp"), place.asks(8101)) == (OUTSIDE, OUTSIDE)
        assert (place.asks(8090), place.asks(8090, address=HOST6)) == (REFUSED, OUTSIDE6)
        assert place.asks(8089) == REFUSED
        assert ask(place.host, "127.0.0.1", 8089, "tcp") == "10.1.1.1"
        assert ask(place.world.names["db"], "10.1.1.1", 8088, "tcp") == "10.1.1.1"
    row = ("label", "docker:web", "published")
    assert place.listed() == [
        ("8088", "tcp", *row),
        ("127.0.0.1:8089", "tcp", *row),
        ("5353", "udp", *row),
        ("8100-8101", "tcp", *row),
        ("[2001:db8::1]:8090", "tcp", *row),
    ]
    place.end("web")
    place.settle()
    same(before, snapshot(place.host))
    assert place.asks() == REFUSED and place.listed() == []


def test_as_the_agent_does(place: Place) -> None:
    """One that starts has its ports in the round that plugs it in, and has them again when it comes back."""
    place.settle()
    place.run("web", lan="8088:80")
    assert place.started("web").rounds == 1
    assert not place.apply().operations
    with served((place.world.names["web"], 80)):
        assert place.asks() == OUTSIDE
    place.end("web", removed=False)
    place.run("web", lan="8088:80,8089:80")
    place.started("web")
    assert not place.apply().operations
    with served((place.world.names["web"], 80)):
        assert (place.asks(), place.asks(8089)) == (OUTSIDE, OUTSIDE)
    place.end("web", removed=False)
    place.run("web", lan="8089:80")
    place.started("web")
    place.settle()
    with served((place.world.names["web"], 80)):
        assert (place.asks(), place.asks(8089)) == (REFUSED, OUTSIDE)
    assert [row[0] for row in place.listed()] == ["8089"]


@pytest.mark.parametrize(
    ("name", "former"), [("web", "8000-8010:8000-8010"), ("api", "8000-8010:8000-8010"), ("api", "8005-8006:81-82")]
)
def test_one_that_starts_takes_part_of_what_was(place: Place, name: str, former: str) -> None:
    """Of its own range, or of one that has ended: it has all that it asks for at once, and nothing of that is left."""
    place.run("web", lan=former)
    place.settle()
    place.end("web", removed=False)
    place.run(name, lan="8005-8015:8005-8015")
    assert not place.started(name).refused
    with served((place.world.names[name], 8005), (place.world.names[name], 8015)):
        assert (place.asks(8005), place.asks(8015)) == (OUTSIDE, OUTSIDE)
    assert place.asks(8001) == REFUSED
    told = sh(place.host, "nft", "list", "table", "inet", "ductwork")
    assert "8005-8015" in told and "8000-8010" not in told and "8006" not in told
    assert not [o for o in place.apply().operations if "8005" in str(o.target.key)]


def test_the_file_takes_it_while_the_runtime_is_silent(place: Place) -> None:
    place.run("web", lan="8000-8010:8000-8010")
    place.settle()
    place.docker.silent = True
    place.settle(SITE + 'ports: [{listen: 8005-8015, to: "netns:<db>:8005-8015"}]\n')
    assert [row[2] for row in place.listed()] == ["site"]


@pytest.mark.parametrize("removed", [True, False])
def test_the_first_keeps_it(place: Place, removed: bool) -> None:
    """Whatever their names are; when it ends, the next one that asks gets it."""
    place.run("web", lan="8088:80")
    place.settle()
    before = place.world.snapshot()
    place.run("api", lan="127.0.0.1:8088:80")
    told = "port 8088/tcp leads to docker:web:80 already, by its label: ask for another, or for none"
    assert place.apply().refused == {"docker:api": told}
    assert place.started("api").refused == {"docker:api": told}
    site = place.world.site(SITE)
    assert any(told in note for note in place.engine(lambda engine: engine.plan(site, "")).notes)
    same(before, {key: value for key, value in place.world.snapshot().items() if key != "api"})
    place.end("web", removed=removed)
    assert not place.started("api").refused
    place.settle()
    with served((place.world.names["api"], 80)):
        assert ask(place.host, "127.0.0.1", 8088, "tcp") == "10.1.1.1"
        assert place.asks() == REFUSED
    assert place.listed() == [("127.0.0.1:8088", "tcp", "label", "docker:api", "published")]
    if not removed:
        place.run("web", lan="8088:80")
        assert "leads to docker:api:80 already" in place.started("web").refused["docker:web"]


def test_two_at_once(place: Place) -> None:
    """`plan` tells what `apply` does."""
    place.run("a", lan="8088:80")
    place.run("b", lan="8080-8090:80")
    place.run("c", dmz="8088:80")
    site = place.world.site(SITE)
    place.settle(SITE.replace("labels", "labels: deny\n#"))
    preview = place.engine(lambda engine: engine.plan(site, ""))
    planned = {operation.target.key for operation in preview.plan.operations}
    done = place.apply()
    assert sorted(done.refused) == ["docker:b", "docker:c"]
    assert {operation.target.key for operation in done.operations} == planned
    assert [row[3] for row in place.listed()] == ["docker:a"]


def test_moved(place: Place) -> None:
    """From one container to another in one apply, and with it to another network."""
    place.run("web", lan="8088:80")
    place.settle()
    assert place.leads_to() == "10.1.1.3"
    place.end("web")
    place.run("api", dmz="8088:81")
    place.settle()
    assert place.leads_to() == "10.2.2.3"
    place.end("api")
    place.run("new", dmz="8088:82")
    assert not place.started("new").refused, "before the agent has looked at the whole"
    assert place.leads_to() == "10.2.2.4"
    assert [row[3] for row in place.listed()] == ["docker:new"]
    assert not place.apply().refused


def test_what_the_file_publishes_it_takes(place: Place) -> None:
    """A label hinders no file: its container has nothing then; nothing of others is touched."""
    place.run("web", lan="8088:80")
    place.run("api", lan="8089:80")
    place.settle()
    text = SITE + 'ports:\n  - {listen: "127.0.0.1:8088", to: "netns:<db>:80"}\n'
    refused = place.apply(text).refused
    assert "port `8088/tcp` of this host is taken: by the site file it leads to" in refused["docker:web"]
    assert not place.apply(text).operations
    with served((place.world.names["db"], 80), (place.world.names["api"], 80)):
        assert (place.asks(), place.asks(8089)) == (REFUSED, OUTSIDE)
        assert ask(place.host, "127.0.0.1", 8088, "tcp") == "10.1.1.1"
    assert not sh(place.world.names["web"], "ip", "-br", "link", "show", "type", "veth")
    place.settle(text.replace('"127.0.0.1:8088"', "8088"))
    place.settle()
    with served((place.world.names["web"], 80)):
        assert place.asks() == OUTSIDE


def test_what_somebody_publishes_by_hand(place: Place) -> None:
    """Keeps off labels, as they keep it off; of a container that is plugged in by labels too."""
    place.run("web", lan="8088:80")
    place.settle()
    with pytest.raises(DuctworkError, match="published already by its label, to docker:web:80"):
        place.publish("8088", f"netns:{place.world.names['db']}:80")
    with pytest.raises(DuctworkError, match="8088/tcp is published by the label of docker:web"):
        place.unpublish("8088")
    opened = snapshot(place.host)["nft"]
    place.publish("8090", "docker:web:80")
    assert not place.apply().operations
    place.run("api", lan="8090:80")
    assert place.apply().refused == {
        "docker:api": "port 8090/tcp leads to docker:web:80 already, by `ductwork publish`: ask for another, or for none"
    }
    with served((place.world.names["web"], 80)):
        assert place.asks(8090) == OUTSIDE
    place.end("web", removed=False)
    place.apply()
    assert [(row[0], row[4]) for row in place.listed()] == [("8090", "waiting")]
    assert place.leads_to(8090) == ""
    place.run("web", lan="8088:80")
    assert not place.started("web").refused
    assert not place.apply().operations
    with served((place.world.names["web"], 80)):
        assert (place.asks(8088), place.asks(8090)) == (OUTSIDE, OUTSIDE)
    place.unpublish("8090")
    place.end("api")
    assert not place.apply().operations
    same(opened, snapshot(place.host)["nft"])


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1", "::1"])
def test_held_by_a_process(place: Place, address: str) -> None:
    """All or nothing, the process named; tried again when it has ended."""
    place.settle()
    before = snapshot(place.host)
    place.run("web", lan="8088:80")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with inside(place.host, lambda: socket.create_server((address, 8088), family=family)):
        assert "port 8088/tcp of this host is held by py" in place.apply().refused["docker:web"]
        same(before, snapshot(place.host))
        assert place.listed() == []
    assert not place.settle().refused


def test_drift(place: Place) -> None:
    """What others remove, and whatever becomes of the table."""
    place.run("web", lan="8088:80")
    place.world.eth0("web")
    place.settle()
    before = snapshot(place.host)
    for argv in (
        ("nft", "flush", "map", "inet", "ductwork", "ports4"),
        ("nft", "flush", "set", "inet", "ductwork", "served"),
        ("nft", "flush", "set", "inet", "ductwork", "elsewhere4"),
        ("nft", "delete", "table", "inet", "ductwork"),
        ("nft", "flush", "ruleset"),
        ("sysctl", "-qw", "net.ipv4.conf.dw-lan.route_localnet=0"),
        ("ip", "link", "del", "dev", "dw-lan"),
    ):
        sh(place.host, *argv)
        assert place.settle().operations
        same(before, snapshot(place.host))
    with served((place.world.names["web"], 80)):
        assert place.asks() == "10.1.1.1", "its own default route leads elsewhere"


def test_no_longer_permitted(place: Place) -> None:
    """The port is closed, and with it goes all that its container has asked for."""
    place.settle(SITE.replace("5353/udp", "9000"))
    before = snapshot(place.host)
    place.run("web", lan="8088:80")
    place.settle(SITE.replace("5353/udp", "9000"))
    refused = place.apply(SITE.replace("8000-8999, 5353/udp", "9000")).refused
    assert "permits 9000 of network lan" in refused["docker:web"]
    assert place.leads_to() == "" and place.listed() == []
    place.end("web")
    place.settle(SITE.replace("5353/udp", "9000"))
    same(before, snapshot(place.host))


def test_destroyed(place: Place) -> None:
    before = snapshot(place.host)
    place.run("web", lan="8088:80,[::1]:8090:80", dmz="8080:80")
    place.world.eth0("web")
    place.settle()
    assert len(place.listed()) == 3
    place.engine(lambda engine: engine.destroy("office"))
    same(before, snapshot(place.host))
    assert place.listed() == []


def test_undone(place: Place) -> None:
    place.settle()
    before = place.world.snapshot()
    place.run("web", lan="8088:80")
    assert not place.apply().refused
    place.engine(lambda engine: engine.undo())
    same(before["host"], snapshot(place.host))
    place.settle()
    assert place.leads_to() == "10.1.1.3"


def test_as_commands(place: Place) -> None:
    """`plan --format commands`, run by `sh`, is what `apply` does."""
    place.settle()
    place.run("web", lan="8088:80,127.0.0.1:5353:53/udp")
    place.world.eth0("web")
    site = place.world.site(SITE)

    def commands(engine: Engine) -> list[str]:
        return list(as_commands(engine.plan(site, "").plan.operations, engine.place))

    lines = place.engine(commands)
    argv = ["ip", "netns", "exec", place.host, "sh", "-e"]
    done = subprocess.run(argv, input="\n".join(lines), capture_output=True, text=True, check=False)
    assert not done.returncode, done.stderr
    assert not place.engine(commands)
    with served((place.world.names["web"], 80)):
        assert place.asks() == "10.1.1.1"


def test_a_lost_store(place: Place) -> None:
    """What is open stays open, and whose it is, is known again."""
    place.run("web", lan="8088:80")
    place.settle()
    for file in place.world.state.iterdir():
        file.unlink()
    assert not place.apply().operations
    assert place.listed() == [("8088", "tcp", "label", "docker:web", "published")]


def test_while_the_runtime_does_not_answer(place: Place) -> None:
    """What nobody can know stays; what is not permitted any more does not."""
    place.run("web", lan="8088:80", dmz="8080:80")
    place.settle()
    place.docker.silent = True
    assert not place.apply().operations
    assert len(place.listed()) == 2
    assert place.apply(SITE.replace(", dmz: {ports: 8000-8099}", ", dmz: {ports: 8099}")).operations
    assert [row[0] for row in place.listed()] == ["8088"]
    place.docker.silent = False
    place.settle()
    assert len(place.listed()) == 2


def test_a_container_that_is_renamed(place: Place) -> None:
    """Its ports go with it."""
    place.run("web", lan="8088:80")
    place.settle()
    for known in (place.docker.places, place.docker.labels):
        known["other"] = known.pop("web")  # type: ignore[attr-defined]
    place.apply()
    assert not place.apply().operations
    assert place.listed() == [("8088", "tcp", "label", "docker:other", "published")]
    with served((place.world.names["web"], 80)):
        assert place.asks() == OUTSIDE


def test_a_network_that_is_ready_for_labels(place: Place) -> None:
    """It stays so when the last port that was opened by hand is closed."""
    place.settle()
    before = snapshot(place.host)
    place.publish("9000", f"netns:{place.world.names['db']}:80")
    place.unpublish("9000")
    same(before, snapshot(place.host))
    place.settle(SITE.replace("labels", "labels: deny\n#"))
    assert "served" not in elements(place) and "beside4" not in elements(place)


def test_a_network_that_is_not(place: Place) -> None:
    """What it needs for its ports goes with the last one, whatever labels have opened of another network."""
    text = "labels: {lan: {ports: 8000-8999}}\n" + NETWORKS
    place.run("web", lan="8088:80")
    place.settle(text)
    before = snapshot(place.host)
    place.publish("9000", f"netns:{place.world.names['dns']}:80")
    place.unpublish("9000")
    same(before, snapshot(place.host))


def elements(place: Place) -> list[str]:
    """The sets and maps that have any."""
    told: list[dict[str, Any]] = json.loads(sh(place.host, "nft", "-j", "list", "table", "inet", "ductwork"))["nftables"]
    kinds = [entry.get("set") or entry.get("map") for entry in told]
    return [kind["name"] for kind in kinds if kind and kind.get("elem")]
