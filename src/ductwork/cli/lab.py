"""`ductwork lab`: rehearse a site file on this machine, with nothing but the file.

Invariant: what is printed on stdout is the result; `test` leaves the lab as it found it, up or not there.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ductwork.lab.build import ApplyHost
    from ductwork.lab.report import Style
    from ductwork.lab.topology import HostNode, Topology

SITE = click.argument("site", type=click.Path(path_type=Path))


@click.group()
def lab() -> None:
    """Rehearse a site file on this machine.

    Every host and every container of the file becomes a network namespace here, whatever its runtime; the hosts' NICs are
    plugged into switches, one for each NIC name, with a router behind which a machine stands for the internet
    (203.0.113.10), and another machine on each LAN that a network of the file lies on. Then the file is applied on each
    host, as on a real one. This machine's own network is not touched. Needs root.
    """


@lab.command()
@SITE
def up(site: Path) -> None:
    """Build the lab of SITE, and apply the file on its hosts.

    Look into it with `ductwork lab exec`, or `ip netns exec lab-NAME-h-HOST …`.
    """
    from ductwork.lab import build

    found = _topology(site)
    build.up(found, _apply_host(found))
    width = max(len(label) for label in found.labels())
    for label in found.labels():
        click.echo(f"{label:<{width}}  {found.netns_of(label)}")


@lab.command()
@SITE
def down(site: Path) -> None:
    """Remove the lab of SITE, also what is left of one that broke off.

    No process is ended: those that still run in it are listed, and keep their namespace, now nameless, until they end.
    """
    _remove(_topology(site))


@lab.command()
@SITE
@click.option("--json", "as_json", is_flag=True, help="Print the pairs as JSON.")
def test(site: Path, as_json: bool) -> None:
    """Check who reaches whom in the lab of SITE against what the file asks for.

    From every container, every host and the outside, all addresses of all others are tried with ICMP echo, published ports
    and ports beside them by TCP and UDP, and the matrix is printed. Exits with 3 if a pair differs from the rules ("who reaches
    whom", in the site file's reference).

    A lab that is not up is brought up, tested and taken down again; one that is up is tested as it is, and stays.
    """
    import json

    from ductwork.lab import build, ports, report
    from ductwork.lab.expect import expectations
    from ductwork.lab.probe import attempt

    found = _topology(site)
    with _standing(found):
        addresses = build.read_addresses(found)
        results = attempt(expectations(found, addresses))
        results += ports.attempt(*ports.expectations(found, addresses))
    click.echo(json.dumps(report.as_json(results)) if as_json else report.as_text(results, _style()), nl=as_json)
    if any(result.differs for result in results):
        sys.exit(3)


@lab.command("exec", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@SITE
@click.argument("machine")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def exec_(site: Path, machine: str, command: tuple[str, ...]) -> None:
    """Run COMMAND (default: a shell) in MACHINE of the lab of SITE.

    MACHINE is a host, a container (its name, RUNTIME:NAME, or HOST/NAME where hosts have equal ones), `lan-NETWORK` (a
    machine on the LAN of a network), `router` or `outside`.

    \b
      ductwork lab exec site.yaml web -- ping -c1 10.1.1.3
    """
    from ductwork.errors import DuctworkError
    from ductwork.lab import build, namespaces, switches

    found = _topology(site)
    netns = _find(found, machine)
    if not namespaces.exists(netns):
        raise DuctworkError(f"the lab is not up: there is no network namespace {netns}", f"ductwork lab up {site}")
    if command[:1] == ("--",):
        command = command[1:]
    argv = ["ip", "netns", "exec", netns, *(command or (os.environ.get("SHELL", "/bin/sh"),))]
    sys.stdout.flush()
    # A ductwork that is run in there is to remember what the lab's hosts do, and nothing on this machine.
    state = build.state_directory(found.site.name)
    host = next((node for node in found.hosts.values() if node.netns == netns), None)
    place = switches.environment(found, host, state) if host else {}
    os.execvpe("ip", argv, {**os.environ, "DUCTWORK_STATE": str(state), **place})


def _topology(site: Path) -> Topology:
    from ductwork.app import lacking
    from ductwork.cli.common import read_site
    from ductwork.errors import MissingToolError
    from ductwork.lab.topology import topology

    found = topology(read_site(site))
    if os.geteuid() != 0:
        raise MissingToolError("a lab is made of network namespaces, which need root", "run it as root, or with sudo")
    if any(segment.vlan for segment in found.segments.values()) and lacking(["vlan"]):
        return topology(found.site, vlans=False)
    return found


def _apply_host(found: Topology) -> ApplyHost:
    """`ductwork apply` on one host of the lab, by the same engine; each in a thread that is in the host's namespace."""
    from ductwork.app import build_engine, lacking
    from ductwork.errors import ApplyError
    from ductwork.lab.build import state_directory
    from ductwork.lab.namespaces import run_inside
    from ductwork.lab.runtime import runtimes
    from ductwork.lab.switches import forget_this_machine, site_for, wants_kernel

    in_kernel = not (wants_kernel(found.site) and lacking(["openvswitch"]))
    _tell_what_is_left_out(found, in_kernel=in_kernel)
    state = state_directory(found.site.name)
    forget_this_machine(state)

    def apply(node: HostNode) -> None:
        with build_engine(state, runtimes=runtimes(found, node.name)) as engine:
            report = engine.apply(site_for(found, node, state, in_kernel=in_kernel), node.name)
        for note in report.notes:
            click.echo(f"note: {node.label}: {note}", err=True)
        if report.waiting:
            listed = "; ".join(f"{name} ({reason})" for name, reason in report.waiting.items())
            raise ApplyError(f"containers of the lab are still waiting on {node.label}: {listed}")

    return lambda node: run_inside(node.netns, partial(apply, node))


def _tell_what_is_left_out(found: Topology, *, in_kernel: bool) -> None:
    if found.left_out:
        listed = ", ".join(found.left_out)
        message = f"note: this kernel has no 802.1q: no gateway and no other machine on the LAN of {listed}"
        click.echo(message, err=True)
    if not in_kernel:
        click.echo("note: this kernel has no Open vSwitch: `datapath: netdev` takes the place of `system`", err=True)


@contextmanager
def _standing(found: Topology) -> Iterator[None]:
    """The lab as it stands, or one for the time being, which goes also when a signal ends us."""
    from ductwork.lab import build

    if build.is_up(found):
        yield
        return
    before = {number: signal.signal(number, _leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        build.up(found, _apply_host(found))
        try:
            yield
        finally:
            _remove(found)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, _: FrameType | None) -> None:
    sys.exit(128 + number)


def _remove(found: Topology) -> None:
    from ductwork.lab import build

    for netns, pids in build.down(found.site.name).items():
        listed = ", ".join(map(str, pids))
        click.echo(f"still running in {netns}, which lives on without a name until they end: {listed}", err=True)


def _find(found: Topology, machine: str) -> str:
    from difflib import get_close_matches

    from ductwork.errors import UsageError

    netns = found.netns_of(machine)
    if netns is None:
        labels = found.labels()
        near = get_close_matches(machine, labels) or [label for label in labels if label.endswith(f"/{machine}")]
        raise UsageError(
            f"the lab has no machine {machine!r}, or more than one",
            f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(labels)}",
        )
    return netns


def _style() -> Style:
    import shutil

    from ductwork.lab.report import Style

    terminal = sys.stdout.isatty()
    try:
        "✓·✗→".encode(sys.stdout.encoding or "ascii")
        ascii_only = False
    except UnicodeEncodeError:
        ascii_only = True
    width = shutil.get_terminal_size((100, 24)).columns
    return Style(width, ascii_only, terminal and not os.environ.get("NO_COLOR"))
