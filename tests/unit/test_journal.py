"""What the journal leads back to: one change, whatever it is made of, and whoever died in between."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from ductwork.journal import Awaiting, Journal
from ductwork.resources import HOST, Key, Resource, Sysctl

AWAITING = Awaiting("token", "apply office", "root", 5, 1e9, 1, 1)


def was(path: str, value: str) -> Mapping[Key, Resource | None]:
    resource = Sysctl(HOST, path, value)
    return {resource.key: resource}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path


def done(journal: Journal, title: str, before: Mapping[Key, Resource | None]) -> None:
    journal.complete(journal.begin(title, before))


def leads_to(directory: Path) -> dict[str, str] | None:
    """path → value of what undo leads back to, as another process reads it."""
    last = Journal(1, directory).last_change()
    return None if last is None else {r.path: r.value for r in last.before.values() if isinstance(r, Sysctl)}


def test_each_change_is_one(directory: Path) -> None:
    journal = Journal(1, directory)
    assert leads_to(directory) is None
    done(journal, "first", was("a", "1"))
    assert leads_to(directory) == {"a": "1"}
    done(journal, "second", was("b", "2"))
    assert leads_to(directory) == {"b": "2"}
    journal.forget_changes()
    assert leads_to(directory) is None


def test_changes_together_are_one(directory: Path) -> None:
    """The oldest tells what was there before."""
    journal = Journal(1, directory)
    done(journal, "before", was("z", "0"))
    with journal.together():
        done(journal, "first", was("a", "1"))
        done(journal, "second", {**was("a", "2"), **was("b", "2")})
        assert leads_to(directory) == {"a": "1", "b": "2"}
        journal.begin("third", was("c", "3"))
        assert leads_to(directory) == {"a": "1", "b": "2", "c": "3"}
        journal.forget_change_under_way()
    last = journal.last_change()
    assert last
    assert last.title == "first"
    assert leads_to(directory) == {"a": "1", "b": "2"}
    done(journal, "after", was("y", "9"))
    assert leads_to(directory) == {"y": "9"}
    with journal.together():
        done(journal, "anew", was("x", "8"))
    assert leads_to(directory) == {"x": "8"}


def test_rounds_of_one_change(directory: Path) -> None:
    """The second round's own note of the first is nobody's who died."""
    journal = Journal(1, directory)
    journal.begin("change", was("a", "1"))
    journal.begin("change", {**was("a", "1"), **was("b", "2")}, again=True)
    journal.forget_change_under_way()
    assert leads_to(directory) is None


def test_what_a_dead_process_began_is_not_forgotten(directory: Path) -> None:
    Journal(1, directory).begin("dead", was("a", "1"))
    journal = Journal(1, directory)
    journal.begin("next", was("b", "2"))
    assert leads_to(directory) == {"a": "1", "b": "2"}
    journal.forget_change_under_way()
    assert leads_to(directory) == {"a": "1"}
    done(journal, "next", was("b", "2"))
    assert leads_to(directory) == {"a": "1", "b": "2"}


def test_what_awaits_confirmation_is_apart(directory: Path) -> None:
    journal = Journal(1, directory)
    done(journal, "before", was("z", "0"))
    journal.await_confirmation(AWAITING)
    assert Journal(1, directory).awaiting() == AWAITING
    assert leads_to(directory) is None
    done(journal, "apply office", was("a", "1"))
    done(Journal(1, directory), "attach, by somebody else", was("b", "2"))
    assert leads_to(directory) == {"a": "1", "b": "2"}
    journal.await_confirmation(None)
    assert leads_to(directory) == {"a": "1", "b": "2"}
    assert journal.awaiting() is None


def test_what_awaits_confirmation_goes_with_the_changes(directory: Path) -> None:
    journal = Journal(1, directory)
    journal.await_confirmation(AWAITING)
    done(journal, "apply office", was("a", "1"))
    journal.forget_changes()
    assert journal.awaiting() is None
    assert leads_to(directory) is None


def test_another_versions_files_are_passed_over(directory: Path) -> None:
    journal = Journal(1, directory)
    journal.await_confirmation(AWAITING)
    journal.begin("change", was("a", "1"))
    (directory / "1" / "confirm.json").write_text('{"something": "else"}')
    (directory / "1" / "under-way.json").write_text('{"something": "else"}')
    assert journal.awaiting() is None
    assert journal.last_change() is None


def test_the_lock_is_its_holders(directory: Path) -> None:
    journal = Journal(1, directory)
    with journal.lock(), journal.together(), journal.lock():
        done(journal, "change", was("a", "1"))
    with Journal(1, directory).lock():
        assert leads_to(directory) == {"a": "1"}
