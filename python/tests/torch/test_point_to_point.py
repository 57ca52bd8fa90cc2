"""Sends and receives: blocking, not blocking, batched, with tags, as objects, and what is refused."""

import pytest
import torch
import torch.distributed as dist

from ranks import error_of, numbers, play, same


def ring(rank: int, world: int) -> None:
    after, before = (rank + 1) % world, (rank - 1) % world
    for count in (0, 1, 1000, 200_000):
        got = torch.empty(count)
        if rank == 0:
            dist.send(numbers(rank, count), after)
            assert dist.recv(got, before) == before
        else:
            assert dist.recv(got, before) == before
            dist.send(numbers(rank, count), after)
        same(got, numbers(before, count))


def not_blocking(rank: int, world: int) -> None:
    got = {r: [torch.empty(10 + i) for i in range(3)] for r in range(world) if r != rank}
    works = [dist.irecv(tensor, r) for r, tensors in got.items() for tensor in tensors]
    works += [dist.isend(numbers(rank + i, 10 + i), r) for r in got for i in range(3)]
    for work in works:
        work.wait()
    for r, tensors in got.items():
        for i, tensor in enumerate(tensors):
            same(tensor, numbers(r + i, 10 + i))


def batched(rank: int, world: int) -> None:
    after, before = (rank + 1) % world, (rank - 1) % world
    first, second = torch.empty(100), torch.empty(50, dtype=torch.int64)
    operations = [
        dist.P2POp(dist.isend, numbers(rank, 100), after),
        dist.P2POp(dist.irecv, first, before),
        dist.P2POp(dist.isend, numbers(rank, 50, torch.int64), after),
        dist.P2POp(dist.irecv, second, before),
    ]
    for _ in range(3):
        for work in dist.batch_isend_irecv(operations):
            work.wait()
        same(first, numbers(before, 100))
        same(second, numbers(before, 50, torch.int64))


def between_collectives(rank: int, world: int) -> None:
    """Only two ranks of three exchange something; nobody else is held up, and nothing gets mixed up."""
    for i in range(5):
        tensor = numbers(rank + i, 3000)
        if rank == 0:
            dist.isend(tensor, 2).wait()
        elif rank == 2:
            dist.irecv(tensor, 0).wait()
            same(tensor, numbers(i, 3000))
        total = numbers(rank, 77)
        dist.all_reduce(total)
        same(total, sum(numbers(r, 77) for r in range(world)))


def tags(rank: int, world: int) -> None:
    got = torch.empty(9, dtype=torch.complex64)
    if rank == 0:
        dist.send(torch.complex(numbers(0, 9), numbers(1, 9)), 1, tag=5)
        dist.send_object_list([{"a": 1}, "b"], 1)
    else:
        dist.recv(got, 0, tag=5)
        same(got, torch.complex(numbers(0, 9), numbers(1, 9)))
        objects = [None, None]
        dist.recv_object_list(objects, 0)
        assert objects == [{"a": 1}, "b"]


def to_itself(rank: int, world: int) -> None:
    """Torch allows it where it does not block."""
    got = torch.empty(40)
    works = [dist.isend(numbers(rank, 40), rank), dist.irecv(got, rank)]
    for work in works:
        work.wait()
    same(got, numbers(rank, 40))


def from_anybody(rank: int, world: int) -> None:
    if rank == 0:
        assert "src" in str(error_of(dist.recv, torch.empty(3)))
    dist.barrier()


def wrong_tag(rank: int, world: int) -> str:
    if rank == 0:
        error = error_of(dist.send, numbers(0, 30), 1, tag=1)
    else:
        error = error_of(dist.recv, torch.empty(30), 0, tag=2)
    return str(error)


def wrong_size(rank: int, world: int) -> str:
    if rank == 0:
        error = error_of(dist.send, numbers(0, 30), 1)
    else:
        error = error_of(dist.recv, torch.empty(31), 0)
    return str(error)


@pytest.mark.parametrize("act", [not_blocking, batched, between_collectives])
def test(act) -> None:
    play(3, act)


def test_ring() -> None:
    play(3, ring)


def test_tags_and_objects() -> None:
    play(2, tags)


@pytest.mark.hfr
@pytest.mark.parametrize("world", [1, 2])
def test_to_itself(world: int) -> None:
    play(world, to_itself)


@pytest.mark.hfr
def test_any_source_is_refused() -> None:
    play(2, from_anybody)


@pytest.mark.hfr
@pytest.mark.parametrize("act", [wrong_tag, wrong_size])
def test_what_does_not_match_is_an_error_on_both_sides(act) -> None:
    for text in play(2, act, init=True, timeout=5.0):
        assert "send" in text or "recv" in text, text
