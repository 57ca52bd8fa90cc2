"""The backend "hfr" of torch.distributed, for tensors in CPU and CUDA memory.

PyTorch finds it by the package's entry points; nobody has to import this module. Loading it imports neither torch nor the backend: a
process that never asks for "hfr" pays nothing for it. `empty` gives tensors in memory that all ranks of a node share.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Optional, Sequence, Union

if TYPE_CHECKING:
    import torch
    from torch.distributed import ProcessGroup

__all__ = ["empty", "register"]

NAME = "hfr"


def register() -> None:
    """Makes "hfr" known to torch.distributed. Harmless when it is known already."""
    import torch.distributed as dist

    if not dist.is_available():
        raise RuntimeError("this build of torch comes without torch.distributed, which the backend hfr is for")
    if NAME.upper() not in dist.Backend._plugins:
        dist.Backend.register_backend(NAME, _create, extended_api=True, devices=["cpu", "cuda"])


def _autoload() -> None:
    """What torch calls at the end of its own import. A torch that looks backends up when they are asked for is left alone."""
    dist = sys.modules.get("torch.distributed")
    if dist is None or not dist.is_available():
        return
    if not hasattr(dist.Backend, "_ensure_backend_registered"):
        register()


def _create(options: Any, backend_options: Optional[object] = None) -> Any:
    from ._backend import create

    return create(options, backend_options)


def empty(
    shape: Union[int, Sequence[int]], dtype: Optional["torch.dtype"] = None, group: Optional["ProcessGroup"] = None
) -> "torch.Tensor":
    """An uninitialised tensor in the memory that the ranks of a node share.

    Collectives of `group` (the default group where none is given) read and write it in place, without a copy in or out. It is a tensor
    like any other, and its memory lives as long as it does.
    """
    from ._memory import empty as make

    return make(shape, dtype, group)
