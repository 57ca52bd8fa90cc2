"""Torch tensors in the memory that the ranks of a node share.

Knows nothing of collectives: a tensor made here is recognised by its address alone. Invariant: the tensor's storage holds the memory.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Optional, Sequence, Union

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from .._native import Communicator


def empty(shape: Union[int, Sequence[int]], dtype: Optional[torch.dtype], group: Optional[Any]) -> torch.Tensor:
    """See `hfreduce.torch.empty`."""
    from ._collectives import Collectives

    if group is None:
        group = dist.distributed_c10d._get_default_group()
    backend = group._get_backend(torch.device("cpu"))
    if not isinstance(backend, Collectives):
        raise ValueError("hfreduce.torch.empty: this group's backend for CPU tensors is not hfr, so it has no shared memory to give")
    return allocate(backend.communicator, shape, dtype or torch.get_default_dtype())


def allocate(communicator: "Communicator", shape: Union[int, Sequence[int]], dtype: torch.dtype) -> torch.Tensor:
    dims = (shape,) if isinstance(shape, int) else tuple(shape)
    count = math.prod(dims)
    if count == 0:
        return torch.empty(dims, dtype=dtype)
    memory = communicator.alloc(count * dtype.itemsize)
    return torch.frombuffer(memory, dtype=dtype, count=count).view(dims)
