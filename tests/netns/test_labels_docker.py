"""What containers ask for by their labels, with real Docker and the agent: it is there when they start and comes back with
its address; the site decides."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from agent_process import AgentProcess
from conftest import ping, sh, until
from docker_host import DockerHost
from host import World, differences, same

from ductwork import serial
from ductwork.store.sqlite import SqliteStore
from talk import REFUSED, SILENT, ask

pytestmark = [pytest.mark.netns, pytest.mark.docker]

NETWORKS = """
networks:
  lan: {driver: bridge, bridge: br0, subnets: [10.1.1.0/24, "fd00:1::/64"], gateways: [10.1.1.1, "fd00:1::1"]}
  dmz: {driver: bridge, bridge: br1, subnet: 10.2.2.0/24}
attachments:
  - {container: "netns:<web>", network: lan, address: 10.1.1.2}
"""
RANGES = 'labels: {lan: [10.1.1.64/27, "fd00:1::100-fd00:1::1ff"]}\n'
LABEL = "--label=ductwork.lan.ports=8088:80"
NEW = "10.1.1.64"
"""The first that labels are given."""


class Place:
    def __init__(self, world: World, docker: DockerHost) -> None:
        self.world = world
        self.docker = docker
        self.environment = {"DOCKER_HOST": docker.url}

    def agent(self, text: str, *options: str) -> AgentProcess:
        return AgentProcess(self.world, self.world.write(text), "--resync", "3600", *options, env=self.environment)

    def run(self, name: str, *labels: str, **variables: str) -> None:
        options = [option for label in labels for option in ("--label", label)]
        options += [option for key, value in variables.items() for option in ("--env", f"{key}={value}")]
        self.docker.run(name, "--net=none", *options)

    def remove(self, *names: str) -> None:
        self.docker.docker("rm", "--force", *names)

    def interface(self, name: str, interface: str = "eth1") -> dict[str, Any] | None:
        """As `ip` has it: its MAC, and addresses that are not link-local ones."""
        argv = ["nsenter", f"--net=/proc/{self.docker.pid(name)}/ns/net", "ip", "-j", "address", "show", "dev", interface]
        told = sh(self.world.host, *argv, check=False)
        if not told:
            return None
        [link] = json.loads(told)
        addresses = [each["local"] for each in link["addr_info"] if each["scope"] == "global"]
        return {"mac": link["address"], "addresses": addresses}

    def has(self, name: str, address: str, interface: str = "eth1") -> bool:
        def told() -> bool:
            found = self.interface(name, interface)
            return bool(found and address in found["addresses"])

        return until(told)

    def reached(self, address: str) -> bool:
        return until(lambda: ping(self.world.host, address))


@pytest.fixture
def place(netns: Callable[[str], str], tmp_path: Path) -> Iterator[Place]:
    world = World(netns, tmp_path, netns("host"))
    world.container("web")
    with ExitStack() as running:
        short = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="dwl-")))
        yield Place(world, running.enter_context(DockerHost(world.host, short)))


def test_it_is_plugged_in_when_it_starts_and_comes_back(place: Place) -> None:
    with place.agent(RANGES + NETWORKS) as agent:
        place.run("api", "ductwork.networks=lan")
        assert place.reached(NEW), agent.log()
        before = place.interface("api")
        assert before and before["addresses"] == [NEW, "fd00:1::100"]
        place.docker.docker("restart", "--time", "0", "api")
        assert place.reached(NEW), agent.log()
        assert place.interface("api") == before
        place.remove("api")
        assert until(lambda: not ping(place.world.host, NEW))
        place.run("other", "ductwork.lan.interface=lan0", "ductwork.lan.mac=seed:other", "ductwork.lan.gateway=false")
        assert place.has("other", "10.1.1.65", "lan0"), agent.log()
        place.run("api", "ductwork.networks=lan")
        assert place.reached(NEW), agent.log()
        assert place.interface("api") == before
        assert "default" not in place.docker.docker("exec", "other", "ip", "route")
        place.docker.restart()
        place.docker.docker("start", "api")
        assert place.reached(NEW), agent.log()
        assert place.interface("api") == before
        assert not agent.said("api gets nothing")


def test_a_mac_that_somebody_was_given_by_hand_is_not_taken(place: Place) -> None:
    with place.agent("labels: [lan]\n" + NETWORKS) as agent:
        place.run("db")
        place.world.cli("attach", "docker:db", "lan", "--mac", "02:00:00:00:00:07")
        place.run("api", "ductwork.lan.mac=02:00:00:00:00:07")
        assert until(lambda: agent.said("MAC 02:00:00:00:00:07 is docker:db's in network lan") != []), agent.log()
        assert place.interface("api") is None


@pytest.mark.parametrize("seed", ["br0", "lan"])
def test_a_mac_of_the_bridge_is_not_taken(place: Place, seed: str) -> None:
    with place.agent("labels: [lan]\n" + NETWORKS.replace(", bridge: br0", "" if seed == "lan" else ", bridge: br0")) as agent:
        name = "dw-lan" if seed == "lan" else "br0"
        mac = json.loads(sh(place.world.host, "ip", "-j", "link", "show", "dev", name))[0]["address"]
        place.run("api", f"ductwork.lan.mac={mac}")
        assert until(lambda: agent.said(f"MAC {mac} is a host's own in network lan") != []), agent.log()
        assert place.interface("api") is None


def test_a_container_that_is_renamed_while_it_runs(place: Place) -> None:
    """It is another one from then on: nothing of the former name's stays in it."""
    with place.agent("labels: [lan, dmz]\n" + NETWORKS) as agent:
        place.run("api", "ductwork.lan.address=10.1.1.9", "ductwork.networks=dmz")
        assert place.reached("10.1.1.9"), agent.log()
        place.docker.docker("rename", "api", "old")
        assert until(lambda: "docker:old" in place.world.cli("ps").out), agent.log()
        assert place.reached("10.1.1.9"), agent.log()
        ps = place.world.cli("ps").out
        assert "docker:api" not in ps and ps.count("docker:old") == 2
        assert agent.said("gets nothing") == []


def test_a_name_that_is_reused_at_once(place: Place) -> None:
    """The renamed one keeps what its labels write, also where both happen before the agent sees either."""
    with place.agent("labels: [lan, dmz]\n" + NETWORKS) as agent:
        place.run("api", "ductwork.lan.address=10.1.1.9", "ductwork.networks=dmz")
        assert place.reached("10.1.1.9"), agent.log()
        os.kill(agent.pid, signal.SIGSTOP)
        try:
            place.docker.docker("rename", "api", "old")
            place.run("api", "ductwork.networks=dmz")
        finally:
            os.kill(agent.pid, signal.SIGCONT)
        assert until(lambda: sorted(plugged(place)) == [("api", "dmz"), ("old", "dmz"), ("old", "lan")]), agent.log()
        assert place.reached("10.1.1.9"), agent.log()
        assert agent.said("gets nothing") == [], agent.log()


def test_what_a_name_no_longer_asks_for_is_free(place: Place) -> None:
    with place.agent("labels: [lan, dmz]\n" + NETWORKS) as agent:
        place.run("api", "ductwork.lan.address=10.1.1.9")
        assert place.reached("10.1.1.9"), agent.log()
        place.remove("api")
        place.run("api", "ductwork.networks=dmz")
        assert place.has("api", "10.2.2.2", "eth2"), agent.log()
        place.run("other", "ductwork.lan.address=10.1.1.9")
        assert place.has("other", "10.1.1.9"), agent.log()
        assert agent.said("gets nothing") == []


def test_what_is_refused_is_tried_again(place: Place) -> None:
    """Whatever was in the way has gone, and nothing tells of it but a look."""
    world, env = place.world, place.environment
    path = world.write("labels: [lan]\n" + NETWORKS)
    place.run("api", "ductwork.lan.interface=x0")
    argv = ["nsenter", f"--net=/proc/{place.docker.pid('api')}/ns/net", "ip", "link"]
    sh(world.host, *argv, "add", "x0", "type", "bridge")
    assert "refused: docker:api" in world.cli("apply", path, env=env).out
    told = world.cli("plan", path, env=env)
    assert "docker:api gets nothing by its labels" in told.out + told.err
    with AgentProcess(world, path, "--resync", "2", env=env) as agent:
        assert until(lambda: agent.said("docker:api gets nothing") != []), agent.log()
        sh(world.host, *argv, "del", "x0")
        assert place.has("api", "10.1.1.3", "x0"), agent.log()


def test_names_that_are_gone_are_forgotten_beyond_the_last_thousand(place: Place) -> None:
    """With their addresses; those that exist are kept, however long ago they were seen."""
    world, env = place.world, place.environment
    path = world.write("labels: [big]\nname: office\nnetworks: {big: {driver: bridge, subnet: 10.0.0.0/16}}\n")
    place.run("api", "ductwork.networks=big")
    world.cli("apply", path, env=env)
    address = (place.interface("api") or {})["addresses"][0]
    [file] = world.state.glob("*.db")
    store = SqliteStore(file)
    known = store.remembered("labelled")["docker:api"]
    [attachment] = serial.decode(known["attachments"])
    store.remember("labelled", "docker:api", {**known, "hour": 0})
    gone = [replace(attachment, container=f"docker:c{number}") for number in range(1198)]
    taken = ((ip_address("10.0.1.0") + number) for number in range(1198))
    store.lease_all("office", [("big", ("", *a.id), (ip,)) for a, ip in zip(gone, taken, strict=True)])
    for number, each in enumerate(gone):
        store.remember("labelled", each.container, {"site": "office", "attachments": serial.encode([each]), "hour": number + 1})
    place.run("last", "ductwork.networks=big")
    world.cli("apply", path, env=env)
    left = {"docker:api", "docker:last", *(each.container for each in gone[198:])}
    assert store.remembered("labelled").keys() == left
    assert {holder[1] for holder in store.leases("office", "big")} == left
    assert (place.interface("api") or {})["addresses"] == [address]


def plugged(place: Place) -> list[tuple[str, str]]:
    rows = json.loads(place.world.cli("ps", "--json", env=place.environment).out)
    return [(row["container"].partition(":")[2], row["network"]) for row in rows if row["container"].startswith("docker:")]


def test_while_the_agent_is_away(place: Place) -> None:
    text = "labels: [lan, dmz]\n" + NETWORKS
    with place.agent(text):
        place.run("api", "ductwork.networks=lan")
        place.run("db", "ductwork.lan.address=10.1.1.9")
        assert place.reached("10.1.1.3")
        assert place.reached("10.1.1.9")
    before = place.interface("api")
    place.remove("api", "db")
    place.run("db", "ductwork.networks=dmz")
    place.run("api", "ductwork.networks=lan")
    with place.agent(text) as agent:
        assert place.reached("10.1.1.3"), agent.log()
        assert place.interface("api") == before
        assert place.reached("10.2.2.2"), agent.log()
        assert not ping(place.world.host, "10.1.1.9")


def test_other_labels(place: Place) -> None:
    """Of a container of the same name: what they no longer say is taken away."""
    with place.agent("labels: [lan, dmz]\n" + NETWORKS) as agent:
        place.run("api", "ductwork.networks=lan,dmz")
        assert place.has("api", "10.2.2.2") and place.has("api", "10.1.1.3", "eth2"), agent.log()
        place.remove("api")
        place.run("api", "ductwork.lan.address=10.1.1.7")
        assert place.has("api", "10.1.1.7", "eth2"), agent.log()
        assert place.interface("api") is None
        links = lambda: sh(place.world.host, "ip", "-br", "link").split("dwapi")  # noqa: E731
        assert until(lambda: len(links()) == 2)
        assert until(lambda: "10.2.2.2" not in sh(place.world.host, "nft", "list", "set", "bridge", "ductwork", "own4"))


def test_the_file_changes(place: Place) -> None:
    """What it no longer permits is taken away; without the network, also that."""
    place.world.cli("apply", place.world.write("labels: deny\n" + NETWORKS), env=place.environment)
    before = place.world.snapshot()
    with place.agent("labels: [lan, dmz]\n" + NETWORKS) as agent:
        place.run("api", "ductwork.networks=lan")
        place.run("db", "ductwork.networks=dmz")
        assert place.reached("10.1.1.3") and place.reached("10.2.2.2"), agent.log()
        place.world.write("labels: {lan: 10.1.1.96/27}\n" + NETWORKS)
        assert place.reached("10.1.1.96"), agent.log()
        assert until(lambda: place.interface("db") is None), agent.log()
        place.world.write("labels: deny\n" + NETWORKS)
        assert until(lambda: place.interface("api") is None), agent.log()
        same(before, place.world.snapshot())
        place.run("late", "ductwork.networks=lan")
        place.world.write("labels: [lan]\n" + NETWORKS)
        assert place.has("late", "10.1.1.4"), agent.log()
        assert place.has("api", "10.1.1.3"), agent.log()


def test_denied_by_default(place: Place) -> None:
    with place.agent(NETWORKS) as agent:
        before = place.world.snapshot()
        place.run("api", "ductwork.networks=lan", pipework_cmd="br0 @CONTAINER_NAME@ 10.1.1.7/24")
        sh(place.world.host, "ip", "address", "flush", "dev", "br0")
        assert until(lambda: not list(differences(before, place.world.snapshot()))), agent.log()
        assert place.interface("api") is None


def test_pipework_variables(place: Place) -> None:
    with place.agent("labels: [lan, dmz]\n" + NETWORKS) as agent:
        place.run(
            "api_3",
            pipework_cmd_1="br0 -i lan0 @CONTAINER_NAME@ 10.1.1.@INSTANCE@/24@10.1.1.1 U:myhost.foo.com",
            pipework_cmd_2="br1 @CONTAINER_ID@ 10.2.2.9/24",
        )
        assert place.has("api_3", "10.1.1.3", "lan0") and place.has("api_3", "10.2.2.9"), agent.log()
        found = place.interface("api_3", "lan0")
        assert found and found["mac"] == "02:72:6c:cd:9b:8d"
        assert "default via 10.1.1.1 dev lan0" in place.docker.docker("exec", "api_3", "ip", "route")


def test_drift_is_repaired(place: Place) -> None:
    with place.agent("labels: [lan]\n" + NETWORKS) as agent:
        place.run("api", "ductwork.lan.address=10.1.1.7")
        assert place.reached("10.1.1.7"), agent.log()
        sh(place.world.host, "sh", "-ec", "ip link del dev $(ip -br link | grep -o '^dwapi[^ @]*')")
        assert place.reached("10.1.1.7"), agent.log()
        sh(place.world.host, "ip", "link", "del", "dev", "br0")
        assert place.reached("10.1.1.7"), agent.log()


def test_ports(place: Place) -> None:
    """Open when their container has started, at `::1` too, mended, the next one's when it ends, and closed without any."""
    host = place.world.host

    def answers(told: str, address: str = "127.0.0.1") -> bool:
        return until(lambda: ask(host, address, 8088, "tcp", SILENT).strip() == told)

    def run(name: str) -> None:
        place.docker.run(name, "--net=none", LABEL, command=("nc", "-ll", "-p", "80", "-e", "echo", name))

    with place.agent("labels: {lan: {addresses: 10.1.1.64/27, ports: [8000-8999]}}\n" + NETWORKS) as agent:
        before = place.world.snapshot()
        run("db")
        assert answers("db") and answers("db", "::1"), agent.log()
        place.docker.docker("restart", "--time", "0", "db")
        assert answers("db") and answers("db", "::1"), agent.log()
        run("api")
        told = "docker:api gets nothing by its labels: port 8088/tcp leads to docker:db:80 already, by its label"
        assert until(lambda: told in agent.log()), agent.log()
        sh(host, "nft", "flush", "map", "inet", "ductwork", "ports4")
        assert answers("db"), agent.log()
        place.docker.docker("stop", "--time", "0", "db")
        assert answers("api") and answers("api", "::1"), agent.log()
        assert "docker:api:80" in place.world.cli("ports").out
        place.remove("db", "api")
        assert answers(REFUSED), agent.log()
        assert until(lambda: not list(differences(before, place.world.snapshot()))), agent.log()


def test_commands(place: Place) -> None:
    """`apply` sees to labels too, `plan` shows them, `detach` does not, `destroy` does; addresses stay remembered."""
    world, env = place.world, place.environment
    path = world.write("labels: [lan]\n" + NETWORKS)
    before = world.snapshot()
    place.run("api", "ductwork.networks=lan")
    assert "waiting" not in world.cli("apply", path, env=env).out
    assert place.interface("api")
    assert "nothing to do" in world.cli("apply", path, env=env).out
    assert world.cli("plan", path, "--exit-code", env=env).code == 0
    assert "by its own label" in world.cli("detach", "docker:api", "lan", env=env, code=2).err
    assert "api" in world.cli("ps", env=env).out
    place.docker.docker("restart", "--time", "0", "api")
    assert "docker:api" in world.cli("plan", path, "--exit-code", env=env, code=3).out
    world.cli("apply", path, env=env)
    assert place.has("api", "10.1.1.3")
    world.cli("undo", env=env)
    assert place.interface("api") is None
    world.cli("destroy", path, env=env)
    same(before, world.snapshot())
    place.remove("api")
    place.run("new", "ductwork.networks=lan")
    place.run("api", "ductwork.networks=lan")
    world.cli("apply", path, env=env)
    assert place.has("api", "10.1.1.3") and place.has("new", "10.1.1.4")
    world.cli("destroy", "--all", env=env)
    same(before, world.snapshot())


def test_addresses_of_those_that_are_gone_are_given_out_when_there_are_no_others(place: Place) -> None:
    text = "labels: {lan: 10.1.1.64/31}\n" + NETWORKS
    with place.agent(text) as agent:
        for number in range(3):
            place.run(f"c{number}", "ductwork.networks=lan")
            assert place.has(f"c{number}", f"10.1.1.{64 + number % 2}"), agent.log()
            if number != 1:
                place.remove(f"c{number}")
        place.run("c3", "ductwork.lan.address=10.1.1.64")
        assert place.has("c3", "10.1.1.64"), agent.log()
        place.docker.docker("stop", "--time", "0", "c1")
        place.run("c4", "ductwork.networks=lan")
        assert until(lambda: agent.said("c4 gets nothing") != []), agent.log()
        assert "has no address left in 10.1.1.64-10.1.1.65" in agent.said("c4 gets nothing")[0], agent.log()


def test_a_lost_store_is_made_good(place: Place) -> None:
    world, env = place.world, place.environment
    path = world.write("labels: [lan]\n" + NETWORKS)
    for name in ("c1", "c2"):
        place.run(name, "ductwork.networks=lan")
        world.cli("apply", path, env=env)
    for file in world.state.iterdir():
        file.unlink()
    place.run("c0", "ductwork.networks=lan")
    assert "office: 15 created" in world.cli("apply", path, env=env).out
    assert place.has("c0", "10.1.1.5") and place.has("c1", "10.1.1.3") and place.has("c2", "10.1.1.4")
