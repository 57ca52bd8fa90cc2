"""Training on GPUs: DDP with its hooks and FSDP2 have the gradients of one process with all data, and the host is free while they communicate."""

import time

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from place import device_of
from ranks import numbers, play

STEPS = 8


def model(seed: int, width: int = 256) -> torch.nn.Module:
    torch.manual_seed(seed)
    layers = [torch.nn.Linear(64, width), torch.nn.GELU(), torch.nn.Linear(width, width), torch.nn.GELU(), torch.nn.Linear(width, 8)]
    return torch.nn.Sequential(*layers).cuda()


def batch(rank: int, step: int) -> torch.Tensor:
    return numbers(rank + 3 * step, 64 * 32).view(32, 64).cuda() / 5


def losses_alone(world: int) -> list:
    """The loss curve of one process with all ranks' data."""
    alone, losses = model(3), []
    optimizer = torch.optim.SGD(alone.parameters(), lr=0.05)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = sum((alone(batch(r, step)) - 1).square().mean() for r in range(world)) / world
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def losses_of(trained: torch.nn.Module, rank: int, world: int) -> list:
    losses = []
    optimizer = torch.optim.SGD(trained.parameters(), lr=0.05)
    for step in range(STEPS):
        optimizer.zero_grad()
        loss = (trained(batch(rank, step)) - 1).square().mean()
        loss.backward()
        optimizer.step()
        shown = loss.detach() / world
        dist.all_reduce(shown)
        losses.append(shown.item())
    return losses


def close(got: list, wanted: list, rtol: float = 1e-4) -> None:
    torch.testing.assert_close(torch.tensor(got), torch.tensor(wanted), rtol=rtol, atol=1e-5)
    assert got[-1] < got[0]


def ddp(rank: int, world: int) -> None:
    device = device_of(rank)
    wanted = losses_alone(world)
    for settings in ({}, {"gradient_as_bucket_view": True, "bucket_cap_mb": 0.05}, {"static_graph": True}, {"device_ids": [device.index]}):
        # Different weights on each rank: DDP has to broadcast rank 0's.
        close(losses_of(DistributedDataParallel(model(3 + rank), **settings), rank, world), wanted)


def hooks(rank: int, world: int) -> None:
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

    device_of(rank)
    wanted = losses_alone(world)
    for hook in (default_hooks.allreduce_hook, default_hooks.bf16_compress_hook, default_hooks.fp16_compress_hook):
        trained = DistributedDataParallel(model(3), bucket_cap_mb=0.05)
        trained.register_comm_hook(None, hook)
        close(losses_of(trained, rank, world), wanted, 1e-4 if hook is default_hooks.allreduce_hook else 0.05)
    trained = DistributedDataParallel(model(3))
    state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=8, start_powerSGD_iter=2)
    trained.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    losses = losses_of(trained, rank, world)
    assert losses[-1] < losses[0]


def fsdp2(rank: int, world: int) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    device_of(rank)
    if torch.cuda.device_count() < world:
        # FSDP2 puts rank r on device r.
        return
    wanted, sharded = losses_alone(world), model(3)
    mesh = init_device_mesh("cuda", (world,))
    for layer in sharded:
        if isinstance(layer, torch.nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(sharded, mesh=mesh)
    close(losses_of(sharded, rank, world), wanted)


def free_host(rank: int, world: int) -> None:
    """DDP's backward returns while the other rank has not even begun: the stream waits, the host does not."""
    device_of(rank)
    trained = DistributedDataParallel(model(3, 2048), bucket_cap_mb=4)
    for _ in range(3):
        trained(batch(rank, 0)).square().mean().backward()
    torch.cuda.synchronize()
    dist.barrier()
    if rank == 1:
        time.sleep(2.0)
    began = time.monotonic()
    trained(batch(rank, 1)).square().mean().backward()
    took = time.monotonic() - began
    assert took < 1.5, f"backward held the host up for {took:.2f} s"
    assert rank == 1 or not torch.cuda.current_stream().query()
    torch.cuda.synchronize()


def test_ddp() -> None:
    play(2, ddp, seconds=180)


def test_ddp_with_four_ranks() -> None:
    play(4, ddp, seconds=240)


def test_hooks() -> None:
    play(2, hooks, seconds=180)


def test_fsdp2_alone() -> None:
    play(1, fsdp2, seconds=120)


def test_fsdp2() -> None:
    play(2, fsdp2, seconds=120)


def test_ddp_leaves_the_host_free() -> None:
    play(2, free_host, seconds=120)
