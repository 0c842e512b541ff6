"""Containers of one host on a Linux bridge of ours."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Options:
    bridge: str | None = field(default=None, metadata={"help": "name of the bridge", "pattern": r"^[^\s/:]{1,15}$"})
