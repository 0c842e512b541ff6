"""The parts of the agent's API that need no kernel: records on the wire, errors, slow readers, figures, what is described."""

from __future__ import annotations

import importlib
import json
import pkgutil
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import TypeAdapter

import ductwork
from ductwork.agent import openapi
from ductwork.agent.hub import _KEPT, Hub
from ductwork.agent.metrics import Metrics
from ductwork.errors import AwaitingError, DuctworkError, Problem, SiteError, UsageError
from ductwork.front import wire
from ductwork.front.local import _DOERS
from ductwork.ipam import free
from ductwork.notices import Notice
from ductwork.requests import REQUESTS, Change, Done, Planned, Request, Row, Seen, Unconfirmed
from ductwork.site.load import load_text

ROW = Row("netns:web", "netns", "none", "eth1", 7, "dwweb", "br0", "", None, "02:00:00:00:00:01", ("10.1.1.2/24",), "lan")


@pytest.mark.parametrize(
    "answer",
    [
        Planned(
            "", (Change("create", "link br0", "link br0: bridge", None, {"a": [1, {"b": None}]}, ("ip link",)),), ("n",), {}
        ),
        Done("t", (), 0, {"netns:x": "not running"}, ("k",), (), Unconfirmed(60, "ductwork confirm")),
        Seen((ROW,)),
        Notice("plugged-in", "x", seconds=1.0, resources=("link a",)),
    ],
)
def test_what_is_sent_is_what_comes(answer: Any) -> None:
    assert wire.decode(type(answer), json.loads(json.dumps(wire.encode(answer)))) == answer


@pytest.mark.parametrize("value", [None, [], {}, {"rows": None}, {"rows": [{}]}, {"rows": [], "x": 1}, {"rows": {"a": 1}}])
def test_what_is_no_answer_is_a_value_error(value: object) -> None:
    with pytest.raises(ValueError, match=r"is no|Row|Seen"):
        wire.decode(Seen, value)


def errors(kind: type[DuctworkError]) -> Iterator[type[DuctworkError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from errors(child)


def test_errors_come_as_they_were_raised() -> None:
    for module in pkgutil.walk_packages(ductwork.__path__, "ductwork."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for kind in set(errors(DuctworkError)) - {SiteError}:
        told = json.loads(json.dumps(wire.encode(wire.failure_of(kind("m", "h")))))
        found = wire.error_of(wire.decode(wire.Failure, told))
        known = kind if "code" in vars(kind) else kind.__base__
        assert (type(found), str(found), found.hint) == (known, "m", "h")
        assert (found.code, found.exit_code, found.retry) == (kind.code, kind.exit_code, kind.retry)
    raised = SiteError("x.yaml", [Problem(("networks", 1), "m", "h", True, 3, 4)])
    told = json.loads(json.dumps(wire.encode(wire.failure_of(raised))))
    found = wire.error_of(wire.decode(wire.Failure, told))
    assert isinstance(found, SiteError) and (found.file, found.problems, str(found)) == ("x.yaml", raised.problems, str(raised))


def test_every_request_is_done_described_and_read() -> None:
    assert set(_DOERS) == set(REQUESTS)
    described = json.loads(openapi.document())
    for kind in REQUESTS:
        assert f"/v1/{kind.name()}" in described["paths"]
        with pytest.raises(UsageError, match="nothing_of_the_kind"):
            openapi.read_json(kind, b'{"nothing_of_the_kind": 1}')
        schema = described["components"]["schemas"][kind.__name__]
        assert set(schema.get("properties", {})) == set(TypeAdapter(kind).json_schema().get("properties", {}))
        assert schema["additionalProperties"] is False
        assert by_get(kind) == ("get" in described["paths"][f"/v1/{kind.name()}"])


def by_get(kind: type[Request[Any]]) -> bool:
    return kind.by_get and not kind.changes


def test_who_reads_too_slowly_loses_the_oldest_and_is_told() -> None:
    woken: list[int] = []
    hub = Hub(lambda _: None)
    with hub.reader(lambda: woken.append(1)) as reader:
        for number in range(_KEPT + 3):
            hub.tell(Notice("note", str(number)))
        hub.tell(Notice("looked", "x", "debug"))
        lost, *others = reader.take()
        assert (lost.kind, lost.number) == ("lost", 3)
        assert [notice.message for notice in others] == [str(number) for number in range(3, _KEPT + 3)]
        assert reader.take() == []
    assert len(woken) == _KEPT + 3
    hub.tell(Notice("note", "nobody"))
    assert hub.readers == 0


def test_what_is_told_is_short_whatever_was_sent(caplog: pytest.LogCaptureFixture) -> None:
    heeded: list[Notice] = []
    hub = Hub(heeded.append)
    long = "x" * 200_000
    with hub.reader(lambda: None) as reader, caplog.at_level("INFO", "ductwork.agent"):
        hub.tell(Notice("refused", f"no {long}", container=long, cause=long))
        told = [*reader.take(), *heeded]
    assert {len(text) < 5000 for notice in told for text in (notice.message, notice.container, notice.cause)} == {True}
    assert told[0].message.startswith("no xxx") and "196003 characters more" in told[0].message
    assert len(caplog.text) < 5000


def test_figures_come_from_notices() -> None:
    metrics = Metrics()
    for notice in (
        Notice("plugged-in", "", container="netns:web", seconds=0.004),
        Notice("mended", "", resources=("link br0", "link dw1", "address br0 10.1.1.1")),
        Notice("error", "", code=AwaitingError.code),
        Notice("error", "", container="netns:web", code="container"),
        Notice("looked", "", "debug"),
    ):
        metrics.heed(notice)
    told = metrics.text().decode()
    for line in (
        'ductwork_attach_seconds_bucket{le="0.002"} 0.0',
        'ductwork_attach_seconds_bucket{le="0.005"} 1.0',
        'ductwork_drift_repaired_total{kind="link"} 2.0',
        'ductwork_drift_repaired_total{kind="address"} 1.0',
        'ductwork_errors_total{code="awaiting"} 1.0',
        'ductwork_reconciles_total{outcome="mended"} 1.0',
        'ductwork_reconciles_total{outcome="nothing"} 1.0',
        'ductwork_reconciles_total{outcome="failed"} 1.0',
    ):
        assert line in told


def test_free_addresses() -> None:
    """Of ranges that overlap, too."""
    ranges = "[10.1.1.4-10.1.1.8, 10.1.1.7-10.1.1.9]"
    site = load_text(f"networks: {{a: {{driver: bridge, subnet: 10.1.1.0/28, allocate: {ranges}}}}}")
    network = site.networks["a"]
    assert list(free(network, site, "", {}).values()) == [6]
    taken = {("", "netns:x", "eth1"): (network.subnets[0][5], network.subnets[0][2])}
    assert list(free(network, site, "", taken).values()) == [5]
