"""Whatever is sent to the agent by somebody who has read its description: no defect, and what is refused changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from agent_process import AgentProcess
from conftest import inside
from host import World, build_world, same
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)
from test_api_access import TOKEN, flat, options, secrets  # noqa: F401

pytestmark = pytest.mark.netns

SITE = """
networks:
  lan: {driver: bridge, bridge: br0, subnet: 10.1.1.0/24}
attachments:
  - {container: "netns:<web>", network: lan, address: 10.1.1.2}
"""
EXAMPLES = 20
"""Of each operation, right ones and wrong ones."""
CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
    negative_data_rejection,
]


@pytest.fixture
def world(netns: Callable[[str], str], tmp_path: Path) -> World:
    return build_world(netns, tmp_path)


def test_fuzzed_from_its_own_description(world: World, secrets: dict[str, Path]) -> None:  # noqa: F811
    with AgentProcess(world, world.write(SITE), "--resync", "3600", *flat(options(secrets))) as agent:
        before = world.snapshot()
        inside(world.host, lambda: fuzz(secrets["cert.pem"], world.fill(SITE)))
        same(before, world.snapshot())
    assert "a defect" not in agent.log() and "Traceback" not in agent.log()


def fuzz(certificate: Path, site: str) -> None:
    base = "https://localhost:4646"
    session = requests.Session()
    session.headers["Authorization"] = f"Bearer {TOKEN}"
    session.verify = str(certificate)
    session.trust_env = False
    described = session.get(f"{base}/v1/openapi.json").json()
    assert {f"/v1/{name}" for name in ("plan", "apply", "destroy", "undo", "confirm", "attach", "detach", "ps")} <= set(
        described["paths"]
    )
    del described["paths"]["/v1/events"]  # never ends
    kept = {"site": {"text": site, "name": "office.yaml"}}
    for result in schemathesis.openapi.from_dict(described).get_all_operations():
        operation = result.ok()
        accepted = _send(operation, base, session)
        if accepted and operation.path in ("/v1/destroy", "/v1/undo"):
            assert session.post(f"{base}/v1/apply", data=json.dumps(kept), headers={"Content-Type": "application/json"}).ok
        else:
            assert not accepted or operation.path not in ("/v1/apply", "/v1/attach", "/v1/detach", "/v1/confirm")


def _send(operation: Any, base: str, session: requests.Session) -> int:
    """How many of what was sent were accepted."""
    accepted = 0
    modes = [operation.as_strategy(generation_mode=mode) for mode in GenerationMode if _can_be_wrong(operation, mode)]

    @settings(max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(case=st.one_of(modes))
    def send(case: Any) -> None:
        nonlocal accepted
        response = case.call(base_url=base, session=session, verify=session.verify)
        case.validate_response(response, checks=CHECKS)
        accepted += response.status_code == 200

    send()
    return accepted


def _can_be_wrong(operation: Any, mode: GenerationMode) -> bool:
    """A GET without parameters has nothing that could be."""
    return mode == GenerationMode.POSITIVE or bool(operation.body or operation.query)
