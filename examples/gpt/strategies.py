"""The ways to share the work of a step: DDP (also with bf16 gradients on the wire), FSDP2, ZeRO, and none at all.

Each makes a `Replica` over a process group that it is handed, so that several can live in one process over different backends.
It knows neither which backend that is nor where batches come from. All ranks make the same calls in the same order.
"""

from __future__ import annotations

import dataclasses
import hashlib

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from model import Gpt, Sizes

STRATEGIES = ("ddp", "ddp-bf16", "fsdp2", "zero")


@dataclasses.dataclass
class Replica:
    """A model with its optimiser, ready to be stepped by all ranks of its group together."""

    module: nn.Module
    optimizer: torch.optim.Optimizer

    def step(self, batch: torch.Tensor, rate: float) -> tuple[torch.Tensor, torch.Tensor]:
        """One step over this rank's batch. Returns its loss, and the norm that the reduced gradient had before it was clipped."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad()
        loss = self.module(batch)
        loss.backward()
        norm = whole(nn.utils.clip_grad_norm_(self.module.parameters(), 1.0))
        self.optimizer.step()
        return loss.detach(), norm.detach()

    @torch.no_grad()
    def look(self, batch: torch.Tensor) -> torch.Tensor:
        """The loss over a batch that is not learnt."""
        return self.module(batch)

    @torch.no_grad()
    def digest(self) -> str:
        """A hash of all weights: equal on two ranks only if every bit is."""
        digest = hashlib.sha256()
        for weight in self.module.parameters():
            digest.update(whole(weight).contiguous().numpy().data)
        return digest.hexdigest()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor of which FSDP2 has left this rank a part."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def count(sizes: Sizes) -> int:
    """How many weights a model of these sizes has."""
    with torch.device("meta"):
        return sum(weight.numel() for weight in Gpt(sizes, 0).parameters())


def build(strategy: str, sizes: Sizes, seed: int, group: dist.ProcessGroup) -> Replica:
    """A replica that shares its steps over the group."""
    model = Gpt(sizes, seed)
    if strategy == "fsdp2":
        mesh = DeviceMesh.from_group(group, "cpu")
        for block in model.blocks:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        return Replica(model, adam(model))
    module = DistributedDataParallel(model, process_group=group)
    if strategy == "ddp-bf16":
        module.register_comm_hook(group, bf16_compress_hook)
    if strategy == "zero":
        optimizer = ZeroRedundancyOptimizer(module.parameters(), torch.optim.AdamW, process_group=group, **SETTINGS)
        return Replica(module, optimizer)
    return Replica(module, adam(module))


def alone(sizes: Sizes, seed: int) -> Replica:
    """A replica that exchanges nothing: what a step costs without communication."""
    model = Gpt(sizes, seed)
    return Replica(model, adam(model))


# The rate is set at every step.
SETTINGS = {"lr": 0.0, "betas": (0.9, 0.95), "weight_decay": 0.1, "fused": True}


def adam(module: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(module.parameters(), **SETTINGS)  # type: ignore[arg-type]
