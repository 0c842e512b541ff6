"""The store of one machine: an SQLite file, shared by the ductwork processes on it.

Invariant: every call is one transaction. Nothing is opened before the first call, and nothing is created before the first
that writes, so that `plan` leaves no file behind; a file that was removed meanwhile is not written to.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path

from ductwork.errors import AllocationError, BusyError, DuctworkError
from ductwork.store import Lease

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE lease (
  site TEXT, network TEXT, address TEXT, host TEXT, container TEXT, interface TEXT, place INTEGER,
  PRIMARY KEY (site, network, address)
) WITHOUT ROWID;
CREATE INDEX lease_holder ON lease (site, network, host, container, interface);
CREATE TABLE remembered (kind TEXT, key TEXT, value TEXT, PRIMARY KEY (kind, key)) WITHOUT ROWID;
"""
_BUSY_SECONDS = 10.0
_parsed = lru_cache(1 << 14)(ip_address)
"""The agent reads the same again and again, whenever another process has written."""

Holder = tuple[str, str, str]


class SqliteStore:
    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._inode = 0
        self._version = 0
        self._leases: dict[tuple[str, str], dict[Holder, tuple[Lease, ...]]] = {}
        self._remembered: dict[str, dict[str, dict[str, object]]] = {}

    def leases(self, site: str, network: str) -> dict[Holder, tuple[Lease, ...]]:
        with self._reading() as db:
            if db is None:
                return {}
            if (site, network) not in self._leases:
                self._leases[site, network] = _read_leases(db, site, network)
            return dict(self._leases[site, network])

    def lease(self, site: str, network: str, holder: Holder, addresses: tuple[Lease, ...]) -> None:
        self.lease_all(site, [(network, holder, addresses)])

    def lease_all(self, site: str, changes: Iterable[tuple[str, Holder, tuple[Lease, ...]]]) -> None:
        """Several leases, in order, all of them or none: (network, holder, addresses)."""
        wanted = list(changes)
        with self._writing() as db:
            for network, holder, addresses in wanted:
                db.execute(
                    "DELETE FROM lease WHERE site = ? AND network = ? AND host = ? AND container = ? AND interface = ?",
                    (site, network, *holder),
                )
                for place, address in enumerate(addresses):
                    try:
                        row = (site, network, str(address), *holder, place)
                        db.execute("INSERT INTO lease VALUES (?, ?, ?, ?, ?, ?, ?)", row)
                    except sqlite3.IntegrityError:
                        raise _taken(db, site, network, address) from None
        with self._lock:
            for network, holder, addresses in wanted:
                read = self._leases.get((site, network), {})
                read.pop(holder, None)
                if addresses:
                    read[holder] = addresses

    def remember(self, table: str, key: str, value: dict[str, object] | None) -> None:
        with self._writing() as db:
            if value is None:
                db.execute("DELETE FROM remembered WHERE kind = ? AND key = ?", (table, key))
            else:
                text = json.dumps(value, ensure_ascii=False, sort_keys=True)
                db.execute("INSERT OR REPLACE INTO remembered VALUES (?, ?, ?)", (table, key, text))
        with self._lock:
            read = self._remembered.get(table)
            if read is None:
                return
            if value is None:
                read.pop(key, None)
            elif key in read:
                read[key] = json.loads(text)
            else:
                self._remembered[table] = dict(sorted({**read, key: json.loads(text)}.items()))

    def remembered(self, table: str, key: str | None = None) -> dict[str, dict[str, object]]:
        with self._reading() as db:
            if db is None:
                return {}
            read = self._remembered.get(table)
            if key is not None:
                return _read_one(db, table, key) if read is None else {key: read[key]} if key in read else {}
            if read is None:
                query = "SELECT key, value FROM remembered WHERE kind = ? ORDER BY key"
                read = {name: json.loads(value) for name, value in db.execute(query, (table,))}
                self._remembered[table] = read
            return dict(read)

    def close(self) -> None:
        with self._lock:
            self._close()

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """None where there is nothing to read yet."""
        with self._lock, self._explained():
            db = self._open(create=False)
            if db is None or not _version(db):
                yield None
                return
            version = db.execute("PRAGMA data_version").fetchone()[0]
            if version != self._version:
                self._forget()
                self._version = version
            yield db

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock, self._explained():
            db = self._open(create=True)
            assert db
            db.execute("BEGIN IMMEDIATE")
            try:
                if not _version(db):
                    _create_schema(db)
                yield db
                db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # a full disk has rolled it back already
                    db.execute("ROLLBACK")
                raise

    def _open(self, *, create: bool) -> sqlite3.Connection | None:
        try:
            inode = self._path.stat().st_ino
        except FileNotFoundError:
            inode = 0
        if self._connection and inode == self._inode:
            return self._connection
        self._close()
        if not inode and not create:
            return None
        if not inode:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._connection = _connect(self._path, create=create)
        self._inode = self._path.stat().st_ino
        return self._connection

    def _close(self) -> None:
        if self._connection:
            self._connection.close()
            self._connection = None
        self._forget()

    def _forget(self) -> None:
        """What was read is good until another connection writes (PRAGMA data_version); our own writes see to it themselves."""
        self._leases.clear()
        self._remembered.clear()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorname.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
                hint = "another ductwork has been writing for long: try again"
                raise BusyError(f"{self._path}: locked for {_BUSY_SECONDS:.0f} seconds", hint) from error
            hint = "may this user write there, and is the disk full? `--state DIR` names another place"
            raise DuctworkError(f"{self._path}: {error}", hint) from error
        except (sqlite3.DatabaseError, ValueError) as error:
            self._close()
            hint = (
                f"move it away (mv {self._path} {self._path}.damaged) and run the command again: "
                "what is in the kernel is recognised without it"
            )
            raise DuctworkError(f"{self._path} is damaged: {error}", hint) from error
        except OSError as error:
            hint = "may this user write there? `--state DIR` names another place"
            raise DuctworkError(f"{self._path}: {error.strerror}", hint) from error


def _read_one(db: sqlite3.Connection, table: str, key: str) -> dict[str, dict[str, object]]:
    rows = db.execute("SELECT key, value FROM remembered WHERE kind = ? AND key = ?", (table, key))
    return {name: json.loads(value) for name, value in rows}


def _read_leases(db: sqlite3.Connection, site: str, network: str) -> dict[Holder, tuple[Lease, ...]]:
    query = "SELECT host, container, interface, address FROM lease WHERE site = ? AND network = ? ORDER BY place"
    found: dict[Holder, tuple[Lease, ...]] = {}
    for host, container, interface, address in db.execute(query, (site, network)):
        holder = (host, container, interface)
        found[holder] = (*found.get(holder, ()), _parsed(address))
    return found


def _connect(path: Path, *, create: bool) -> sqlite3.Connection:
    db = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={'rwc' if create else 'rw'}",
        uri=True,
        timeout=_BUSY_SECONDS,
        isolation_level=None,
        check_same_thread=False,  # the lock of the store sees to it
    )
    try:
        version = _version(db)
        if version > SCHEMA_VERSION:
            raise DuctworkError(
                f"{path} was written by a newer ductwork (schema {version}, this one knows {SCHEMA_VERSION})",
                "upgrade ductwork on this machine",
            )
        if create or version:
            _set_wal(db)
        db.execute("PRAGMA synchronous = NORMAL")
    except BaseException:
        db.close()
        raise
    return db


def _set_wal(db: sqlite3.Connection) -> None:
    """Two processes that change the mode of a new file at once are not made to wait for each other by SQLite."""
    give_up = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                raise
            time.sleep(0.01)


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


def _create_schema(db: sqlite3.Connection) -> None:
    for statement in _SCHEMA.split(";"):  # executescript would commit first
        db.execute(statement)
    db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _taken(db: sqlite3.Connection, site: str, network: str, address: Lease) -> AllocationError:
    query = "SELECT host, container, interface FROM lease WHERE site = ? AND network = ? AND address = ?"
    host, container, interface = db.execute(query, (site, network, str(address))).fetchone()
    where = f" on {host}" if host else ""
    return AllocationError(
        f"network {network}: {address} belongs to {container} {interface}{where}",
        "detach that one first, or choose another address",
    )
