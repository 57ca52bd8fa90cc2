"""Ranks that die, groups that are aborted, futures that fail: every survivor gets an error in time and can end."""

import os
import signal
import time

import pytest
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from ranks import KILLED, error_of, numbers, play

pytestmark = pytest.mark.hfr


def dies(rank: int, world: int, asynchronous: bool) -> str:
    dist.all_reduce(torch.ones(10))
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if asynchronous:
        error = error_of(lambda: [dist.all_reduce(torch.ones(100_000), async_op=True).wait() for _ in range(50)])
    else:
        error = error_of(lambda: [dist.all_reduce(torch.ones(100_000)) for _ in range(50)])
    return str(error)


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("transport", ["auto", "tcp"])
def test_a_killed_rank(asynchronous: bool, transport: str) -> None:
    began = time.monotonic()
    node = (lambda rank: {"HFR_NODE": f"node{rank}"}) if transport == "tcp" else None
    texts = play(3, dies, asynchronous, env={"HFR_TRANSPORT": transport}, env_of=node)
    assert texts[1] == KILLED and all("rank 1" in text for text in (texts[0], texts[2])), texts
    assert time.monotonic() - began < 30


def trains_and_dies(rank: int, world: int) -> str:
    model = DistributedDataParallel(torch.nn.Linear(200, 200))
    model(torch.ones(2, 200)).sum().backward()
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)

    def step() -> None:
        for _ in range(20):
            model(torch.ones(2, 200)).sum().backward()

    return str(error_of(step))


def test_ddp_gets_the_text_of_the_error() -> None:
    """Futures that fail: torch's reducer crashes where this is done wrong."""
    texts = play(3, trains_and_dies)
    assert texts[1] == KILLED and all("rank 1" in text for text in (texts[0], texts[2])), texts


def future(rank: int, world: int) -> str:
    if rank == 0:
        time.sleep(1)
        dist.group.WORLD.abort()
        return str(error_of(dist.barrier))
    work = dist.all_reduce(numbers(rank, 10), async_op=True)
    error = error_of(work.get_future().then(lambda done: done.wait()).wait)
    waited = error_of(work.wait)
    assert isinstance(waited, RuntimeError), waited
    return f"{error} {waited}"


def test_abort_reaches_everyone() -> None:
    texts = play(3, future)
    assert all("rank 0 aborted" in text for text in texts), texts


def aborts_while_waiting(rank: int, world: int) -> str:
    import threading

    if rank == 0:
        threading.Timer(1.0, dist.group.WORLD.abort).start()
        return str(error_of(dist.all_reduce, torch.ones(10)))
    time.sleep(2)
    return str(error_of(dist.all_reduce, torch.ones(10)))


def test_abort_from_another_thread() -> None:
    texts = play(2, aborts_while_waiting)
    assert all("abort" in text for text in texts), texts


def comes_again(place) -> str:
    store = place.store()
    place.join(dist.PrefixStore("first", store))
    if place.rank == 0:
        dist.group.WORLD.abort()
    text = str(error_of(lambda: [dist.barrier() for _ in range(100)]))
    dist.destroy_process_group()
    place.join(dist.PrefixStore("second", store))
    tensor = numbers(place.rank, 10)
    dist.all_reduce(tensor)
    assert torch.equal(tensor, sum(numbers(r, 10) for r in range(place.world)))
    dist.destroy_process_group()
    return text


def test_a_new_group_after_an_abort() -> None:
    assert all("abort" in text for text in play(2, comes_again, init=False))


def somebody_is_missing(place) -> str:
    if place.rank == 1:
        return "absent"
    return str(error_of(place.join))


def test_init_without_all_ranks_ends_in_time() -> None:
    texts = play(2, somebody_is_missing, init=False, timeout=3.0)
    assert texts[0] and texts[1] == "absent", texts


def forks(rank: int, world: int) -> None:
    """A DataLoader's workers are forked in the middle of it all, and must neither crash nor take the group with them."""
    data = torch.utils.data.TensorDataset(torch.arange(16.0))
    for _ in range(2):
        dist.all_reduce(torch.ones(3), async_op=True)
        loader = torch.utils.data.DataLoader(data, batch_size=4, num_workers=2, multiprocessing_context="fork")
        total = torch.stack([batch[0].sum() for batch in loader]).sum()
        dist.all_reduce(total)
        assert total.item() == 120.0 * world


def test_forked_workers() -> None:
    play(2, forks)
