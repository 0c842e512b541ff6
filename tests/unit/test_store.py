"""The SQLite store: atomic, shared by processes, silent until it is written to, and clear when its file is unusable."""

from __future__ import annotations

import gc
import multiprocessing
import os
import sqlite3
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from ductwork.errors import AllocationError, BusyError, DuctworkError
from ductwork.store import Store
from ductwork.store import sqlite as module
from ductwork.store.sqlite import SqliteStore

V4, V6, OTHER = ip_address("10.1.1.2"), ip_address("fd00::2"), ip_address("10.1.1.3")
WEB, DB = ("alpha", "netns:web", "eth1"), ("alpha", "netns:db", "eth1")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "store.sqlite"


def test_is_a_store(path: Path) -> None:
    store: Store = SqliteStore(path)
    assert store.leases("s", "n") == {}


def test_reading_creates_nothing(path: Path) -> None:
    store = SqliteStore(path)
    assert store.leases("s", "pods") == {}
    assert store.remembered("attachments") == {}
    assert not path.parent.exists()


def test_the_directory_is_ours_alone(path: Path) -> None:
    SqliteStore(path).lease("s", "pods", WEB, (V4,))
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_leases_keep_their_order_and_outlive_the_process(path: Path) -> None:
    first = SqliteStore(path)
    first.lease("s", "pods", WEB, (V6, V4))
    first.lease("s", "pods", DB, (OTHER,))
    first.close()
    assert SqliteStore(path).leases("s", "pods") == {WEB: (V6, V4), DB: (OTHER,)}


def test_a_new_lease_gives_the_former_back(path: Path) -> None:
    store = SqliteStore(path)
    store.lease("s", "pods", WEB, (V4,))
    store.lease("s", "pods", WEB, (OTHER,))
    store.lease("s", "pods", DB, (V4,))
    assert store.leases("s", "pods") == {WEB: (OTHER,), DB: (V4,)}


def test_no_addresses_forget_the_holder(path: Path) -> None:
    store = SqliteStore(path)
    store.lease("s", "pods", WEB, (V4,))
    store.lease("s", "pods", WEB, ())
    assert store.leases("s", "pods") == {}


def test_an_address_has_one_holder_and_a_refusal_changes_nothing(path: Path) -> None:
    store = SqliteStore(path)
    store.lease("s", "pods", WEB, (V4,))
    store.lease("s", "pods", DB, (V6,))
    with pytest.raises(AllocationError, match=r"10\.1\.1\.2 belongs to netns:web eth1 on alpha"):
        store.lease("s", "pods", DB, (OTHER, V4))
    assert store.leases("s", "pods") == {WEB: (V4,), DB: (V6,)}


def test_sites_and_networks_are_apart(path: Path) -> None:
    store = SqliteStore(path)
    for site, network in (("s", "pods"), ("s", "lan"), ("t", "pods")):
        store.lease(site, network, WEB, (V4,))
    store.lease("s", "pods", WEB, ())
    assert store.leases("s", "lan") == store.leases("t", "pods") == {WEB: (V4,)}


def test_several_leases_are_one_transaction(path: Path) -> None:
    store = SqliteStore(path)
    store.lease("s", "pods", WEB, (V4,))
    store.lease_all("s", [("pods", WEB, ()), ("pods", DB, (V4,))])
    assert store.leases("s", "pods") == {DB: (V4,)}
    with pytest.raises(AllocationError):
        store.lease_all("s", [("pods", WEB, (OTHER,)), ("lan", WEB, (V4,)), ("lan", DB, (V4,))])
    assert store.leases("s", "pods") == {DB: (V4,)}
    assert store.leases("s", "lan") == {}


def test_objects_are_remembered_by_table(path: Path) -> None:
    store = SqliteStore(path)
    value: dict[str, object] = {"network": "pods", "ä": [1, None, True]}
    store.remember("attachments", "web", value)
    store.remember("attachments", "db", {})
    store.remember("other", "web", {"x": 1})
    store.remember("attachments", "db", None)
    assert SqliteStore(path).remembered("attachments") == {"web": value}


@pytest.mark.parametrize("whole", [False, True], ids=["alone", "once all is read"])
def test_what_is_remembered_under_one_key(path: Path, whole: bool) -> None:
    store = SqliteStore(path)
    assert store.remembered("t", "web") == {}
    for key in ("web", "app"):
        store.remember("t", key, {"x": 1})
    if whole:
        store.remembered("t")
    store.remember("t", "db", {"x": 2})
    store.remember("t", "web", {"x": 3})
    store.remember("t", "app", None)
    assert [store.remembered("t", key) for key in ("app", "db", "web")] == [{}, {"db": {"x": 2}}, {"web": {"x": 3}}]
    assert list(store.remembered("t")) == ["db", "web"]


def test_two_stores_see_each_other(path: Path) -> None:
    one, two = SqliteStore(path), SqliteStore(path)
    one.lease("s", "pods", WEB, (V4,))
    with pytest.raises(AllocationError):
        two.lease("s", "pods", DB, (V4,))
    two.remember("t", "k", {"a": 1})
    assert one.remembered("t") == {"k": {"a": 1}}


def take(path: Path, number: int, barrier: object) -> None:
    barrier.wait()  # type: ignore[attr-defined]
    store = SqliteStore(path)
    for i in range(20):
        holder = (f"h{number}", f"c{i}", "eth0")
        store.lease("s", "pods", holder, (ip_address(f"10.{number}.0.{i + 1}"),))


def test_processes_create_and_write_it_at_the_same_time(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(4)
    workers = [context.Process(target=take, args=(path, n, barrier)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
    assert [worker.exitcode for worker in workers] == [0] * 4
    assert len(SqliteStore(path).leases("s", "pods")) == 80


def test_a_lock_held_for_long_is_an_error_that_says_try_again(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BUSY_SECONDS", 0.05)
    store = SqliteStore(path)
    store.lease("s", "pods", WEB, (V4,))
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(BusyError) as caught:
        store.lease("s", "pods", DB, (OTHER,))
    assert caught.value.retry
    assert store.leases("s", "pods") == {WEB: (V4,)}  # reading does not wait
    holder.close()


def test_who_reads_does_not_hold_up_who_writes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BUSY_SECONDS", 0.05)
    store = SqliteStore(path)
    store.lease("s", "pods", WEB, (V4,))
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT * FROM lease").fetchall()
    store.lease("s", "pods", DB, (OTHER,))
    reader.close()


class Contended(sqlite3.Connection):
    """What a change of mode meets about once in a hundred, where several create the file at once."""

    refusals = 2

    def execute(self, *args: Any) -> sqlite3.Cursor:
        if "journal_mode" in args[0] and self.refusals:
            self.refusals -= 1
            error = sqlite3.OperationalError("database is locked")
            error.sqlite_errorcode = sqlite3.SQLITE_BUSY
            raise error
        return super().execute(*args)


def test_a_change_of_mode_that_sqlite_does_not_wait_for_is_tried_again(path: Path) -> None:
    path.parent.mkdir()
    db = sqlite3.connect(path, factory=Contended)
    module._set_wal(db)
    assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    db.close()


@pytest.mark.parametrize("content", [b"this is no database at all" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_file_is_named_with_the_next_step(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    calls: list[Callable[[SqliteStore], object]] = [lambda s: s.leases("s", "n"), lambda s: s.lease("s", "n", WEB, (V4,))]
    for call in calls:
        with pytest.raises(DuctworkError, match="damaged") as caught:
            call(SqliteStore(path))
        assert f"mv {path} {path}.damaged" in caught.value.hint
    assert path.read_bytes() == content


def test_a_value_that_was_scribbled_over_is_damage_too(path: Path) -> None:
    store = SqliteStore(path)
    store.lease("s", "pods", WEB, (V4,))
    with sqlite3.connect(path) as db:
        db.execute("UPDATE lease SET address = 'nonsense'")
    with pytest.raises(DuctworkError, match="damaged"):
        store.leases("s", "pods")


def test_a_newer_schema_is_refused(path: Path) -> None:
    SqliteStore(path).remember("t", "k", {})
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(DuctworkError, match="newer ductwork") as caught:
        SqliteStore(path).remembered("t")
    assert "upgrade" in caught.value.hint


def test_a_state_directory_that_is_lost_meanwhile_is_made_again(path: Path) -> None:
    store = SqliteStore(path)
    store.lease("s", "pods", WEB, (V4,))
    for file in path.parent.iterdir():
        file.unlink()
    path.parent.rmdir()
    assert store.leases("s", "pods") == {}
    store.lease("s", "pods", DB, (V4,))
    assert SqliteStore(path).leases("s", "pods") == {DB: (V4,)}


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DuctworkError, match="Not a directory") as caught:
        SqliteStore(tmp_path / "file" / "store.sqlite").lease("s", "n", WEB, (V4,))
    assert "--state" in caught.value.hint


def test_an_empty_file_left_by_a_crash_is_an_empty_store(path: Path) -> None:
    path.parent.mkdir()
    path.touch()
    store = SqliteStore(path)
    assert store.leases("s", "pods") == {}
    assert path.stat().st_size == 0
    store.lease("s", "pods", WEB, (V4,))
    assert store.leases("s", "pods") == {WEB: (V4,)}


def test_no_descriptor_is_left_open(path: Path) -> None:
    gc.collect()  # what other tests have dropped is not ours to count
    before = len(os.listdir("/proc/self/fd"))
    store = SqliteStore(path)
    store.remember("t", "k", {})
    store.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_what_another_process_writes_is_seen(path: Path) -> None:
    """A store keeps what it has read; it must not keep it longer than it is true."""
    ours, theirs = SqliteStore(path), SqliteStore(path)
    holder, other = ("", "web", "eth1"), ("", "db", "eth1")
    ours.lease("office", "pods", holder, (ip_address("10.1.1.2"),))
    ours.remember("t", "k", {"a": 1})
    assert theirs.leases("office", "pods") == ours.leases("office", "pods")
    theirs.lease("office", "pods", other, (ip_address("10.1.1.3"),))
    theirs.remember("t", "k", {"a": 2})
    assert ours.leases("office", "pods") == {holder: (ip_address("10.1.1.2"),), other: (ip_address("10.1.1.3"),)}
    assert ours.remembered("t") == theirs.remembered("t") == {"k": {"a": 2}}
    ours.lease("office", "pods", holder, ())
    ours.leases("office", "pods").clear()
    assert ours.leases("office", "pods") == theirs.leases("office", "pods") == {other: (ip_address("10.1.1.3"),)}
    ours.close()
    theirs.close()
