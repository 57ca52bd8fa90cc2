"""Limits of calls that nobody on the host waits for: one thread, which sleeps until the next limit is over.

Knows no collective. Invariants: the thread is there only while calls are watched, and holds no call that has ended for longer than its limit.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from typing import TYPE_CHECKING, Callable, List, Sequence, Tuple

if TYPE_CHECKING:
    from .._native import Pending

_Entry = Tuple[float, int, Sequence["Pending"], Callable[[], None]]


class Watch:
    """Calls with a limit, those that end first in front."""

    def __init__(self) -> None:
        self._bell = threading.Condition()
        self._entries: List[_Entry] = []
        self._numbers = itertools.count()
        self._running = False

    def add(self, limit: float, pending: Sequence["Pending"], late: Callable[[], None]) -> None:
        """Calls `late` when one of the calls has not ended after `limit` seconds."""
        with self._bell:
            heapq.heappush(self._entries, (time.monotonic() + limit, next(self._numbers), pending, late))
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="hfr-watch", daemon=True).start()
            self._bell.notify()

    def _run(self) -> None:
        while True:
            with self._bell:
                # What has ended need not be waited for.
                while self._entries and all(call.done() for call in self._entries[0][2]):
                    heapq.heappop(self._entries)
                if not self._entries:
                    self._running = False
                    return
                left = self._entries[0][0] - time.monotonic()
                if left > 0:
                    self._bell.wait(left)
                    continue
                late = heapq.heappop(self._entries)[3]
            late()
