"""`attach`, `detach`: one container, by hand."""

from __future__ import annotations

from pathlib import Path

import click

from ductwork.cli.common import NO_DAD, open_front, state_options
from ductwork.cli.render import echo_done
from ductwork.errors import UsageError
from ductwork.requests import Attach, Detach


@click.command()
@click.argument("container")
@click.argument("network")
@click.option(
    "--interface",
    help="Its name in the container (default: the first of eth1, eth2, … that is free).",
)
@click.option("--address", "addresses", multiple=True, help="Its address; several times for several.")
@click.option("--gateway", help="Default route by way of this address.")
@click.option("--no-gateway", is_flag=True, help="No default route by way of this network.")
@click.option("--mac", help="Its MAC address, or seed:TEXT (default: a stable one).")
@click.option("--mtu", type=click.IntRange(68, 65535), help="Its MTU in bytes (default: the network's).")
@NO_DAD
@state_options
def attach(
    container: str,
    network: str,
    interface: str | None,
    addresses: tuple[str, ...],
    gateway: str | None,
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
    if gateway and no_gateway:
        raise UsageError("--gateway and --no-gateway exclude each other", "leave one out")
    wanted = False if no_gateway else gateway
    request = Attach(container, network, interface, addresses, wanted, mac, mtu, not no_dad)
    done = open_front(state, store, verbose=verbose).do(request)
    if container in done.waiting and not quiet:
        click.echo(f"remembered: `ductwork apply` plugs it in when it runs; `ductwork detach {container} {network}` forgets it")
    echo_done(done, quiet=quiet, verbose=verbose)


@click.command()
@click.argument("container")
@click.argument("network")
@click.option("--interface", help="Only this one, where it is plugged in several times.")
@state_options
def detach(container: str, network: str, interface: str | None, state: Path, store: str, quiet: bool, verbose: bool) -> None:
    """Take back what `attach` plugged in. A default route that it replaced is put back."""
    done = open_front(state, store, verbose=verbose).do(Detach(container, network, interface))
    echo_done(done, quiet=quiet, verbose=verbose)
