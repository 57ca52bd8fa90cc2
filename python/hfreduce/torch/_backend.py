"""The two shapes in which torch takes a backend written in Python, and the function that torch calls to get one.

Where `Backend` can be subclassed (torch 2.15), ours is registered with an ordinary ProcessGroup. Before, ours is the ProcessGroup itself,
and answers for it. Neither shape holds a collective.
"""

from __future__ import annotations

from typing import Any, List, Optional

import torch
from torch._C._distributed_c10d import Backend as TorchBackend
from torch.distributed import ProcessGroup

from ._collectives import Collectives
from ._meet import meet


def _subclassable() -> bool:
    """Whether Python may derive from torch's Backend. Older versions have the class, but nothing to construct it with."""
    try:
        type("Probe", (TorchBackend,), {})(0, 1)
    except TypeError:
        return False
    return True


class HfrBackend(Collectives, TorchBackend):
    """Shape B: one backend of an ordinary ProcessGroup, so it goes together with others ("cpu:hfr,cuda:nccl")."""

    # Callers get a Work of torch's own, which asks ours.
    wrapped = True

    def __init__(self, options: Any) -> None:
        TorchBackend.__init__(self, options.group_rank, options.group_size)
        self._begin(meet(options), options)
        self._options = TorchBackend.Options("hfr", options.timeout)

    @property
    def options(self) -> TorchBackend.Options:
        """Torch reads it before it says that a group cannot be split; as with the answers in `Lifecycle`, there is no default."""
        return self._options


class HfrProcessGroup(Collectives, ProcessGroup):
    """Shape A: the ProcessGroup itself. What an ordinary one asks its backends for, it is asked for."""

    wrapped = False

    def __init__(self, options: Any) -> None:
        ProcessGroup.__init__(self, options.group_rank, options.group_size)
        self._name: str = options.group_id
        self._begin(meet(options), options)

    @property
    def group_name(self) -> str:
        return self._name

    def getGroupName(self) -> str:
        return self._name

    @property
    def _device_types(self) -> List[torch.device]:
        return [torch.device("cpu"), torch.device("cuda")]

    def _get_backend(self, device: torch.device) -> "HfrProcessGroup":
        if torch.device(device).type not in ("cpu", "cuda"):
            raise RuntimeError(f"no backend for {device}: a group of backend hfr has CPU and CUDA tensors")
        return self


def create(options: Any, backend_options: Optional[object]) -> Any:
    """Called by torch on every member of a new group."""
    if backend_options is not None:
        raise ValueError("backend hfr takes no pg_options; its settings are environment variables that begin with HFR_")
    return (HfrBackend if _SUBCLASSABLE else HfrProcessGroup)(options)


_SUBCLASSABLE = _subclassable()
