"""Whose changes are worth a fight, and for how long.

Invariant: what others undo again and again is mended less and less often, but never given up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable

_TIMES = 5
_SECONDS = 30.0


class Patience:
    """Remembers what was mended when. Times are those of one clock, in seconds."""

    def __init__(self, longest_seconds: float) -> None:
        self._longest = longest_seconds
        self._mended: dict[Hashable, deque[float]] = {}
        self._pause = 0.0
        self.until = 0.0
        """No look before this, unless for a container that has started."""

    def mended(self, keys: Collection[Hashable], now: float) -> list[Hashable]:
        """Notes it. Gives what somebody else keeps changing: then events are not heeded for a while, each time longer."""
        fought = []
        for key in keys:
            times = self._mended.setdefault(key, deque(maxlen=_TIMES))
            times.append(now)
            if len(times) == _TIMES and now - times[0] < max(_SECONDS, _TIMES * self._pause * 2):
                fought.append(key)
        self._mended = {key: times for key, times in self._mended.items() if now - times[-1] < 2 * self._longest + _SECONDS}
        if fought:
            self._pause = min(max(1.0, 2 * self._pause), self._longest)
            self.until = now + self._pause
        elif now > self.until + self._longest:
            self._pause = 0.0
        return fought
