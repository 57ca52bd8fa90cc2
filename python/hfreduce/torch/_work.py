"""What an asynchronous call gives back: torch's Work over one or several operations of the library.

Python is only asked when somebody waits or wants a future. A future is never failed with `set_exception` (torch's reducer crashes on
it): an error is raised inside a `then` callback, which every caller of torch understands. Invariant: the library keeps the buffers until
an operation has ended, so a Work may be dropped at any time.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, List, Optional, Sequence, Union

import torch
from torch._C._distributed_c10d import Work as TorchWork
from torch.futures import Future

from .._native import when_ended
from ._itself import Message
from ._ops import seconds

if TYPE_CHECKING:
    from .._native import Error, Pending
    from ._collectives import Collectives


class Work(TorchWork):
    """Operations of one group that were started together; complete when all of them are."""

    def __init__(
        self,
        group: "Collectives",
        operation: str,
        pending: Sequence[Union["Pending", Message]],
        tensors: List[torch.Tensor],
        source: int = -1,
        limit: Optional[float] = None,
    ) -> None:
        super().__init__()
        self._group = group
        self._operation = operation
        self._pending = pending
        self._tensors = tensors
        self._source = source
        # Seconds that the call's own options allow, if they do.
        self.limit = limit
        self._future: Optional[Future] = None

    def wait(self, timeout: Optional[timedelta] = None) -> bool:
        limit = seconds(timeout) or self.limit or self._group.limit
        for pending in self._pending:
            if not pending.wait(limit):
                self._group.expire(self._operation, limit, pending)
        return True

    def synchronize(self) -> None:
        self.wait()

    def is_completed(self) -> bool:
        return all(pending.done() for pending in self._pending)

    def is_success(self) -> bool:
        return self.is_completed() and self.exception() is None

    def exception(self) -> Optional["Error"]:
        for pending in self._pending:
            error = pending.error() if pending.done() else None
            if error is not None:
                return error
        return None

    def result(self) -> List[torch.Tensor]:
        return self._tensors

    def source_rank(self) -> int:
        return self._source

    _source_rank = source_rank

    def get_future(self) -> Future:
        if self._future is None:
            ended: Future = Future()
            self._future = ended.then(self._outcome)
            messages = [pending for pending in self._pending if isinstance(pending, Message)]
            _after(messages, [pending for pending in self._pending if not isinstance(pending, Message)], ended)
        return self._future

    def _outcome(self, _ended: Future) -> List[torch.Tensor]:
        error = self.exception()
        if error is not None:
            raise error
        return self._tensors


def _after(messages: List[Message], pending: List["Pending"], ended: Future) -> None:
    """Completes `ended` when all of them have ended, well or not."""
    if messages:
        messages[0].then(lambda: _after(messages[1:], pending, ended))
    else:
        when_ended(pending, ended.set_result)
