"""Site file and host → resources → commands, as files to read: NAME/site.yaml and NAME/HOST.txt.

The host is the same in all: a NIC eth0 with the host's address and a default route, no forwarding, a kernel from 6.17 on.
Containers of `docker:` have a default route of Docker's. Without root, without a kernel.

    DUCTWORK_GOLDEN=write script/test golden        # writes the files anew; read the difference before committing it
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from ipaddress import IPv4Interface, ip_address, ip_interface
from pathlib import Path

import click
import pytest

from ductwork import desire, ipam
from ductwork.cli.render import as_lines
from ductwork.front.changes import as_commands, changes_of
from ductwork.planner import plan
from ductwork.resources import HOST, Address, Key, Link, NftTable, Operation, Resource, Route, Sysctl, state
from ductwork.resources.base import SHARED
from ductwork.resources.route import ANYWHERE, BOOT_PROTOCOL
from ductwork.resources.sysctl import promisc_path
from ductwork.services.nat import sysctl_paths
from ductwork.services.ruleset import bridge_table, inet_table
from ductwork.site.load import load_site
from ductwork.site.model import Site

FOLDER = Path(__file__).parent
HERE = "here"
"""The one host of a file without hosts."""
PLACES = {"docker:web": "/proc/4711/ns/net", "docker:api": "/proc/4712/ns/net"}


def _machine(site: Site, host: str) -> dict[Key, Resource]:
    """What is there before ductwork comes."""
    own: object = site.hosts[host].address if host else None
    address = ip_interface("10.99.0.1/24") if own is None else own
    assert isinstance(address, IPv4Interface)
    found: list[Resource] = [
        Link(HOST, "lo", "", "00:00:00:00:00:00", 65536),
        Link(HOST, "eth0", "", "02:aa:00:00:00:01", 1500),
        Address(HOST, "eth0", address.ip, address.network.prefixlen),
        Route(HOST, ANYWHERE[4], "eth0", ip_address("10.99.0.254"), protocol=BOOT_PROTOCOL),
    ]
    for attachment in site.on(host):
        if attachment.container.startswith("docker:"):
            docker = ip_address("172.17.0.1")
            found.append(Route(attachment.container, ANYWHERE[4], "eth0", docker, protocol=BOOT_PROTOCOL))
    return state(found)


def operations(site: Site, host: str) -> tuple[Operation, ...]:
    observed = _machine(site, host)
    cookies = {name: 100 + number for number, name in enumerate(dict.fromkeys(a.container for a in site.on(host)))}
    cookies[HOST] = 1
    families = frozenset({"ip", "ip6"})
    values = dict.fromkeys(sysctl_paths(desire.facts(observed, cookies, {}, families)), "0")
    values |= dict.fromkeys((promisc_path("eth0"), "net/ipv4/conf/eth0/arp_ignore"), "0")
    observed |= state([Sysctl(HOST, path, value) for path, value in values.items()])
    assignment = ipam.assign(site, host, {name: {} for name in site.networks})
    sight = desire.view(site, host, "machine", desire.facts(observed, cookies, values, families), assignment.addresses)
    found = plan(desire.desired_on_host(sight), observed, lambda resource: False)
    assert not found.conflicts
    return found.operations


def _place(container: str) -> str:
    return PLACES.get(container, container.rpartition(":")[2])


def _written(operation: Operation) -> Iterator[str]:
    """A resource, and below it its commands."""
    yield from map(click.unstyle, as_lines(changes_of([operation])))
    if isinstance(operation.target, NftTable):
        yield f"    nft '…'     # as in {operation.target.family}-table.txt"
        return
    for command in as_commands([operation], _place):
        yield f"    {command}"


def expected() -> dict[Path, str]:
    """Every file's content."""
    files = {}
    for path in sorted(FOLDER.glob("*/site.yaml")):
        site = load_site(path, "machine")
        for host in site.hosts or [""]:
            lines = [line for operation in operations(site, host) for line in _written(operation)]
            files[path.with_name(f"{host or HERE}.txt")] = "\n".join(lines) + "\n"
    for table in (inet_table(SHARED), bridge_table(SHARED)):
        files[FOLDER / f"{table.family}-table.txt"] = table.script + "\n"
    return files


EXPECTED = expected()


@pytest.mark.parametrize("path", EXPECTED, ids=lambda path: str(path.relative_to(FOLDER)))
def test_golden(path: Path) -> None:
    if os.environ.get("DUCTWORK_GOLDEN") == "write":
        path.write_text(EXPECTED[path])
    assert path.read_text() == EXPECTED[path]


def test_no_file_is_left_over() -> None:
    assert set(FOLDER.rglob("*.txt")) == set(EXPECTED)
