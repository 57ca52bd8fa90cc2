"""Wrong calls: a clear exception on every rank that can know, a group that goes on where nothing was started, and errors for all."""

import time
from datetime import timedelta
from typing import Callable, List

import pytest
import torch
import torch.distributed as dist

from ranks import error_of, numbers, play, same

pytestmark = pytest.mark.hfr

NEW_SHAPE = hasattr(dist.Backend, "_ensure_backend_registered")


def still_works(rank: int, world: int) -> None:
    tensor = numbers(rank, 100)
    dist.all_reduce(tensor)
    same(tensor, sum(numbers(r, 100) for r in range(world)))


def refused(rank: int, world: int) -> None:
    """What is wrong on its face is refused before anything starts, with words that say what to do."""
    wrong: List[tuple] = [
        (dist.all_reduce, (torch.ones(4, 4).t()[1:],), "contiguous"),
        (dist.broadcast, (torch.eye(3).to_sparse(), 0), "sparse"),
        (dist.all_reduce, (torch.ones(3, dtype=torch.int16),), "int16"),
        (dist.all_gather_into_tensor, (torch.empty(world * 3 + 1), torch.ones(3)), "elements"),
        (dist.reduce_scatter_tensor, (torch.empty(3), torch.ones(world * 3 + world)), "elements"),
        (dist.all_to_all_single, (torch.empty(world + 1), torch.ones(world + 1)), "multiple"),
        (dist.all_to_all_single, (torch.empty(4), torch.ones(4), [4], [4]), "split_sizes"),
        (dist.all_gather, ([torch.empty(3)] * (world + 1), torch.ones(3)), "list"),
    ]
    if not NEW_SHAPE:
        # An ordinary ProcessGroup answers for these itself: they have nothing to communicate.
        wrong.append((dist.all_reduce, (torch.empty(4, device="meta"),), "meta"))
    for call, arguments, word in wrong:
        error = error_of(call, *arguments)
        assert isinstance(error, (ValueError, TypeError, RuntimeError, NotImplementedError)), error
        assert word in str(error).lower(), f"{call.__name__}: {error}"
        still_works(rank, world)
    dist.barrier()


def sizes(rank: int) -> None:
    dist.all_reduce(torch.ones(100 + rank))


def types(rank: int) -> None:
    dist.all_reduce(torch.ones(100, dtype=torch.float32 if rank else torch.float64))


def operations(rank: int) -> None:
    dist.all_reduce(torch.ones(100), dist.ReduceOp.SUM if rank else dist.ReduceOp.MAX)


def roots(rank: int) -> None:
    dist.broadcast(torch.ones(100), min(rank, 1))


def calls(rank: int) -> None:
    if rank:
        dist.barrier()
    else:
        dist.all_reduce(torch.ones(5))


def disagree(rank: int, world: int, act: Callable[[int], None]) -> str:
    first = str(error_of(act, rank))
    again = str(error_of(dist.barrier))
    # A group that has failed stays failed, and says why again.
    assert again.partition("ranks disagree")[1:] == first.partition("ranks disagree")[1:], f"{first}\n{again}"
    return first


@pytest.mark.parametrize("act", [sizes, types, operations, roots, calls])
def test_ranks_that_disagree_all_hear_it(act) -> None:
    texts = play(3, disagree, act, timeout=3.0)
    # Each rank says in which call it heard of it; the rest is the same.
    assert len({text.partition("ranks disagree")[2] for text in texts}) == 1 and "ranks disagree" in texts[0], texts


def test_refused_calls_leave_the_group_usable() -> None:
    play(2, refused)


def late(rank: int, world: int) -> str:
    began = time.monotonic()
    if rank == 1:
        time.sleep(4)
    error = error_of(dist.all_reduce, torch.ones(5))
    assert time.monotonic() - began < 20
    return str(error)


def test_group_timeout() -> None:
    for text in play(3, late, timeout=1.5):
        assert "1" in text and ("time" in text or "s" in text), text


def impatient(rank: int, world: int) -> str:
    if rank == 0:
        options = torch._C._distributed_c10d.BarrierOptions()
        options.timeout = timedelta(seconds=1)
        return str(error_of(lambda: dist.group.WORLD.barrier(options).wait()))
    if rank == 1:
        work = dist.barrier(async_op=True)
        return str(error_of(work.wait, timedelta(seconds=20)))
    time.sleep(3)
    return str(error_of(dist.barrier))


def test_timeout_of_one_call_ends_the_group_for_all() -> None:
    texts = play(3, impatient)
    assert all("rank 0" in text and "barrier" in text for text in texts), texts


def monitored(rank: int, world: int) -> str:
    # Torch 2.9 refuses the function for any backend but gloo; the group has the method.
    barrier = dist.group.WORLD.monitored_barrier
    if NEW_SHAPE:
        dist.monitored_barrier(timeout=timedelta(seconds=20))
    else:
        barrier(timedelta(seconds=20))
    text = "absent"
    if rank not in (1, 3):
        text = str(error_of(barrier, timedelta(seconds=1), wait_all_ranks=True))
    dist.barrier()
    still_works(rank, world)
    return text


def test_monitored_barrier_names_who_is_missing() -> None:
    texts = play(4, monitored)
    assert "ranks 1, 3" in texts[0] and "ranks 1, 3" in texts[2], texts
