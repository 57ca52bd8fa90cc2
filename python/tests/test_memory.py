"""Registered memory: its lifetime, its views, and calls on it."""

from __future__ import annotations

import gc
from typing import Any, List

import numpy as np

import hfreduce
from ranks import job, values


def views() -> List[Any]:
    comm = hfreduce.init()
    memory = comm.alloc(64)
    assert (memory.nbytes, len(memory), memory.ptr % 4096) == (64, 64, 0)
    view = memoryview(memory)
    assert (view.nbytes, view.readonly, bytes(view)) == (64, False, bytes(64))
    view[0] = 7
    array = np.frombuffer(memory, "u1")
    assert array[0] == 7 and array.ctypes.data == memory.ptr
    comm.all_reduce(memory)
    made = comm.empty((3, 5), "f8")
    assert (made.shape, made.dtype.str, made.flags.c_contiguous, made.flags.writeable) == ((3, 5), "<f8", True, True)
    assert comm.empty(4).dtype == np.float32 and comm.empty(0).shape == (0,) and comm.empty((2, 0)).shape == (2, 0)
    made[:] = comm.rank + 1
    comm.all_reduce(made)
    big = comm.empty(1_000_000, "f4")
    big[:] = np.arange(1_000_000) % 1000
    comm.all_reduce(big)
    right = bool((big == (np.arange(1_000_000) % 1000) * comm.size).all())
    # The memory outlives the communicator and the object it came from.
    del memory
    comm.close()
    gc.collect()
    array[1] = 5
    made += 1
    return [int(view[0]), int(view[1]), float(made.min()), float(made.max()), right]


def test_views() -> None:
    assert values(job(views, 2)) == [[14, 5, 4.0, 4.0, True]] * 2
    assert values(job(views, 4, nodes=2)) == [[28, 5, 11.0, 11.0, True]] * 4


def test_memory_is_given_back_with_its_last_view() -> None:
    comm = hfreduce.init()
    first = comm.alloc(1 << 20)
    at, view = first.ptr, memoryview(first)[10:20]
    view[0] = 9
    del first
    gc.collect()
    second = comm.alloc(1 << 20)
    assert second.ptr != at and view[0] == 9
    view.release()
    del view
    gc.collect()
    # The first stretch that fits is handed out, and it is zero again.
    third = comm.alloc(1 << 20)
    assert third.ptr == at and bytes(memoryview(third)[:64]) == bytes(64)
    comm.close()


def test_too_much() -> None:
    with hfreduce.init() as comm:
        try:
            comm.alloc(1 << 60)
        except hfreduce.Error as error:
            assert error.kind == "memory" and "rank 0" in str(error)
        else:
            raise AssertionError("an exabyte was given out")
