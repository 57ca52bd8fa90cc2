"""Groups made by splitting, and by an id that the program hands on; and HFReduce's own shape."""

from __future__ import annotations

import os
import pathlib
import tempfile
import time
from typing import Any, List

import numpy as np
import pytest

import hfreduce
from ranks import job, values


def splits() -> List[Any]:
    world = hfreduce.init()
    half = world.split(world.rank % 2, key=-world.rank)
    assert half is not None
    x = np.array([float(world.rank)])
    half.all_reduce(x)
    none = world.split(None if world.rank == 3 else 5)
    assert (none is None) == (world.rank == 3)
    if none is not None:
        y = np.array([1.0])
        none.all_reduce(y)
        assert y[0] == 3.0 and none.size == 3
    world.close()
    half.barrier()
    return [half.rank, half.size, float(x[0]), repr(half)]


def test_split() -> None:
    assert values(job(splits, 4, nodes=2)) == [
        [1, 2, 2.0, "<hfreduce.Communicator: rank 1 of 2>"],
        [1, 2, 4.0, "<hfreduce.Communicator: rank 1 of 2>"],
        [0, 2, 2.0, "<hfreduce.Communicator: rank 0 of 2>"],
        [0, 2, 4.0, "<hfreduce.Communicator: rank 0 of 2>"],
    ]


def meets(path: str, near: Any) -> List[Any]:
    rank, world = int(os.environ["HFR_RANK"]), int(os.environ["HFR_WORLD_SIZE"])
    file = pathlib.Path(path)
    if rank == 0:
        made = hfreduce.UniqueId.create(near) if near else hfreduce.UniqueId.create()
        data = made.to_bytes()
        assert hfreduce.UniqueId.from_bytes(data).to_bytes() == data and len(data) == 128
        (file.parent / "part").write_bytes(data)
        (file.parent / "part").rename(file)
    until = time.monotonic() + 30
    while not file.exists() and time.monotonic() < until:
        time.sleep(0.01)
    comm = hfreduce.join(file.read_bytes(), rank, world, timeout=30, connect_timeout=30)
    x = np.array([rank + 1.0])
    comm.all_reduce(x)
    return [comm.rank, comm.size, float(x[0])]


@pytest.mark.parametrize("near", [None, "127.0.0.1"])
def test_unique_id(near: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        got = values(job(meets, 3, f"{folder}/id", near, env={"HFR_COMM_ID": ""}))
    assert got == [[rank, 3, 6.0] for rank in range(3)]


def named(op: str) -> List[Any]:
    comm = hfreduce.init()
    counts = {"a": 1000, "b": 1, "c": 70_000}
    reducer = hfreduce.Reducer(comm, np.float32, op)
    for name, count in counts.items():
        reducer.register(name, count)
    assert reducer.total() == sum(counts.values())
    tensors = {name: np.full(count, i + 1.0 + comm.rank, "f4") for i, (name, count) in enumerate(counts.items())}
    fused = comm.empty(reducer.total())
    fused[:] = -1
    reducer.set_fused_dest(fused)
    names = []
    for turn in range(3):
        for name in ["c", "a", "b"]:
            reducer.async_reduce(name, tensors[name].copy())
        names = reducer.synchronize()
    got = [float(fused[0]), float(fused[999]), float(fused[1000]), float(fused[1001]), float(fused[-1])]
    reducer.set_fused_dest(None)
    reducer.async_reduce("b", tensors["b"])
    assert reducer.synchronize() == ["b"] and reducer.synchronize() == []
    return [names, got, float(tensors["a"][0] - comm.rank), float(tensors["b"][0])]


def test_reducer() -> None:
    assert values(job(named, 2, "sum")) == [[["c", "a", "b"], [3.0, 3.0, 5.0, 7.0, 7.0], 1.0, 5.0]] * 2
    assert values(job(named, 2, "max")) == [[["c", "a", "b"], [2.0, 2.0, 3.0, 4.0, 4.0], 1.0, 3.0]] * 2


def test_reducer_refuses() -> None:
    comm = hfreduce.init()
    reducer = hfreduce.Reducer(comm)
    reducer.register("a", 10)
    frozen = np.ones(10, "f4")
    frozen.flags.writeable = False
    for call, kind, text in [
        (lambda: reducer.register("a", 3), ValueError, "registered already"),
        (lambda: reducer.async_reduce("b", np.ones(3, "f4")), ValueError, "no tensor `b`"),
        (lambda: reducer.async_reduce("a", np.ones(3, "f4")), ValueError, "registered with 10"),
        (lambda: reducer.async_reduce("a", np.ones(10)), TypeError, "float64, and this reducer float32"),
        (lambda: reducer.async_reduce("a", frozen), ValueError, "read-only"),
        (lambda: reducer.set_fused_dest(frozen), ValueError, "read-only"),
    ]:
        with pytest.raises(kind, match=text):
            call()
    reducer.set_fused_dest(np.ones(9, "f4"))
    with pytest.raises(ValueError, match="9 elements, and all tensors 10"):
        reducer.async_reduce("a", np.ones(10, "f4"))
    comm.close()
    with pytest.raises(hfreduce.Error, match="closed"):
        reducer.synchronize()
