"""What the tests on a GPU share: which device a rank has, and values on it.

Knows no test. Invariant: with more ranks than devices, ranks share them.
"""

from __future__ import annotations

import torch

from ranks import numbers


def device_of(rank: int) -> torch.device:
    """This rank's device, which becomes the current one."""
    device = torch.device("cuda", rank % torch.cuda.device_count())
    torch.cuda.set_device(device)
    return device


def on_gpu(rank: int, count: int, dtype: torch.dtype = torch.float32, top: int = 5) -> torch.Tensor:
    """`numbers` on the current device."""
    return numbers(rank, count, dtype, top).cuda()


def summed(world: int, count: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The sum of all ranks' numbers, added up by torch on the GPU."""
    return sum(on_gpu(r, count, dtype) for r in range(world))


def nap(seconds: float = 0.05) -> None:
    """Work on the current stream that takes about so long."""
    torch.cuda._sleep(int(seconds * 1.5e9))
