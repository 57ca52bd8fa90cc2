"""Every collective of torch.distributed with exact values, at several group sizes and lengths.

Knows nothing of backends: what is here passes with gloo as well, except where marked.
"""

import pytest
import torch
import torch.distributed as dist

from ranks import BACKEND, numbers, play, same

COUNTS = (1, 3, 1000, 70_001)


def total(world: int, count: int) -> torch.Tensor:
    return sum(numbers(rank, count) for rank in range(world))


def reductions(rank: int, world: int) -> None:
    for count in COUNTS:
        tensor = numbers(rank, count)
        dist.all_reduce(tensor)
        same(tensor, total(world, count))
        for root in range(world):
            tensor = numbers(rank, count)
            dist.reduce(tensor, root, op=dist.ReduceOp.MAX)
            if rank == root:
                same(tensor, torch.stack([numbers(r, count) for r in range(world)]).amax(0))
        parts = [numbers(rank + 10 * to, count) for to in range(world)]
        out = torch.empty(count)
        wanted = sum(numbers(r + 10 * rank, count) for r in range(world))
        dist.reduce_scatter(out, parts)
        same(out, wanted)
        out.fill_(-1)
        dist.reduce_scatter_tensor(out, torch.cat(parts))
        same(out, wanted)


def movements(rank: int, world: int) -> None:
    for count in COUNTS:
        for root in range(world):
            tensor = numbers(rank, count)
            dist.broadcast(tensor, root)
            same(tensor, numbers(root, count))
            gathered = [torch.empty(count) for _ in range(world)] if rank == root else None
            dist.gather(numbers(rank, count), gathered, root)
            for r, piece in enumerate(gathered or []):
                same(piece, numbers(r, count))
            pieces = [numbers(root + 10 * to, count) for to in range(world)] if rank == root else None
            out = torch.empty(count)
            dist.scatter(out, pieces, root)
            same(out, numbers(root + 10 * rank, count))
        everyone = [numbers(r, count) for r in range(world)]
        out_list = [torch.empty(count) for _ in range(world)]
        dist.all_gather(out_list, numbers(rank, count))
        same(torch.cat(out_list), torch.cat(everyone))
        flat = torch.empty(world * count)
        dist.all_gather_into_tensor(flat, numbers(rank, count))
        same(flat, torch.cat(everyone))
        dist.barrier()


def exchanges(rank: int, world: int) -> None:
    for count in COUNTS:
        sent = torch.cat([numbers(rank + 10 * to, count) for to in range(world)])
        got = torch.empty(world * count)
        wanted = torch.cat([numbers(r + 10 * rank, count) for r in range(world)])
        dist.all_to_all_single(got, sent)
        same(got, wanted)
    # Rank r sends r + to + 1 rows of two to rank `to`.
    sizes = [rank + to + 1 for to in range(world)]
    sent = torch.cat([numbers(rank + 10 * to, 2 * size).view(-1, 2) for to, size in enumerate(sizes)])
    got = torch.empty(sum(sizes), 2)
    dist.all_to_all_single(got, sent, output_split_sizes=sizes, input_split_sizes=sizes)
    same(got, torch.cat([numbers(r + 10 * rank, 2 * (r + rank + 1)).view(-1, 2) for r in range(world)]))
    # One of the pieces is empty.
    sizes_in = [0 if to == (rank + 1) % world else 2 for to in range(world)]
    sizes_out = [0 if rank == (r + 1) % world else 2 for r in range(world)]
    got = torch.empty(sum(sizes_out))
    dist.all_to_all_single(got, torch.full((sum(sizes_in),), rank + 1.0), sizes_out, sizes_in)
    same(got, torch.cat([torch.full((size,), r + 1.0) for r, size in enumerate(sizes_out)]))


def lists_exchanged(rank: int, world: int) -> None:
    sent = [numbers(rank + 10 * to, rank + to + 1) for to in range(world)]
    got = [torch.empty(rank + r + 1) for r in range(world)]
    dist.all_to_all(got, sent)
    for r in range(world):
        same(got[r], numbers(r + 10 * rank, rank + r + 1))


def coalesced(rank: int, world: int) -> None:
    tensors = [numbers(rank, count) for count in COUNTS]
    with dist.distributed_c10d._coalescing_manager():
        for tensor in tensors:
            dist.all_reduce(tensor)
    for tensor, count in zip(tensors, COUNTS):
        same(tensor, total(world, count))
    tensors = [numbers(rank, count) for count in COUNTS]
    dist.all_reduce_coalesced(tensors)
    same(torch.cat(tensors), torch.cat([total(world, count) for count in COUNTS]))
    outs = [torch.empty(world * count) for count in COUNTS]
    with dist.distributed_c10d._coalescing_manager(async_ops=True) as work:
        for out, count in zip(outs, COUNTS):
            dist.all_gather_into_tensor(out, numbers(rank, count))
    work.wait()
    for out, count in zip(outs, COUNTS):
        same(out, torch.cat([numbers(r, count) for r in range(world)]))
    outs = [torch.empty(count) for count in COUNTS]
    with dist.distributed_c10d._coalescing_manager():
        for out, count in zip(outs, COUNTS):
            dist.reduce_scatter_tensor(out, torch.cat([numbers(rank + 10 * to, count) for to in range(world)]))
    for out, count in zip(outs, COUNTS):
        same(out, sum(numbers(r + 10 * rank, count) for r in range(world)))


def gathered_in_lists(rank: int, world: int) -> None:
    inputs = [numbers(rank, count) for count in COUNTS]
    outs = [[torch.empty(count) for count in COUNTS] for _ in range(world)]
    dist.all_gather_coalesced(outs, inputs)
    for r in range(world):
        same(torch.cat(outs[r]), torch.cat([numbers(r, count) for count in COUNTS]))


def coalesced_by_device(rank: int, world: int) -> None:
    first, second = numbers(rank, 10), numbers(rank, 20)
    with dist.distributed_c10d._coalescing_manager(device=torch.device("cpu"), async_ops=True) as work:
        dist.broadcast(first, 0, async_op=True)
        dist.broadcast(second, world - 1, async_op=True)
    work.wait()
    same(first, numbers(0, 10))
    same(second, numbers(world - 1, 20))


def uneven(rank: int, world: int) -> None:
    counts = [5 * r + 1 for r in range(world)]
    outs = [torch.empty(count) for count in counts]
    dist.all_gather(outs, numbers(rank, counts[rank]))
    for r, count in enumerate(counts):
        same(outs[r], numbers(r, count))
    out = torch.empty(counts[rank])
    dist.reduce_scatter(out, [numbers(rank + 10 * to, count) for to, count in enumerate(counts)])
    same(out, sum(numbers(r + 10 * rank, counts[rank]) for r in range(world)))


def nothing_at_all(rank: int, world: int) -> None:
    """Empty tensors are legal, and do not upset what comes after them."""
    tensor = torch.empty(0)
    dist.all_reduce(tensor)
    dist.broadcast(tensor, 0)
    out = torch.empty(0)
    dist.all_gather_into_tensor(out, tensor)
    dist.reduce_scatter_tensor(out, tensor)
    tensor = numbers(rank, 9).view(3, 3)
    dist.all_reduce(tensor)
    same(tensor, total(world, 9).view(3, 3))


def objects(rank: int, world: int) -> None:
    thing = {"rank": rank, "long": "x" * (1000 * rank + 1)}
    got: list = [None] * world
    dist.all_gather_object(got, thing)
    assert [one["rank"] for one in got] == list(range(world)) and len(got[-1]["long"]) == 1000 * (world - 1) + 1
    several = [rank, "word", {"key": 5}] if rank == 0 else [None] * 3
    dist.broadcast_object_list(several, 0)
    assert several == [0, "word", {"key": 5}]
    got = [None] * world if rank == 0 else None
    dist.gather_object(thing, got, 0)
    assert rank or [one["rank"] for one in got] == list(range(world))
    mine: list = [None]
    dist.scatter_object_list(mine, [f"for {r}" for r in range(world)] if rank == 0 else [None] * world, 0)
    assert mine == [f"for {rank}"]


@pytest.mark.parametrize("world", [1, 2, 3, 4])
def test_reductions(world: int) -> None:
    if BACKEND == "gloo" and world == 1:
        pytest.skip("gloo's reduce_scatter")
    play(world, reductions)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_movements(world: int) -> None:
    play(world, movements)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_exchanges(world: int) -> None:
    play(world, exchanges)


@pytest.mark.hfr
@pytest.mark.parametrize("world", [1, 3])
def test_lists_of_different_sizes_are_exchanged(world: int) -> None:
    play(world, lists_exchanged)


@pytest.mark.parametrize("world", [1, 3])
def test_coalescing(world: int) -> None:
    play(world, coalesced)


def test_gathering_lists_of_tensors() -> None:
    play(3, gathered_in_lists)


@pytest.mark.hfr
def test_coalescing_by_device() -> None:
    play(2, coalesced_by_device)


@pytest.mark.hfr
@pytest.mark.parametrize("world", [1, 3])
def test_pieces_of_different_sizes(world: int) -> None:
    play(world, uneven)


@pytest.mark.hfr
@pytest.mark.parametrize("world", [1, 3])
def test_empty_tensors(world: int) -> None:
    play(world, nothing_at_all)


@pytest.mark.parametrize("world", [1, 3])
def test_objects(world: int) -> None:
    play(world, objects)
