"""How long a group lives, how it fails, and what it tells about itself: all of a backend that is not a collective.

Knows the communicator and torch's store. Invariant: an operation that outlives the limit its caller set ends the group on every rank,
since nobody could tell which ranks have its result.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Dict, List, NoReturn, Optional

import torch
from torch._C._distributed_c10d import ErrorType

from .._native import Communicator, Pending
from . import _cuda
from ._itself import Itself
from ._memory import allocate
from ._monitored import monitored_barrier
from ._ops import seconds
from ._watch import Watch

# How long to wait for an abort of our own to reach the operation that it ends.
_ABORT_SECONDS = 30.0


class Lifecycle:
    """State of a group: `limit` are the seconds that set_timeout has asked for, None for those that the communicator was made with."""

    def _begin(self, communicator: Communicator, options: Any) -> None:
        self.communicator = communicator
        self.limit: Optional[float] = None
        self._store = options.store
        self._timeout: timedelta = options.timeout
        self._monitored = 0
        self._batch: Optional[List[Pending]] = None
        self._batch_device: Optional[torch.device] = None
        self._sides: Dict[torch.device, Any] = {}
        self.watch = Watch()
        self._itself = Itself(communicator.rank)

    # Torch asks a backend (or the group in its place) for all of these; one that is not answered here sends its C++ in circles.
    supports_coalescing = False
    supports_splitting = False
    supports_shrinking = False
    supports_reconfigure = False
    supports_window = False
    _supports_time_estimate = False
    supports_time_estimate = False

    def getBackendName(self) -> str:
        return "hfr"

    def give_up(self, operation: str, limit: Optional[float]) -> str:
        """Ends the group because an operation has not ended within `limit` seconds; returns why."""
        rank = self.communicator.rank
        why = f"rank {rank}: {operation} did not end within the {limit:g} s that its caller allows; did every rank of the group call it?"
        self.communicator.abort(why)
        return why

    def expire(self, operation: str, limit: Optional[float], pending: Pending) -> NoReturn:
        """Does so where somebody waits for `pending`."""
        why = self.give_up(operation, limit)
        pending.wait(_ABORT_SECONDS)
        raise RuntimeError(why)

    def side(self, device: torch.device) -> Any:
        """A stream of the group's own, on which its futures are complete when their calls have ended."""
        if device not in self._sides:
            self._sides[device] = _cuda.side(device)
        return self._sides[device]

    def monitored_barrier(self, options: Any = None, wait_all_ranks: bool = False) -> None:
        given = options if options is None or isinstance(options, timedelta) else options.timeout
        limit = seconds(given) or self._timeout.total_seconds()
        self._monitored += 1
        monitored_barrier(self._store, self._monitored, self.communicator.rank, self.communicator.size, limit, wait_all_ranks)

    def set_timeout(self, timeout: timedelta) -> None:
        self.limit = seconds(timeout)

    _set_default_timeout = set_timeout

    def abort(self) -> None:
        self._itself.close()
        self.communicator.abort(f"rank {self.communicator.rank} aborted the process group")

    def shutdown(self) -> None:
        self._itself.close()
        self.communicator.close()

    def get_error(self) -> ErrorType:
        failure = self.communicator.failure()
        if failure is None:
            return ErrorType.SUCCESS
        return ErrorType.TIMEOUT if failure.kind == "timeout" else ErrorType.COMM_ERROR

    def supports_tensor_alloc(self, device: Any) -> bool:
        # Torch's C++ asks with a number: it could not pass a tensor's options on to Python, so only Python callers (FSDP2) are told yes.
        return isinstance(device, torch.device) and device.type == "cpu"

    def allocate_tensor(self, size: int, *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        return allocate(self.communicator, size, dtype)
