"""Environment variables of pipework's wrapper (`…pipework_cmd…=br0 -i eth1 @CONTAINER_NAME@ 10.1.1.2/24`) → requests.

Invariant: pure; a command line is translated only where a network of the site means the same as all of it; anything else is
refused, never left out. Read in the order of the variables' names, as the wrapper runs them.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ductwork.drivers.registry import DRIVERS
from ductwork.engine import AttachRequest
from ductwork.plugins.label_policy import names_on_host
from ductwork.resources import IPAddress
from ductwork.runtimes import COMPOSE_PREFIX, Tags
from ductwork.site import values
from ductwork.site.model import Network, Site
from ductwork.site.values import Refused, describe, listing

_FORM = "write `BRIDGE_OR_NIC [-i NAME] @CONTAINER_NAME@ ADDRESS/LENGTH[@GATEWAY] [MAC][@VLAN]`"
_OTHER_COMMANDS = ("route", "rule", "tc", "dummy", "--wait", "--direct-phys")


@dataclass(frozen=True, slots=True)
class _Line:
    host_interface: str
    interface: str
    guest: str
    address: str
    mac: str
    vlan: str
    family: str


def requests(
    container: str, tags: Tags, site: Site, host: str, refuse: Callable[[tuple[str, Refused]], object]
) -> Iterator[tuple[str, AttachRequest]]:
    """(variable, request) of each; mistakes go to `refuse`."""
    for variable, text in sorted(tags.variables.items()):
        try:
            yield variable, _request(container, tags, _parsed(_expanded(text, tags)), site, host)
        except Refused as error:
            refuse((variable, error))


def _expanded(text: str, tags: Tags) -> str:
    number = re.search("[0-9]+$", tags.name)
    macros = {
        "@CONTAINER_NAME@": tags.name,
        "@CONTAINER_ID@": tags.identity,
        "@HOSTNAME@": tags.hostname,
        "@INSTANCE@": tags.labels.get(f"{COMPOSE_PREFIX}container-number") or (number[0] if number else ""),
        "@COMPOSE_PROJECT_NAME@": tags.labels.get(f"{COMPOSE_PREFIX}project", ""),
    }

    def value(found: re.Match[str]) -> str:
        expanded = macros[found[0]]
        if not expanded:
            raise Refused(f"the container has nothing for `{found[0]}`", "write out what is meant")
        if not re.fullmatch(r"[\w.-]{1,255}", expanded):
            raise Refused(f"`{found[0]}` is {describe(expanded)}", "write out what is meant")
        return expanded

    return re.sub("|".join(macros), value, text)


def _parsed(text: str) -> _Line:
    """By pipework's grammar, in which flags have their places."""
    words = text.split()
    if words and words[0] in _OTHER_COMMANDS:
        raise Refused(f"`{words[0]}` cannot be asked for by a label", "delete it; what it does belongs into the site file")
    host_interface, *rest = words or [""]
    flags = {"-i": "", "-l": "", "-a": ""}
    for flag in flags:
        if rest[:1] == [flag]:
            flags[flag] = rest[1] if len(rest) > 1 else ""
            rest = rest[2:]
    if flags["-l"]:
        raise Refused("`-l` names the host's end, which is ductwork's to name", "delete `-l` and its name")
    if flags["-a"] not in ("", "4", "6"):
        raise Refused(f"`-a {values.listing([flags['-a']])}` is no family", "write 4 or 6, or delete it")
    if len(rest) not in (2, 3):
        raise Refused(f"{describe(text)} is no command line of pipework's that ductwork translates", _FORM)
    mac, _, vlan = (rest[2] if len(rest) == 3 else "").partition("@")
    return _Line(host_interface, flags["-i"], rest[0], rest[1], mac, vlan, flags["-a"])


def _request(container: str, tags: Tags, line: _Line, site: Site, host: str) -> AttachRequest:
    if line.guest not in (tags.name, tags.identity, tags.identity[:12]):
        raise Refused(f"{describe(line.guest)} is another container", "write `@CONTAINER_NAME@`: each asks for itself")
    network = _network(line, site, host)
    addresses, gateway = _address(line, network)
    return AttachRequest(
        container,
        network.name,
        values.interface_name(line.interface or "eth1"),
        addresses,
        gateway,
        _mac(line.mac) if line.mac else None,
    )


def _network(line: _Line, site: Site, host: str) -> Network:
    """The permitted network behind what the host calls so, in that VLAN."""
    here = [site.networks[name] for name in site.labels if name in site.networks and host in site.hosts_of(name)]
    names = {network.name: names_on_host(network, host, DRIVERS[network.driver].ifname(network, host)) for network in here}
    found = [network for network in here if line.host_interface in names[network.name]]
    if not found:
        known = listing(sorted({each for its in names.values() for each in its})) or "nothing"
        hint = f"labels may use {known}; `labels` in the site file says so"
        raise Refused(f"{describe(line.host_interface)} is no network that labels may use", hint)
    fitting = [network for network in found if str(getattr(network.options, "vlan", None) or "") == line.vlan]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise Refused(
            f"{describe(line.host_interface)} is several networks", f"write one of {listing(n.name for n in fitting)} instead"
        )
    vlans = listing(str(getattr(network.options, "vlan", None) or "none") for network in found)
    raise Refused(
        f"VLAN {describe(line.vlan) if line.vlan else 'none'} of {describe(line.host_interface)} is no network "
        "that labels may use",
        f"VLANs there: {vlans}",
    )


def _address(line: _Line, network: Network) -> tuple[tuple[IPAddress, ...], bool | IPAddress]:
    """Without a gateway, pipework leaves the default route as it is."""
    written, at, gateway = line.address.partition("@")
    if written == "0/0":
        if network.subnets:
            hint = "write an address, or ask for a network without subnet"
            raise Refused(f"`0/0` is no address, and network `{network.name}` has some", hint)
        return (), False
    if re.match("u?dhc", written):
        raise Refused(f"{describe(written)}: addresses by DHCP cannot be asked for by a label", "write an address")
    address, length = values.address_with_prefix(written)
    subnet = network.subnet_of(address)
    if length is None:
        raise Refused(f"{describe(written)} has no prefix length", f"maybe `{address}/{subnet.prefixlen if subnet else 24}`?")
    if subnet and length != subnet.prefixlen:
        raise Refused(f"`/{length}` is not the subnet's prefix length", f"write `{address}/{subnet.prefixlen}`")
    if line.family and int(line.family) != address.version:
        raise Refused(f"`{address}` is not IPv{line.family}", "delete `-a`")
    return (address,), values.address(gateway) if at else False


def _mac(text: str) -> str:
    """`U:TEXT`: as pipework makes one of it."""
    if not text.startswith("U:"):
        return values.mac(text)
    digest = hashlib.md5(f"{text.removeprefix('U:')}\n".encode(errors="replace"), usedforsecurity=False).digest()[:5]
    return ":".join(f"{octet:02x}" for octet in (0x02, *digest))
