"""The how-to for users of Compose, with Docker, Compose and the agent: its services are there, and come back as they were."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from agent_process import AgentProcess
from conftest import inside, ping, until
from docker_host import DockerHost
from host import World, same

pytestmark = [pytest.mark.netns, pytest.mark.docker]

REPOSITORY = Path(__file__).parents[2]
SITE = REPOSITORY / "examples" / "a8-compose.yaml"
SERVICES = REPOSITORY / "examples" / "a8-compose.yml"


def compose(url: str, *words: str) -> None:
    argv = ["docker-compose", "--project-name", "shop", "--file", str(SERVICES), *words]
    done = subprocess.run(argv, env={**os.environ, "DOCKER_HOST": url}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def attachments(world: World, environment: dict[str, str]) -> dict[str, Any]:
    listed = json.loads(world.cli("ps", "--json", env=environment).out)
    return {row["container"]: (row["addresses"], row["mac"]) for row in listed}


def served(world: World) -> bool:
    """Whether the service answers at its port of the host's."""

    def asked() -> bool:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", 8080, timeout=1)
            connection.request("GET", "/")
            return connection.getresponse().status == 404
        except OSError:
            return False

    return inside(world.host, asked)


def test_services_are_plugged_in_and_come_back(netns: Callable[[str], str], tmp_path: Path) -> None:
    if not shutil.which("docker-compose") and os.environ.get("CI") != "true":
        pytest.skip("no docker-compose")
    world = World(netns, tmp_path, netns("host"))
    site = world.write(SITE.read_text(), "shop")
    with tempfile.TemporaryDirectory(prefix="dwc-") as short, DockerHost(world.host, Path(short)) as docker:
        environment = {"DOCKER_HOST": docker.url}
        before = world.snapshot()
        with AgentProcess(world, site, "--resync", "3600", env=environment) as agent:
            docker.run("db", "--net=none")
            compose(docker.url, "up", "--detach", "--scale", "worker=2")
            for address in ("10.1.1.80", "10.1.1.64", "10.1.1.65", "10.1.1.5"):
                assert until(lambda it=address: ping(world.host, it)), agent.log()  # type: ignore[misc]
            known = attachments(world, environment)
            assert len(known) == 4
            assert until(lambda: served(world)), agent.log()
            compose(docker.url, "up", "--detach", "--scale", "worker=2", "--force-recreate")
            assert until(lambda: attachments(world, environment) == known), agent.log()
            assert until(lambda: served(world)), agent.log()
            compose(docker.url, "restart")
            assert until(lambda: attachments(world, environment) == known), agent.log()
            assert until(lambda: served(world)), agent.log()
            compose(docker.url, "down")
            assert until(lambda: attachments(world, environment).keys() == {"docker:db"}), agent.log()
        world.cli("destroy", site, env=environment)
        same(before, world.snapshot())


def test_the_how_to_shows_the_example() -> None:
    """Word for word, but for what only makes the test quick."""
    page = (REPOSITORY / "docs" / "how-to" / "compose.md").read_text()
    site, services = (yaml.safe_load(block.split("```")[0]) for block in page.split("```yaml\n")[1:])
    example = yaml.safe_load(SITE.read_text())
    assert site == {key: example[key] for key in site}
    for name, service in yaml.safe_load(SERVICES.read_text())["services"].items():
        service.pop("stop_grace_period")
        assert services["services"][name] == service
