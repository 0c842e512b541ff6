"""The API's description, and the reading of requests: both made from the same records, so that one cannot lie about the other.

Invariant: what is not in the description is refused.
"""

from __future__ import annotations

import json
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ductwork import __version__
from ductwork.errors import UsageError
from ductwork.front.wire import Failure
from ductwork.notices import Notice
from ductwork.requests import REQUESTS, Request

JSON, NDJSON = "application/json", "application/x-ndjson"
_NAMED = 5
"""So many mistakes are written out."""
_ANSWERS: list[Any] = [*dict.fromkeys(kind.answer() for kind in REQUESTS), Failure, Notice]
_ADAPTERS = {kind.__name__: TypeAdapter[Any](kind) for kind in (*REQUESTS, *_ANSWERS)}
_REFUSALS = {
    400: "the request is not understood, or is wrong usage, or the site file has mistakes: nothing was touched",
    401: "no token, or another one (TCP)",
    403: "not for this user (unix socket)",
    408: "the request did not come in time",
    409: "the state of this host does not let it: the error says why, and whether anything was touched",
    413: "the request is too long",
    415: "the request is not JSON",
    421: "another version of ductwork, or another state folder or store, was asked for (headers Ductwork-…)",
}


def read_json(kind: type[Request[Any]], body: bytes) -> Request[Any]:
    """Errors: `UsageError`."""
    try:
        found: Request[Any] = _ADAPTERS[kind.__name__].validate_json(body or b"{}")
    except ValidationError as error:
        raise _refused(kind, error) from None
    return found


def _refused(kind: type[Request[Any]], error: ValidationError) -> UsageError:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    told = [f"{'.'.join(str(part) for part in each['loc']) or 'the request'}: {each['msg']}" for each in found[:_NAMED]]
    more = f"; and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return UsageError(f"{kind.name()}: {'; '.join(told)}{more}", "/v1/openapi.json describes what each operation takes")


@cache
def document() -> bytes:
    """OpenAPI 3.1, as JSON."""
    wanted: list[Any] = [(kind.__name__, "validation", _ADAPTERS[kind.__name__]) for kind in REQUESTS]
    wanted += [(kind.__name__, "serialization", _ADAPTERS[kind.__name__]) for kind in _ANSWERS]
    known, definitions = TypeAdapter.json_schemas(wanted, ref_template="#/components/schemas/{model}")
    schemas = {name: schema for (name, _), schema in known.items()}
    paths: dict[str, Any] = {f"/v1/{kind.name()}": _operations(kind, schemas) for kind in REQUESTS}
    failures = _failures(schemas)
    for path, name, media, text, schema in (
        ("/v1/events", "events", NDJSON, "What the agent does, from now on: one record a line.", schemas["Notice"]),
        ("/v1/openapi.json", "openapi", JSON, "This document.", {"type": "object"}),
        ("/metrics", "metrics", "text/plain", "Figures for Prometheus.", {"type": "string"}),
    ):
        answer = {"description": text, "content": {media: {"schema": schema}}}
        paths[path] = {"get": {"operationId": name, "summary": text, "responses": {"200": answer, **failures}}}
    told = {
        "openapi": "3.1.0",
        "info": {
            "title": "ductwork's agent",
            "version": __version__,
            "description": "On a unix socket for root and the group `ductwork`; on TCP with TLS and a token.",
        },
        "paths": paths,
        "components": {"schemas": definitions["$defs"], "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"token": []}],
    }
    return json.dumps(told, indent=1).encode()


def _operations(kind: type[Request[Any]], schemas: dict[str, Any]) -> dict[str, Any]:
    summary = " ".join((kind.__doc__ or "").split())
    answer = {"description": "It is done.", "content": {JSON: {"schema": schemas[kind.answer().__name__]}}}
    common = {"summary": summary.partition(". ")[0], "description": summary}
    responses = {"200": answer, **_failures(schemas)}
    body = {"content": {JSON: {"schema": schemas[kind.__name__]}}, "required": True}
    found: dict[str, Any] = {"post": {"operationId": kind.name(), **common, "requestBody": body, "responses": responses}}
    if kind.by_get:
        properties = _ADAPTERS[kind.__name__].json_schema()["properties"]
        parameters = [{"name": name, "in": "query", "schema": schema} for name, schema in properties.items()]
        found["get"] = {"operationId": f"get_{kind.name()}", **common, "parameters": parameters, "responses": responses}
    return found


def _failures(schemas: dict[str, Any]) -> dict[str, Any]:
    content = {JSON: {"schema": schemas["Failure"]}}
    return {str(status): {"description": text, "content": content} for status, text in _REFUSALS.items()}
