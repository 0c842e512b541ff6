"""Kernel parameters below /proc/sys, and what is like them: one value, somebody else's, that is put back."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import ClassVar

from ductwork.resources.base import Argv, Key, Owner, Place, Resource


def promisc_path(link: str) -> str:
    return f"link/{link}/promisc"


def checksum_path(link: str) -> str:
    return f"link/{link}/tx"


def gro_path(link: str) -> str:
    return f"link/{link}/gro"


def link_setting(path: str) -> tuple[str, str]:
    """(link, setting) of a path that is none below /proc/sys, else ("", "")."""
    _, link, setting = path.split("/") if path.startswith("link/") else ("", "", "")
    return link, setting


@dataclass(frozen=True, slots=True)
class Sysctl:
    """`path` below /proc/sys (`net/ipv4/conf/eth0/forwarding`), or what is no file: `link/eth0/promisc`, the flag of a link
    that makes it take frames for any MAC; `link/eth0/tx`, whether checksums of what is sent are left to it; `link/eth0/gro`,
    whether it puts segments together; all 0 or 1. `value` without the newline.

    `link`: the link of ours that it goes away with, or empty: then the former value is journalled before it is changed,
    and put back when nobody needs ours any more. It cannot be created or deleted, only updated.
    """

    netns: str
    path: str
    value: str
    link: str = field(default="", compare=False)
    owner: Owner | None = field(default=None, compare=False)

    replace: ClassVar[frozenset[str]] = frozenset()
    collected: ClassVar[bool] = False

    @property
    def key(self) -> Key:
        return Key("sysctl", self.netns, (self.path,))

    def requires(self) -> tuple[Key, ...]:
        return (Key("link", self.netns, (self.link,)),) if self.link else ()

    def create_argv(self, place: Place) -> list[Argv]:
        link, setting = link_setting(self.path)
        on = "on" if self.value == "1" else "off"
        if setting == "promisc":
            return [["ip", "link", "set", "dev", link, "promisc", on]]
        if setting:
            return [["ethtool", "-K", link, setting, on]]
        if "=" in self.path:  # a link may be called so; sysctl(8) takes the first for the end of the path
            return [["sh", "-c", f"echo {self.value} > {shlex.quote('/proc/sys/' + self.path)}"]]
        return [["sysctl", "-q", "-w", f"{self.path}={self.value}"]]

    def delete_argv(self, place: Place) -> list[Argv]:
        return []

    def update_argv(self, before: Resource, place: Place) -> list[Argv]:
        return self.create_argv(place)
