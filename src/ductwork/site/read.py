"""A site file's text, before anything is made of it.

Invariant: whatever the path leads to, it is a text or a `SiteError`. Nothing heavy is imported: whoever sends the text to the
agent needs no more.
"""

from __future__ import annotations

from pathlib import Path

from ductwork.errors import Problem, SiteError

LONGEST_FILE = 64 * 2**20
"""Bytes. 100,000 attachments are 12 MB; more than this is not a site file but, say, /dev/zero."""


def read_text(path: Path) -> str:
    """Errors: `SiteError`."""
    file_name = str(path)
    try:
        with path.open("rb") as file:
            raw = file.read(LONGEST_FILE + 1)
    except FileNotFoundError:
        raise whole(file_name, "there is no such file", "check the path, or write the file first") from None
    except IsADirectoryError:
        raise whole(file_name, "this is a directory", f"name the file in it, such as `{path / 'site.yaml'}`") from None
    except PermissionError:
        raise whole(file_name, "no permission to read this file", "run as root, or change the file's mode") from None
    except (OSError, ValueError) as error:
        raise whole(file_name, f"cannot be read: {error}", "check the path") from None
    if len(raw) > LONGEST_FILE:
        raise whole(file_name, "longer than 64 MiB", "name a site file; it is YAML, and much shorter")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode()
        where = {"line": before.count("\n") + 1, "column": len(before) - before.rfind("\n")}
        message = f"not UTF-8 text: byte 0x{raw[error.start]:02x}"
        raise whole(file_name, message, "save the file as UTF-8", **where) from None
    return text


def whole(file_name: str, message: str, hint: str, line: int = 0, column: int = 0) -> SiteError:
    """One mistake, that of the file as a whole."""
    return SiteError(file_name, [Problem((), message, hint, line=line, column=column)])
