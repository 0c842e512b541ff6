"""Guards and deafness of Open vSwitch's ports, by way of the programs `ovs-ofctl` and `nft`.

Invariant: a bridge's flows are changed in one bundle, all of it or nothing; flows without our cookie are never looked at.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from ductwork.backends.program import run
from ductwork.resources import HOST, Create, Delete, NftTable, Operation, Outcome, OvsBridge, OvsDeaf, OvsGuard, Owner, Resource
from ductwork.resources.base import SHARED
from ductwork.resources.ovs_guard import COOKIE, COOKIE_MASK, DEAF_TABLE

PACKAGE, NFT_PACKAGE = "openvswitch-switch", "nftables"
_FLOW = re.compile(r"cookie=(0x[0-9a-f]+), (.*?)\bin_port=(?:\"([^\"]+)\"|([^,\s]+))[, ]*(.*)")
_BRIDGES_OWN = "LOCAL"
_NOBODY = Owner("")


def read(bridges: Iterable[OvsBridge]) -> list[Resource]:
    """What there is of it on bridges of ours; whose it is tells the port. A guard that has lost flows has the cookie 0."""
    found: list[Resource] = []
    ours = [bridge for bridge in bridges if bridge.owner]
    for bridge in ours:
        found += _guards(bridge)
    if any(bridge.datapath == "netdev" for bridge in ours):
        found += _deaf()
    return found


def apply(operations: Sequence[Operation], gate: Callable[[str], None]) -> list[Outcome]:
    """Those about guards bridge by bridge, those about deafness in one transaction."""
    errors: dict[int, str] = {}
    bundles: dict[tuple[str, str], list[Operation]] = {}
    for operation in operations:
        target = operation.target
        if isinstance(target, OvsGuard):
            bundles.setdefault((target.bridge, target.database), []).append(operation)
    for (bridge, database), its in bundles.items():
        lines = "\n".join(line for operation in its for line in _lines(operation))
        error = _told(["ovs-ofctl", "--bundle", "add-flows", switch(bridge, database), "-"], lines + "\n", PACKAGE, gate)
        errors |= {id(operation): error for operation in its}
    deaf = [operation for operation in operations if isinstance(operation.target, OvsDeaf)]
    if deaf:
        script = "\n".join(_script(operation) for operation in deaf)
        error = _told(["nft", "-f", "-"], script + "\n", NFT_PACKAGE, gate)
        errors |= {id(operation): error for operation in deaf}
    return [Outcome(operation, errors[id(operation)]) for operation in operations]


def switch(bridge: str, database: str) -> str:
    """What ovs-ofctl connects to: the bridge's socket is beside that of the database."""
    folder = os.path.dirname(database.removeprefix("unix:")) if database.startswith("unix:") else ""
    return f"unix:{folder or os.environ.get('OVS_RUNDIR', '/var/run/openvswitch')}/{bridge}.mgmt"


def _told(argv: list[str], text: str, package: str, gate: Callable[[str], None]) -> str:
    gate("before")
    result = run(argv, text, package)
    gate("after")
    return (result.err.strip().splitlines() or ["failed, and did not say why"])[0] if result.code else ""


def _lines(operation: Operation) -> Iterable[str]:
    """Flows of a port that is not there are none, so that there is nothing to delete."""
    if not isinstance(operation, Create):
        target = operation.before
        assert isinstance(target, OvsGuard)
        yield f"delete in_port={target.link},cookie={COOKIE:#x}/{COOKIE_MASK:#x}"
    if not isinstance(operation, Delete):
        target = operation.after
        assert isinstance(target, OvsGuard)
        yield from (f"add {line}" for line in target.lines)


def _script(operation: Operation) -> str:
    target = operation.target
    assert isinstance(target, OvsDeaf)
    return target.removal if isinstance(operation, Delete) else target.script


def _guards(bridge: OvsBridge) -> list[Resource]:
    """By the port's name, LOCAL for the bridge's own; a number is that of a port that is gone."""
    asked = f"cookie={COOKIE:#x}/{COOKIE_MASK:#x}"
    result = run(
        ["ovs-ofctl", "--names", "--no-stats", "dump-flows", switch(bridge.name, bridge.database), asked], package=PACKAGE
    )
    flows: dict[tuple[str, int], list[str]] = {}
    for m in filter(None, map(_FLOW.search, result.out.splitlines())):
        flows.setdefault((m[3] or m[4], int(m[1], 16)), []).append(m[2] + m[5])
    several = Counter(port for port, _ in flows)
    found: dict[str, Resource] = {}
    for (port, cookie), its in flows.items():
        whole = len(its) & 0xFF == cookie & 0xFF and several[port] == 1
        link = bridge.name if port == _BRIDGES_OWN else port
        known = (cookie, tuple(its)) if whole else (0, ())
        found[link] = OvsGuard(link, bridge.name, *known, owner=_NOBODY, database=bridge.database)
    return list(found.values())


def _deaf() -> list[Resource]:
    result = run(["nft", "-j", f"list table netdev {DEAF_TABLE}"], package=NFT_PACKAGE)
    if result.code:
        return []
    entries = [entry["rule"] for entry in json.loads(result.out)["nftables"] if "rule" in entry]
    told = (entry.get("comment", "").partition(" ") for entry in entries)
    deaf = (OvsDeaf(link, Owner.from_comment(mark) or _NOBODY) for link, _, mark in told)
    return [NftTable("netdev", DEAF_TABLE, (), owner=SHARED, netns=HOST), *deaf]
