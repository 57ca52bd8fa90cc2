"""Buffers in device memory, in the order of streams: every collective against numpy over the stand-in driver, whose copies and streams are late at
random, so that a wait that is missing is a wrong number.
"""

from __future__ import annotations

import json
import pathlib
import tempfile
import time
import weakref
from typing import Any, List

import numpy as np
import pytest

import hfreduce
from ranks import job, values
from standin import Array, Cuda, environment, needed
from test_collectives import folded, of, ops, same

pytestmark = needed

TYPES = ["f8", "f4", "f2", "i1", "u1", "i4", "u4", "i8", "u8", "?", "c8"]


class Lane:
    """A stream and what tests do on it: contents come late on it, and a result is read on it or on another one that waits for the call."""

    def __init__(self, comm: hfreduce.Communicator) -> None:
        self.comm, self.cuda = comm, Cuda()
        self.first, self.second = self.cuda.stream(), self.cuda.stream()
        self.turn = 0

    def put(self, like: np.ndarray) -> Array:
        return self.cuda.array(like, self.first)

    def call(self, name: str, input: Any, output: Any = None, **how: Any) -> int:
        """Makes a call; returns the stream on which its result may be read."""
        self.turn += 1
        if self.turn % 3 == 0:
            self.comm.run(name, input, output, stream=self.first, **how)
            return self.first
        pending = self.comm.start(name, input, output, stream=self.first, **how)
        assert pending.on_stream
        reader = self.first if self.turn % 3 == 1 else self.second
        pending.block(reader)
        return reader


def reductions(lane: Lane) -> int:
    comm, cases = lane.comm, 0
    rank, size = comm.rank, comm.size
    for dtype in TYPES:
        for op in ops(dtype):
            for count in [0, 1, 1000, 70_001] if (dtype, op) in [("f4", "sum"), ("i8", "max")] else [5]:
                case, mine = (dtype, op, count), of(rank, count, dtype)
                want = folded(op, [of(r, count, dtype) for r in range(size)])
                x, out = lane.put(mine), lane.put(np.ones_like(mine))
                on = lane.call("all_reduce", x, out, op=op)
                same(out.read(on), want, ("all_reduce into", case))
                same(x.read(on), mine, ("input", case))
                on = lane.call("all_reduce", x, op=op)
                same(x.read(on), want, ("all_reduce", case))
                root = count % size
                x = lane.put(mine)
                on = lane.call("reduce", x, x if rank == root else None, op=op, root=root)
                same(x.read(on), want if rank == root else mine, ("reduce", case))
                whole = folded(op, [of(r, count * size, dtype) for r in range(size)])
                share = slice(rank * count, (rank + 1) * count)
                x, out = lane.put(of(rank, count * size, dtype)), lane.put(np.ones_like(mine))
                on = lane.call("reduce_scatter", x, out, op=op)
                same(out.read(on), whole[share], ("reduce_scatter", case))
                on = lane.call("reduce_scatter", [x.part(r * count, count) for r in range(size)], out, op=op)
                same(out.read(on), whole[share], ("reduce_scatter list", case))
                cases += 5
    return cases


def movements(lane: Lane) -> int:
    comm, cases = lane.comm, 0
    rank, size = comm.rank, comm.size
    for dtype in ["f4", "i2", "?", "c16"]:
        for count in [1, 100, 30_001]:
            case, mine = (dtype, count), of(rank, count, dtype)
            everyone = np.concatenate([of(r, count, dtype) for r in range(size)])
            x = lane.put(mine)

            def blank(n: int) -> Array:
                return lane.put(of(size + 1, n, dtype, seed=7))

            out = blank(count * size)
            same(out.read(lane.call("all_gather", x, out)), everyone, ("all_gather", case))
            out = blank(count * size)
            on = lane.call("all_gather", x, [out.part(r * count, count) for r in range(size)])
            same(out.read(on), everyone, ("all_gather list", case))
            root = (count + 1) % size
            y = lane.put(mine)
            same(y.read(lane.call("broadcast", y, root=root)), of(root, count, dtype), ("broadcast", case))
            out = blank(count * size)
            on = lane.call("gather", x, out if rank == root else None, root=root)
            if rank == root:
                same(out.read(on), everyone, ("gather", case))
            shares = of(root, count * size, dtype, seed=3)
            out = blank(count)
            on = lane.call("scatter", lane.put(shares) if rank == root else None, out, root=root)
            same(out.read(on), shares[rank * count : (rank + 1) * count], ("scatter", case))
            sent = [of(r, count * size, dtype, seed=5).reshape(size, count) for r in range(size)]
            want = np.concatenate([sent[r][rank] for r in range(size)])
            out = blank(count * size)
            on = lane.call("all_to_all", lane.put(sent[rank].reshape(-1)), out)
            same(out.read(on), want, ("all_to_all", case))
            given = lane.put(sent[rank].reshape(-1))
            out = blank(count * size)
            parts = [[b.part(r * count, count) for r in range(size)] for b in (given, out)]
            same(out.read(lane.call("all_to_all_v", *parts)), want, ("all_to_all_v", case))
            cases += 7
    return cases


def messages(lane: Lane) -> None:
    comm = lane.comm
    rank, size = comm.rank, comm.size
    right, left = (rank + 1) % size, (rank - 1) % size
    for count in [0, 1, 5000]:
        x, out = lane.put(of(rank, count, "i8")), lane.put(np.full(count, -1, "i8"))
        sending = comm.send(x, right, tag=count, async_op=True, stream=lane.first)
        comm.recv(out, left, tag=count, stream=lane.first)
        assert sending is not None
        sending.block(lane.first)
        same(out.read(lane.first), of(left, count, "i8"), ("ring", count))


def everything() -> int:
    with hfreduce.init() as comm:
        lane = Lane(comm)
        cases = reductions(lane) + movements(lane)
        if comm.size > 1:
            messages(lane)
        comm.barrier(stream=lane.first)
        lane.cuda.synchronize(lane.first)
        assert comm.device == 0
        return cases


@pytest.mark.parametrize(("size", "nodes", "settings"), [(1, 1, {}), (3, 1, {}), (4, 2, {}), (2, 1, {"STANDIN_NO_MEMOPS": "1"})])
def test_everything_equals_numpy(size: int, nodes: int, settings: dict) -> None:
    with tempfile.TemporaryDirectory() as folder, environment(STANDIN_REPORT=f"{folder}/%p", **settings) as env:
        done = values(job(everything, size, nodes=nodes, env=env, timeout=240))
        reports = [json.loads(path.read_text()) for path in pathlib.Path(folder).iterdir()]
    assert done == [done[0]] * size and done[0] > 200
    assert len(reports) == size
    for report in reports:
        # The library joined the context that the test made, and all of its copies were the copy engines'.
        assert report["contexts_created"] == 1 and report["pageable"] == 0
        assert report["device_to_host"]["copies"] > done[0] < report["host_to_device"]["copies"]


def sides() -> None:
    """Ranks with host memory, pinned memory and device memory in one call, on each side by itself."""
    with hfreduce.init() as comm:
        lane = Lane(comm)
        count = 70_001
        want = folded("sum", [of(r, count, "f4") for r in range(comm.size)])
        for turn in range(6):
            mine = of(comm.rank, count, "f4")
            kind = (comm.rank + turn) % 3
            if kind == 0:
                comm.all_reduce(mine)
                same(mine, want, ("host", turn))
            elif kind == 1:
                pinned = lane.cuda.pinned(mine)
                out = lane.put(np.ones_like(mine))
                same(out.read(lane.call("all_reduce", pinned, out)), want, ("pinned into device", turn))
            else:
                x, out = lane.put(mine), lane.cuda.pinned(np.ones_like(mine))
                on = lane.call("all_reduce", x, out)
                lane.cuda.synchronize(on)
                same(out, want, ("device into pinned", turn))


def test_ranks_with_different_memory() -> None:
    with environment() as env:
        job(sides, 3, env=env)
        job(sides, 4, nodes=2, env=env)


def unblocked() -> List[bool]:
    """The host goes on, the stream waits."""
    comm = hfreduce.init()
    lane = Lane(comm)
    comm.barrier()
    if comm.rank == 1:
        time.sleep(1.5)
    mine = of(comm.rank, 1000, "f4")
    x = lane.put(mine)
    began = time.monotonic()
    comm.all_reduce(x, stream=lane.first)
    pending = comm.all_reduce(x, async_op=True, stream=lane.first)
    assert pending is not None
    pending.block(lane.second)
    quick = time.monotonic() - began < 1.0
    waiting = not lane.cuda.idle(lane.first) and not lane.cuda.idle(lane.second) and not pending.done()
    same(x.read(lane.second), folded("sum", [of(r, 1000, "f4") for r in range(2)]) * 2, "twice")
    assert pending.wait() and pending.done() and pending.error() is None
    pending.block(lane.first)
    return [quick, waiting or comm.rank == 1]


def test_the_host_is_not_blocked() -> None:
    with environment() as env:
        assert values(job(unblocked, 2, env=env)) == [[True, True]] * 2


def overwritten() -> None:
    """What a stream is given behind the call finds the call's input read and its output written."""
    with hfreduce.init() as comm:
        lane = Lane(comm)
        mine = of(comm.rank, 300_000, "f4")
        want = folded("sum", [of(r, 300_000, "f4") for r in range(comm.size)])
        x, out = lane.put(mine), lane.put(np.ones_like(mine))
        for turn in range(5):
            comm.all_reduce(x, out, stream=lane.first)
            # On the stream, so behind the call: were it in front, the next sum would be another.
            x.fill(lane.first)
            same(out.read(lane.first), want, turn)


def test_later_work_comes_later() -> None:
    with environment(STANDIN_DELAY_US="2000") as env:
        job(overwritten, 2, env=env)


def dropped() -> List[bool]:
    """Nobody but the call holds its buffers."""
    comm = hfreduce.init()
    lane = Lane(comm)
    comm.barrier()
    if comm.rank == 1:
        time.sleep(1.0)
    x, out = lane.put(of(comm.rank, 5000, "f4")), lane.put(np.ones(5000, "f4"))
    alive = [weakref.ref(x), weakref.ref(out)]
    pending = comm.start("all_reduce", x, out, stream=lane.first)
    del x, out
    during = all(r() is not None for r in alive)
    assert pending.wait()
    comm.barrier()
    until = time.monotonic() + 20
    while any(r() is not None for r in alive) and time.monotonic() < until:
        pending.wait()
        time.sleep(0.01)
    return [during or comm.rank == 1, not any(r() is not None for r in alive)]


def test_buffers_live_until_the_end_and_no_longer() -> None:
    with environment() as env:
        assert values(job(dropped, 2, env=env)) == [[True, True]] * 2


def reduced_by_name() -> List[str]:
    comm = hfreduce.init()
    lane = Lane(comm)
    reducer = hfreduce.Reducer(comm, "float32")
    counts = {"weight": 5000, "bias": 10}
    for name, count in counts.items():
        reducer.register(name, count)
    fused = lane.put(np.ones(reducer.total(), "f4"))
    names: List[str] = []
    for turn in range(4):
        reducer.set_fused_dest(fused if turn % 2 else None)
        tensors = {name: lane.put(of(comm.rank, count, "f4", seed=turn)) for name, count in counts.items()}
        for name in reversed(tensors):
            reducer.async_reduce(name, tensors[name], stream=lane.first)
        names += reducer.synchronize(stream=lane.second)
        wants = [folded("sum", [of(r, count, "f4", seed=turn) for r in range(comm.size)]) for count in counts.values()]
        if turn % 2:
            same(fused.read(lane.second), np.concatenate(wants), ("fused", turn))
        else:
            for x, want in zip(tensors.values(), wants):
                same(x.read(lane.second), want, ("in place", turn))
    return names


def test_reducer_on_a_stream() -> None:
    with environment() as env:
        assert values(job(reduced_by_name, 2, env=env)) == [["bias", "weight"] * 4] * 2


class Tensor:
    """What the library asks of a torch tensor on a CUDA device, without a torch that has one."""

    is_cpu, is_cuda, device, layout = False, True, "cuda:0", "torch.strided"

    def __init__(self, array: Array, on: int = 0, contiguous: bool = True) -> None:
        self.array, self.on, self.contiguous, self.dtype = array, on, contiguous, Name("torch." + array.dtype.name)

    def is_contiguous(self) -> bool:
        return self.contiguous

    def is_conj(self) -> bool:
        return False

    def numel(self) -> int:
        return int(np.prod(self.array.shape))

    def data_ptr(self) -> int:
        return self.array.at

    def get_device(self) -> int:
        return self.on


Tensor.__module__ = "torch"


class Name(str):
    """A dtype as torch prints it."""


def tensors() -> None:
    with hfreduce.init() as comm:
        lane = Lane(comm)
        want = folded("sum", [of(r, 1000, "f8") for r in range(comm.size)])

        class Torch:
            cuda_stream = lane.first

        class Protocol:
            def __cuda_stream__(self) -> tuple:
                return (0, lane.first)

        for stream in [lane.first, Torch(), Protocol(), 0]:
            x = lane.cuda.array(of(comm.rank, 1000, "f8"), stream if isinstance(stream, int) else lane.first)
            comm.all_reduce(Tensor(x), stream=stream)
            same(x.read(stream if isinstance(stream, int) else lane.first), want, stream)


def test_torch_tensors_and_streams_in_all_shapes() -> None:
    with environment() as env:
        job(tensors, 2, env=env)
