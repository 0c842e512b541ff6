"""What an OVSDB tells of changes of bridges and ports."""

from __future__ import annotations

import select
from collections.abc import Sequence
from typing import ClassVar

from ductwork.backends.ovsdb.client import Client
from ductwork.events import Event


class SwitchEvents:
    """Of the database at `address`. Errors: `MissingToolError`, `DatabaseError`."""

    mask: ClassVar[int] = select.POLLIN

    def __init__(self, address: str) -> None:
        self._address = address
        self._client = Client(address)
        try:
            self._client.monitor({table: {"columns": columns} for table, columns in _WATCHED.items()})
        except BaseException:
            self._client.close()
            raise

    def fileno(self) -> int:
        return self._client.fileno()

    def close(self) -> None:
        self._client.close()

    def take(self) -> Sequence[Event]:
        tables = {table for update in self._client.updates() for table in update}
        return [Event(f"{' and '.join(sorted(tables))} changed in Open vSwitch's database")] if tables else []


_WATCHED = {"Bridge": ["ports", "external_ids"], "Port": ["tag", "trunks", "external_ids"], "Interface": ["name", "type"]}
"""Not what counts packets and seconds."""
