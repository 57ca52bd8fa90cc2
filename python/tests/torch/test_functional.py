"""Functional collectives, DTensor and the group object's own methods: callers that come from C++ or pass no options."""

import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard, distribute_tensor

from ranks import BACKEND, numbers, play, same


def collectives(rank: int, world: int) -> None:
    group = dist.group.WORLD
    same(functional.all_reduce(numbers(rank, 100), "sum", group).wait(), sum(numbers(r, 100) for r in range(world)))
    coalesced = functional.all_reduce_coalesced([numbers(rank, 10), numbers(rank, 20)], "max", group)
    for got, count in zip(coalesced, (10, 20)):
        same(got.wait(), torch.stack([numbers(r, count) for r in range(world)]).amax(0))
    same(functional.all_gather_tensor(numbers(rank, 10), 0, group).wait(), torch.cat([numbers(r, 10) for r in range(world)]))
    gathered = functional.all_gather_into_tensor_coalesced([numbers(rank, 10), numbers(rank, 20)], group)
    for got, count in zip(gathered, (10, 20)):
        same(got.wait(), torch.cat([numbers(r, count) for r in range(world)]))
    parts = torch.cat([numbers(rank + 10 * to, 6) for to in range(world)])
    wanted = sum(numbers(r + 10 * rank, 6) for r in range(world))
    same(functional.reduce_scatter_tensor(parts, "sum", 0, group).wait(), wanted)
    same(functional.reduce_scatter_tensor_coalesced([parts], "sum", [0], group)[0].wait(), wanted)
    same(functional.broadcast(numbers(rank, 10), 1, group).wait(), numbers(1, 10))
    got = functional.all_to_all_single(parts, None, None, group).wait()
    same(got, torch.cat([numbers(r + 10 * rank, 6) for r in range(world)]))
    sizes = [rank + to + 1 for to in range(world)]
    sent = torch.cat([numbers(rank + 10 * to, size) for to, size in enumerate(sizes)])
    got = functional.all_to_all_single(sent, sizes, sizes, group).wait()
    same(got, torch.cat([numbers(r + 10 * rank, r + rank + 1) for r in range(world)]))


def averaged(rank: int, world: int) -> None:
    got = functional.all_reduce(numbers(rank, 100), "avg", dist.group.WORLD).wait()
    torch.testing.assert_close(got, sum(numbers(r, 100) for r in range(world)) / world)


def tensors(rank: int, world: int) -> None:
    mesh = init_device_mesh("cpu", (world,))
    whole = numbers(0, 7 * 5).view(7, 5)
    sharded = distribute_tensor(whole.clone() if rank == 0 else torch.zeros(7, 5), mesh, [Shard(0)])
    same(sharded.full_tensor(), whole)
    same(sharded.redistribute(mesh, [Shard(1)]).full_tensor(), whole)
    same(sharded.redistribute(mesh, [Replicate()]).to_local(), whole)
    partial = DTensor.from_local(numbers(rank, 12).view(4, 3), mesh, [Partial()])
    same(partial.full_tensor(), sum(numbers(r, 12) for r in range(world)).view(4, 3))
    left = distribute_tensor(numbers(1, 20).view(4, 5), mesh, [Shard(1)])
    right = distribute_tensor(numbers(2, 30).view(5, 6), mesh, [Shard(0)])
    torch.testing.assert_close((left @ right).full_tensor(), numbers(1, 20).view(4, 5) @ numbers(2, 30).view(5, 6))


def two_dimensions(rank: int, world: int) -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("rows", "columns"))
    whole = numbers(0, 36).view(6, 6)
    spread = distribute_tensor(whole, mesh, [Shard(0), Shard(1)])
    same(spread.full_tensor(), whole)
    row = numbers(rank, 9)
    dist.all_reduce(row, group=mesh.get_group("columns"))
    first = rank - rank % 2
    same(row, numbers(first, 9) + numbers(first + 1, 9))


def methods(rank: int, world: int) -> None:
    """What torch's own code and old programs call on the group itself."""
    group = dist.group.WORLD
    total = sum(numbers(r, 50) for r in range(world))
    for call in (lambda t: group.allreduce([t]), lambda t: group.allreduce(t), lambda t: group.allreduce(t, dist.ReduceOp.SUM)):
        tensor = numbers(rank, 50)
        call(tensor).wait()
        same(tensor, total)
    tensor = numbers(rank, 50)
    group.broadcast(tensor, 1).wait()
    same(tensor, numbers(1, 50))
    outs = [torch.empty(50) for _ in range(world)]
    group.allgather(outs, tensor).wait()
    same(outs[-1], numbers(1, 50))
    out = torch.empty(50)
    group.reduce_scatter(out, [numbers(rank, 50)] * world).wait()
    same(out, total)
    group.barrier().wait()
    assert group.rank() == rank and group.size() == world
    assert dist.get_backend(group) == BACKEND


def debugged(rank: int, world: int) -> None:
    """TORCH_DISTRIBUTED_DEBUG=DETAIL puts checks of torch's own around every call."""
    tensor = numbers(rank, 50)
    dist.all_reduce(tensor)
    same(tensor, sum(numbers(r, 50) for r in range(world)))
    dist.broadcast(tensor, 0)
    dist.barrier()


@pytest.mark.parametrize("act", [collectives, tensors, methods])
def test(act) -> None:
    play(3, act)


@pytest.mark.hfr
def test_average() -> None:
    play(3, averaged)


def test_two_dimensional_mesh() -> None:
    play(4, two_dimensions)


def test_detailed_debugging() -> None:
    play(2, debugged, env={"TORCH_DISTRIBUTED_DEBUG": "DETAIL"})
