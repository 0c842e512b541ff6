"""What can be wrong in `labels`. See `checks.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ductwork.errors import Problem
from ductwork.site.check_ports import ways
from ductwork.site.draft import Draft, subnet_of, subnets
from ductwork.site.values import describe, instead_of_network, listing


def permitted_networks(draft: Draft) -> Iterator[Problem]:
    """Networks of the file, other than a NIC: that goes to one container, which the file has to name."""
    for name, path in draft.label_paths.items():
        network = draft.networks.get(name)
        if name not in draft.network_names:
            hint = instead_of_network(name, draft.network_names)
            yield Problem(path, f"`labels`: unknown network {describe(name)}", hint, on_key=True)
        elif network is not None and network.driver == "phys":
            hint = "delete it here, and plug its container in by `attachments`"
            yield Problem(path, f"`labels`: network `{name}` is a NIC", hint, on_key=True)


def permitted_ranges(draft: Draft) -> Iterator[Problem]:
    """Each in one of the network's subnets."""
    for name, permission in draft.labels.items():
        network = draft.networks.get(name)
        for index, span in enumerate(permission.addresses if network else ()):
            assert network
            path = draft.label_ranges_at[name]
            subnet = subnet_of(network, span.first)
            if subnet is None or span.last not in subnet:
                places = listing(map(str, subnets(network)))
                hint = f"choose a part of {places}" if places else "write `true`: the network has no addresses"
                message = f"`labels`: {span.first}-{span.last} is not in one of the network's subnets"
                yield Problem((*path, index), message, hint)


def permitted_ports(draft: Draft) -> Iterator[Problem]:
    """Of networks whose containers some host reaches."""
    for name, permission in draft.labels.items():
        network = draft.networks.get(name)
        if network is None or not permission.ports:
            continue
        found = [ways(network, host, {subnet.version for subnet in subnets(network)}) for host in draft.hosts_of[name]]
        if found and not any(versions for versions, _, _ in found):
            _, why, hint = found[0]
            yield Problem((*draft.label_paths[name], "ports"), f"`labels`: network `{name}` {why}", hint)


LABEL_CHECKS: tuple[Callable[[Draft], Iterator[Problem]], ...] = (permitted_networks, permitted_ranges, permitted_ports)
