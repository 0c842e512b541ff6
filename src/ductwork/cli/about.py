"""`schema`, `version`."""

from __future__ import annotations

import click


@click.command()
def schema() -> None:
    """Print the JSON Schema of the site file, for editors."""
    import json

    from ductwork.site.schema import json_schema

    click.echo(json.dumps(json_schema(), indent=2))


@click.command()
def version() -> None:
    """Print the version."""
    from ductwork import __version__

    click.echo(f"ductwork {__version__}")
