"""What the backend asks of torch.cuda: streams, events and futures that are ordered on them. Nothing else here touches CUDA.

Knows no group and no collective. Invariant: torch.cuda is used only for tensors that lie there, so a process without a GPU, or without CUDA
in its torch, never gets here beyond `device_of`. Tests put another one in this module's place.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any, Callable, Iterator, List, Optional

import torch
from torch.futures import Future


def device_of(*sides: Any) -> Optional[torch.device]:
    """The CUDA device that a call's buffers are on, by the first tensor in them; None for the CPU."""
    for side in sides:
        first = side[0] if isinstance(side, (list, tuple)) and side else side
        if isinstance(first, torch.Tensor):
            return first.device if first.is_cuda else None
    return None


def current(device: torch.device) -> int:
    """The handle of the current stream of a device."""
    return torch.cuda.current_stream(device).cuda_stream


@contextlib.contextmanager
def here(device: torch.device) -> Iterator[None]:
    """The device is this thread's current one, for the driver too: asking for a stream does not make it so."""
    with torch.cuda.device(device):
        torch.empty(1, device=device)
        yield


def future(device: torch.device, side: Any, block: Callable[[int], None], value: List[torch.Tensor]) -> Future:
    """A future that is complete for the host, and for a stream when `block` lets the stream `side` go on: waiting for it never blocks the host."""
    made: Future = Future(devices=[device])
    with torch.cuda.stream(side):
        block(side.cuda_stream)
        made.set_result(value)
    return made


def side(device: torch.device) -> Any:
    """A stream beside the caller's."""
    return torch.cuda.Stream(device)


def moment(device: torch.device) -> Any:
    """The end of what the current stream has been given."""
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(device))
    return event


def follow(device: torch.device, event: Any) -> None:
    """Has the current stream go on only after a moment."""
    torch.cuda.current_stream(device).wait_event(event)


def asked_to_block() -> bool:
    """Whether a `get_future` that runs now was called by torch's own `block_current_stream`.

    Torch 2.15 wraps the Work of a Python backend in one of its own, whose `block_current_stream` asks ours for a future and holds the stream up until
    that is complete for the host. Ours is complete at once, so the stream has to be blocked when it is asked for. Torch does not say
    why it asks; its C++ (DDP) comes from a thread without Python, and who calls `get_future` in Python names it. In doubt: yes, which is
    always right, and at worst loses overlap.
    """
    try:
        caller = sys._getframe(2)
    except ValueError:
        return False
    names = caller.f_code.co_names
    return "block_current_stream" in names or "get_future" not in names
