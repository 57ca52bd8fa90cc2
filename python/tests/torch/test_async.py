"""Asynchronous calls: what a Work answers, futures, order, buffers that nobody else holds, and C++ callers (DDP, FSDP2)."""

import gc
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from ranks import BACKEND, numbers, play, same

NEW_SHAPE = hasattr(dist.Backend, "_ensure_backend_registered")


def works(rank: int, world: int) -> None:
    tensors = [numbers(rank, count) for count in (1, 1000, 300_000)]
    started = [dist.all_reduce(tensor, async_op=True) for tensor in tensors]
    for work in reversed(started):
        assert work.wait() is True
        assert work.wait(timedelta(seconds=20)) is True
    for tensor in tensors:
        same(tensor, sum(numbers(r, tensor.numel()) for r in range(world)))
    work = dist.broadcast(tensors[0], 0, async_op=True)
    result = work.get_future().wait()
    assert len(result) == 1 and result[0] is tensors[0] or torch.equal(result[0], tensors[0])
    same(tensors[0], sum(numbers(r, 1) for r in range(world)))
    out = torch.empty(world * 5)
    dist.all_gather_into_tensor(out, numbers(rank, 5), async_op=True).wait(timedelta(0))
    same(out, torch.cat([numbers(r, 5) for r in range(world)]))
    dist.barrier(async_op=True).wait()


def polled(rank: int, world: int) -> None:
    tensor = numbers(rank, 100)
    work = dist.all_reduce(tensor, async_op=True)
    until = time.monotonic() + 20
    # Where torch puts its own object around ours (shape B), that one never says so, but its future does.
    completed = work.get_future().done if NEW_SHAPE and BACKEND == "hfr" else work.is_completed
    while not completed() and time.monotonic() < until:
        time.sleep(0.001)
    assert completed()
    same(tensor, sum(numbers(r, 100) for r in range(world)))
    if BACKEND == "hfr" and not NEW_SHAPE:
        assert work.is_success() and work.exception() is None and work.result()[0] is tensor


def dropped(rank: int, world: int) -> None:
    """Buffers live until the operation has ended, whoever drops them and their Work before."""
    futures = []
    for round in range(20):
        tensor = numbers(rank, 50_000)
        futures.append(dist.all_reduce(tensor, async_op=True).get_future().then(lambda future: future.value()[0].sum().item()))
        dist.all_reduce(numbers(rank, 20_000), async_op=True)
        del tensor
        if round % 5 == 0:
            gc.collect()
    wanted = sum(numbers(r, 50_000) for r in range(world)).sum().item()
    assert torch.futures.wait_all(futures) == [wanted] * 20
    dist.barrier()


def mixed_order(rank: int, world: int) -> None:
    """A call that is waited for goes behind those that were started before it."""
    big = numbers(rank, 2_000_000)
    work = dist.all_reduce(big, async_op=True)
    small = numbers(rank, 3)
    dist.all_reduce(small)
    same(small, sum(numbers(r, 3) for r in range(world)))
    work.wait()
    same(big, sum(numbers(r, 2_000_000) for r in range(world)))


def model(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(30, 50), torch.nn.Tanh(), torch.nn.Linear(50, 7))


def batch(rank: int) -> torch.Tensor:
    return numbers(rank, 120).view(4, 30) / 5


def gradients_alone(world: int) -> list:
    alone = model(3)
    sum(alone(batch(r)).square().mean() for r in range(world)).div(world).backward()
    return [parameter.grad for parameter in alone.parameters()]


def ddp(rank: int, world: int) -> None:
    for settings in ({}, {"gradient_as_bucket_view": True, "bucket_cap_mb": 0.001}, {"static_graph": True}):
        # Different weights on each rank: DDP has to broadcast rank 0's.
        trained = DistributedDataParallel(model(3 + rank), **settings)
        for _ in range(3):
            trained.zero_grad()
            trained(batch(rank)).square().mean().backward()
        for parameter, wanted in zip(trained.parameters(), gradients_alone(world)):
            torch.testing.assert_close(parameter.grad, wanted)


def ddp_hooks(rank: int, world: int) -> None:
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook

    rough = DistributedDataParallel(model(3))
    rough.register_comm_hook(None, default_hooks.bf16_compress_hook)
    rough(batch(rank)).square().mean().backward()
    for parameter, wanted in zip(rough.parameters(), gradients_alone(world)):
        torch.testing.assert_close(parameter.grad, wanted, rtol=0.05, atol=0.02)
    compressed = DistributedDataParallel(model(3))
    state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=1, start_powerSGD_iter=2)
    compressed.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    for _ in range(4):
        compressed.zero_grad()
        compressed(batch(rank)).square().mean().backward()
    own = torch.cat([parameter.grad.flatten() for parameter in compressed.parameters()])
    everyone = [torch.empty_like(own) for _ in range(world)]
    dist.all_gather(everyone, own)
    assert all(torch.equal(one, own) for one in everyone) and own.abs().sum() > 0


def fsdp2(rank: int, world: int, from_group: bool) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    sharded = model(3)
    for layer in sharded:
        if isinstance(layer, torch.nn.Linear):
            fully_shard(layer, mesh=init_device_mesh("cpu", (world,)))
    fully_shard(sharded, mesh=init_device_mesh("cpu", (world,)))
    if from_group:
        sharded.set_allocate_memory_from_process_group_for_comm(True)
    for _ in range(2):
        sharded.zero_grad()
        sharded(batch(rank)).square().mean().backward()
    for parameter, wanted in zip(sharded.parameters(), gradients_alone(world)):
        torch.testing.assert_close(parameter.grad.full_tensor(), wanted)


def zero(rank: int, world: int) -> None:
    from torch.distributed.optim import ZeroRedundancyOptimizer

    trained = DistributedDataParallel(model(3))
    optimizer = ZeroRedundancyOptimizer(trained.parameters(), torch.optim.SGD, lr=0.1)
    alone = model(3)
    for _ in range(3):
        optimizer.zero_grad()
        trained(batch(rank)).square().mean().backward()
        optimizer.step()
        alone.zero_grad()
        sum(alone(batch(r)).square().mean() for r in range(world)).div(world).backward()
        with torch.no_grad():
            for parameter in alone.parameters():
                parameter -= 0.1 * parameter.grad
    for parameter, wanted in zip(trained.parameters(), alone.parameters()):
        torch.testing.assert_close(parameter, wanted)


@pytest.mark.parametrize("act", [works, polled, dropped, mixed_order, ddp, ddp_hooks, zero])
def test(act) -> None:
    play(3, act)


@pytest.mark.parametrize("from_group", [False, pytest.param(True, marks=pytest.mark.hfr)])
def test_fsdp2(from_group: bool) -> None:
    play(2, fsdp2, from_group)
