"""`python -m bench`: measures, and prints tables of medians and ratios; `script/bench` sets up and calls it.

Invariant: nothing is left behind, and this machine's own namespace is not touched.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

from bench import agent, drivers, ours, peers, ports, scale, stages, traffic
from bench.hosts import namespaces, run, seclude
from bench.measure import ROW, Contender, Figure, Table, attaches, in_a_row, take_turns

FLOOR = "raw netlink"
PLUGIN = "CNI bridge + host-local"
MASQUERADING = "… with ipMasq"
PROMISED_SHARE = 0.2
ENGINE = "ductwork, engine"
TABLES = ("attach", "drivers", "traffic", "ports", "start-up", "scale", "agent")
LONG = ("agent-memory",)
"""Not measured unless it is asked for."""


def main() -> int:
    options = _options()
    if os.geteuid() != 0:
        print("bench: needs root, for network namespaces; script/bench asks sudo for it", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, _interrupt)
    # What a killed bench would leave goes with the mounts; /run is memory on a real machine, if not in every container.
    seclude("/run/netns", "/run/ductwork")
    machine = _machine()
    if not options.json:
        print(machine, flush=True)
    tables: list[Table] = []
    for table in _tables(options):
        tables.append(table)
        if not options.json:
            print(f"\n{table.as_text()}", flush=True)
    if options.json:
        print(json.dumps({"machine": machine, "tables": [t.as_json() for t in tables]}, indent=1))
    missed = [f"{t.title}: {f.subject}" for t in tables for f in t.figures if f.met is False]
    for line in missed:
        print(f"bench: target missed: {line}", file=sys.stderr)
    return 3 if missed and options.strict else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="script/bench", description="ductwork beside its peers, measured in one run.")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument(
        "--rounds", type=int, default=12, metavar="N", help="turns of each: three attaches, or one of traffic (default: 12)"
    )
    parser.add_argument("--sizes", default="10,100,1000", metavar="LIST", help="attachments in a site file")
    parser.add_argument("--only", choices=(*TABLES, *LONG), action="append", help="these tables alone")
    parser.add_argument("--no-docker", action="store_true", help="leave Docker out")
    parser.add_argument("--strict", action="store_true", help="exit with 3 where a target is missed")
    return parser.parse_args()


def _tables(options: argparse.Namespace) -> Iterator[Table]:
    wanted = options.only or TABLES
    if "attach" in wanted:
        yield from attach_one(options.rounds, docker=not options.no_docker)
    if {"drivers", "traffic"} & set(wanted):
        kinds = stages.possible(lambda why: print(f"bench: {why}", file=sys.stderr))
        if "drivers" in wanted:
            yield drivers.table([kind for kind in kinds if not kind.unfiltered], options.rounds)
        if "traffic" in wanted:
            yield from traffic.tables(kinds, options.rounds)
    if "ports" in wanted:
        yield from ports.tables(options.rounds)
    if "start-up" in wanted:
        yield scale.start_up()
    if "scale" in wanted:
        yield from scale.tables([int(size) for size in options.sizes.split(",")])
    if "agent" in wanted and not options.no_docker:
        yield from agent.tables()
    if "agent-memory" in wanted:
        yield agent.memory()


def attach_one(rounds: int, docker: bool) -> Iterator[Table]:
    """One container at a time, everybody on a host of their own: in turns, and the quick ones in a row."""
    contenders: list[peers.Namespaced] = [
        peers.Floor(FLOOR, "floor"),
        ours.ByEngine(ENGINE, "engine"),
        ours.ByCommand("ductwork attach", "command"),
        peers.Pipework("pipework's steps", "steps", arping=False),
        peers.Pipework("pipework's steps, arping", "arping", arping=True),
    ]
    if why := peers.missing_cni():
        print(f"bench: without CNI: {why}", file=sys.stderr)
    else:
        contenders.append(peers.Cni(PLUGIN, "cni", masquerade=False))
        contenders.append(peers.Cni(MASQUERADING, "cnimasq", masquerade=True))
    names = [name for c in contenders for name in (c.host, *map(c.container, range(attaches(rounds) + ROW)))]
    with ExitStack() as stack:
        stack.enter_context(namespaces(names))
        everybody: list[Contender] = [*contenders]
        if docker:
            everybody += stack.enter_context(_dockers(rounds))
        for contender in everybody:
            stack.callback(contender.close)
            contender.prepare()
        figures = take_turns(everybody, rounds)
        yield Table("attaching one container, in turns", (*figures, *_shares(figures)), ENGINE)
        figures = in_a_row([c for c in contenders if c.name in (FLOOR, ENGINE, PLUGIN, MASQUERADING)], rounds)
        yield Table("attaching one container after the other, nobody in between", (*figures, *_shares(figures)), ENGINE)


def _shares(figures: list[Figure]) -> list[Figure]:
    """The engine's time as a share of the plug-in's: our promise is a fifth. Our network masquerades."""
    medians = {figure.subject: figure.median for figure in figures}
    return [
        Figure(f"engine's share of CNI's time{how}", (medians[ENGINE] / medians[plugin],), "", PROMISED_SHARE)
        for plugin, how in ((PLUGIN, ""), (MASQUERADING, ", ipMasq"))
        if {ENGINE, plugin} <= set(medians)
    ]


@contextmanager
def _dockers(rounds: int) -> Iterator[list[Contender]]:
    if why := peers.missing_docker():
        print(f"bench: without Docker: {why}", file=sys.stderr)
        yield []
        return
    daemon = peers.Dockerd("docker")
    by_command = peers.Docker("docker network connect", daemon, "command", daemon.connect_by_command)
    by_api = peers.Docker("… by its API", daemon, "api", daemon.connect_by_api)
    with namespaces([daemon.host]):
        try:
            count = attaches(min(rounds, peers.Docker.rounds))
            daemon.start([*by_command.containers(count), *by_api.containers(count)])
            yield [by_command, by_api]
        finally:
            daemon.stop()


def _machine() -> str:
    """What the figures were measured on."""
    with open("/proc/cpuinfo") as info:
        model = next((line.partition(":")[2].strip() for line in info if line.startswith("model name")), platform.machine())
    iproute2 = run("ip", "-V").strip().rpartition("-")[2]
    python = platform.python_version()
    return f"{os.cpu_count()} cores, {model}; Linux {platform.release()}; Python {python}; iproute2 {iproute2}"


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Clean up as after Ctrl-C."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
