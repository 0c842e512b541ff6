"""What systemd is told: ready, alive, stopping (sd_notify(3)). Nothing where nobody listens."""

from __future__ import annotations

import os
import socket
from contextlib import suppress


class Notifier:
    """`address`: NOTIFY_SOCKET; `watchdog_seconds`: how often at least to say that we are alive, None for never."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        usec = os.environ.get("WATCHDOG_USEC", "")
        self.watchdog_seconds = int(usec) / 2_000_000 if usec.isdigit() and int(usec) else None

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nSTATUS={status}")

    def alive(self) -> None:
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        # Where it cannot be told now, it is the next time; nothing else hangs on it.
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as opened:
            opened.connect(address)
            opened.sendall(text.encode())
