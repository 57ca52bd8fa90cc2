"""Groups: subgroups at the same time, leaving and coming again, ending one while another lives, two emulated nodes, and torchrun."""

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from ranks import BACKEND, Place, error_of, numbers, play, same

NEW_SHAPE = hasattr(dist.Backend, "_ensure_backend_registered")


def check(group: "dist.ProcessGroup | None", ranks: list, count: int = 500) -> None:
    rank = dist.get_rank()
    tensor = numbers(rank, count)
    dist.all_reduce(tensor, group=group)
    same(tensor, sum(numbers(r, count) for r in ranks))
    for root in ranks:
        tensor = numbers(rank, count)
        dist.broadcast(tensor, root, group=group)
        same(tensor, numbers(root, count))
    got: list = [None] * len(ranks)
    dist.all_gather_object(got, rank, group=group)
    assert got == ranks


def subgroups(rank: int, world: int) -> None:
    everyone = list(range(world))
    halves = [dist.new_group(everyone[::2]), dist.new_group(everyone[1::2])]
    reverse = dist.new_group(everyone[::-1], timeout=timedelta(seconds=20))
    alone = [dist.new_group([r]) for r in everyone]
    for _ in range(2):
        check(halves[rank % 2], everyone[rank % 2 :: 2])
        check(reverse, everyone)
        check(alone[rank], [rank])
        check(None, everyone)
    # Several groups at work at once.
    tensors = [numbers(rank, 100_000) for _ in range(3)]
    works = [dist.all_reduce(t, group=g, async_op=True) for t, g in zip(tensors, (halves[rank % 2], None, alone[rank]))]
    for work in works:
        work.wait()
    for tensor, members in zip(tensors, (everyone[rank % 2 :: 2], everyone, [rank])):
        same(tensor, sum(numbers(r, 100_000) for r in members))
    dist.destroy_process_group(halves[rank % 2])
    check(None, everyone)
    # A group that is gone says so; gloo does not.
    assert BACKEND == "gloo" or str(error_of(dist.all_reduce, torch.ones(1), group=halves[rank % 2]))


def again(place: Place) -> None:
    store = place.store()
    for attempt in range(3):
        # One round without saying goodbye to a subgroup first.
        place.join(dist.PrefixStore(f"attempt{attempt}", store))
        check(None, list(range(place.world)))
        dist.new_group(list(range(place.world)))
        assert isinstance(error_of(place.join, dist.PrefixStore("twice", store)), ValueError)
        work = dist.all_reduce(numbers(place.rank, 100_000), async_op=True)
        if attempt:
            work.wait()
        group = dist.group.WORLD
        dist.destroy_process_group()
        assert not dist.is_initialized()
        if BACKEND == "hfr":
            assert "closed" in str(error_of(group.allreduce, [torch.ones(1)]))


def nodes(rank: int, world: int) -> None:
    everyone = list(range(world))
    check(None, everyone, 30_000)
    halves = [dist.new_group(everyone[::2]), dist.new_group(everyone[1::2])]
    check(halves[rank % 2], everyone[rank % 2 :: 2], 30_000)
    outs = [torch.empty(rank * 3 + r + 1) for r in everyone]
    dist.all_to_all(outs, [numbers(rank, to * 3 + rank + 1) for to in everyone])
    for r, out in enumerate(outs):
        same(out, numbers(r, rank * 3 + r + 1))
    got = torch.empty(1000)
    works = [dist.isend(numbers(rank, 1000), (rank + 1) % world), dist.irecv(got, (rank - 1) % world)]
    for work in works:
        work.wait()
    same(got, numbers((rank - 1) % world, 1000))
    dist.barrier()


def mixed(place: Place) -> None:
    """CPU tensors by hfr, another backend for another device."""
    place.backend = "cpu:hfr,cuda:gloo"
    place.join()
    check(None, list(range(place.world)))
    names = {device.type: dist.group.WORLD._get_backend(device).name() for device in dist.group.WORLD._device_types}
    # Before torch 2.15 a backend written in Python has the group for itself.
    assert names == {"cpu": "hfr", "cuda": "gloo" if NEW_SHAPE else "hfr"}, names
    assert NEW_SHAPE or "CPU and CUDA" in str(error_of(dist.group.WORLD._get_backend, torch.device("meta")))
    # Torch says no, and does not turn in circles.
    assert not isinstance(error_of(dist.split_group, split_ranks=[[0], [1]]), RecursionError)
    dist.destroy_process_group()


def test_subgroups() -> None:
    play(4, subgroups)


def test_leaving_and_coming_again() -> None:
    play(2, again, init=False)


@pytest.mark.hfr
def test_next_to_another_backend() -> None:
    play(2, mixed, init=False)


@pytest.mark.hfr
@pytest.mark.parametrize("transport", ["tcp", "local"])
def test_two_emulated_nodes(transport: str) -> None:
    play(4, nodes, env={"HFR_TRANSPORT": transport}, env_of=lambda rank: {"HFR_NODE": f"node{rank // 2}"})


SCRIPT = """
import os, torch, torch.distributed as dist
dist.init_process_group("{backend}")
tensor = torch.tensor([float(dist.get_rank() + 1)])
dist.all_reduce(tensor)
# One write: the two ranks share a pipe.
os.write(1, f"sum {{tensor.item()}}\\n".encode())
{end}
"""


@pytest.mark.parametrize("end", ["dist.destroy_process_group()", "pass"])
def test_torchrun(tmp_path: Path, end: str) -> None:
    """The way users start it: nothing is imported, the environment says the rest, and some forget to say goodbye."""
    script = tmp_path / "train.py"
    script.write_text(SCRIPT.format(backend=BACKEND, end=end))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("sum 3.0") == 2, done.stdout
