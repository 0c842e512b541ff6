"""`attach`, `detach`: one container, by hand."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import click

from ductwork.cli.common import NO_DAD, echo_report, open_engine, state_options
from ductwork.errors import UsageError
from ductwork.naming import mac_address
from ductwork.resources import IPAddress


def _address(ctx: click.Context, param: click.Parameter, value: str | tuple[str, ...] | None) -> object:
    """Click's callback for one or several addresses."""
    if isinstance(value, tuple):
        return tuple(_parsed(text) for text in value)
    return None if value is None else _parsed(value)


def _parsed(text: str) -> IPAddress:
    try:
        return ip_address(text.partition("/")[0])
    except ValueError:
        raise click.BadParameter(f"{text} is no IP address") from None


def _as_in_a_site_file(function: str) -> Callable[[click.Context, click.Parameter, str | None], str | None]:
    """Click's callback for what a site file has too: the same is refused, by a function of `site.values`."""

    def check(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
        from ductwork.site import values

        try:
            return None if value is None else getattr(values, function)(value)
        except values.Refused as refused:
            raise UsageError(refused.message, refused.hint) from None

    return check


@click.command()
@click.argument("container", callback=_as_in_a_site_file("container"))
@click.argument("network")
@click.option(
    "--interface",
    callback=_as_in_a_site_file("interface_name"),
    help="Its name in the container (default: the first of eth1, eth2, … that is free).",
)
@click.option("--address", "addresses", multiple=True, callback=_address, help="Its address; several times for several.")
@click.option("--gateway", callback=_address, help="Default route by way of this address.")
@click.option("--no-gateway", is_flag=True, help="No default route by way of this network.")
@click.option("--mac", callback=_as_in_a_site_file("mac"), help="Its MAC address, or seed:TEXT (default: a stable one).")
@click.option("--mtu", type=click.IntRange(68, 65535), help="Its MTU in bytes (default: the network's).")
@NO_DAD
@state_options
def attach(
    container: str,
    network: str,
    interface: str | None,
    addresses: tuple[IPAddress, ...],
    gateway: IPAddress | None,
    no_gateway: bool,
    mac: str | None,
    mtu: int | None,
    no_dad: bool,
    state: Path,
    store: str,
    quiet: bool,
    verbose: bool,
) -> None:
    """Plug CONTAINER into NETWORK, which a site applied here has.

    CONTAINER is RUNTIME:NAME or NAME, as in the site file. The attachment is remembered; `detach` takes it back, and
    `apply` leaves it alone.
    """
    from ductwork.engine import AttachRequest

    if gateway and no_gateway:
        raise UsageError("--gateway and --no-gateway exclude each other", "leave one out")
    if mac and mac.startswith("seed:"):
        mac = mac_address("seed", mac.removeprefix("seed:"))
    wanted: bool | IPAddress | None = False if no_gateway else gateway
    request = AttachRequest(container, network, interface, addresses, wanted, mac, mtu)
    with open_engine(state, store) as engine:
        report = engine.attach(request, dad=not no_dad)
    if container in report.waiting and not quiet:
        click.echo(f"remembered: `ductwork apply` plugs it in when it runs; `ductwork detach {container} {network}` forgets it")
    echo_report(report, f"{container} in {network}", quiet=quiet, verbose=verbose)


@click.command()
@click.argument("container")
@click.argument("network")
@click.option("--interface", help="Only this one, where it is plugged in several times.")
@state_options
def detach(container: str, network: str, interface: str | None, state: Path, store: str, quiet: bool, verbose: bool) -> None:
    """Take back what `attach` plugged in. A default route that it replaced is put back."""
    with open_engine(state, store) as engine:
        report = engine.detach(container, network, interface)
    echo_report(report, f"{container} out of {network}", quiet=quiet, verbose=verbose)
