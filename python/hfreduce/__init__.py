"""All-reduce on the CPU for data-parallel training, on numpy arrays, torch tensors and arrays in GPU memory.

    comm = hfreduce.init()              # the job that the launcher describes; a group of one without
    comm.all_reduce(x, op="avg")        # in place, by pointer, with the interpreter released
"""

from __future__ import annotations

from typing import Optional

from ._native import (
    Communicator,
    Error,
    InvalidArgument,
    Pending,
    Reducer,
    SharedMemory,
    UniqueId,
    __version__,
)

__all__ = [
    "Communicator",
    "Error",
    "InvalidArgument",
    "Pending",
    "Reducer",
    "SharedMemory",
    "UniqueId",
    "__version__",
    "init",
    "join",
]


def init(
    *, timeout: Optional[float] = None, connect_timeout: Optional[float] = None, gpu: Optional[bool] = None
) -> Communicator:
    """Joins the job that the environment describes: torchrun, MPI launchers, Slurm, `hfr run`, or the HFR_ variables.

    Returns when all ranks have come. `timeout` is for every operation, in seconds without progress (HFR_TIMEOUT, else 300);
    `connect_timeout` for all ranks to come (HFR_CONNECT_TIMEOUT, else 120). `gpu` says whether buffers will lie on GPUs, for which messages are
    cut into larger pieces; without it, that this process uses CUDA already. Each call makes a communicator of its own, which all ranks make.
    """
    return Communicator.from_env(timeout=timeout, connect_timeout=connect_timeout, gpu=gpu)


def join(
    id: bytes,
    rank: int,
    world: int,
    *,
    timeout: Optional[float] = None,
    connect_timeout: Optional[float] = None,
    gpu: Optional[bool] = None,
) -> Communicator:
    """Joins the group of `world` ranks that meets at a `UniqueId`, whose bytes the program has brought to every rank."""
    return Communicator.join(id, rank, world, timeout=timeout, connect_timeout=connect_timeout, gpu=gpu)
