"""The Work of calls on tensors in CUDA memory: whoever waits is the current stream, and never the host.

Knows the library's pending calls and `_cuda`. Errors that are known when somebody waits are raised there; a later one is raised by the next
call of the group, and the library releases the streams in any case. Invariant: after `wait`, work that the then-current stream is given
comes behind the result.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Optional

import torch
from torch.futures import Future

from . import _cuda
from ._itself import Message
from ._ops import seconds
from ._work import Work


class StreamWork(Work):
    """Operations of which at least one is on a stream of `device`."""

    def __init__(self, device: torch.device, *about: Any) -> None:
        super().__init__(*about)
        self._device = device
        limit = self.limit or self._group.limit
        if limit is not None:
            group, operation = self._group, self._operation
            group.watch.add(limit, self._pending, lambda: group.give_up(operation, limit) and None)

    def wait(self, timeout: Optional[timedelta] = None) -> bool:
        # As with NCCL: who names a time wants the host to wait so long.
        if seconds(timeout) is not None:
            return super().wait(timeout)
        self._block(_cuda.current(self._device))
        return True

    def block_current_stream(self) -> None:
        self._block(_cuda.current(self._device))

    def _block(self, stream: int) -> None:
        limit = self.limit or self._group.limit
        for pending in self._pending:
            if pending.on_stream:
                pending.block(stream)
            elif not pending.wait(limit):
                self._group.expire(self._operation, limit, pending)

    def get_future(self) -> Future:
        if self._group.wrapped and _cuda.asked_to_block():
            self.block_current_stream()
        if self._future is None:
            # A message to itself without its other end has nothing yet that a stream could wait for.
            ready = all(pending.on_stream and (pending.done() or not isinstance(pending, Message)) for pending in self._pending)
            if not ready or not self._tensors or self.exception() is not None:
                # Complete when the host knows the end.
                return super().get_future()
            self._future = _cuda.future(self._device, self._group.side(self._device), self._block, self._tensors)
        return self._future
