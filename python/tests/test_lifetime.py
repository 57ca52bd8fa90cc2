"""The ends of things: interpreters that end while calls run, forked children, objects dropped in any order. No hang, no crash."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from typing import Any, Callable, List

import numpy as np

import hfreduce
from ranks import job, values

KEPT: List[Any] = []


def leaves_open(how: str) -> bool:
    comm = hfreduce.init()
    x = np.ones(100_000)
    comm.all_reduce(x)
    if comm.rank == 0:
        pending = comm.all_reduce(x, async_op=True)
        assert pending is not None
        if how == "callback":
            pending.then(lambda error: KEPT.append(error))
            pending.then(time.sleep)
        if how == "reducer":
            reducer = hfreduce.Reducer(comm, "float64")
            reducer.register("x", len(x))
            reducer.async_reduce("x", x)
            KEPT.append(reducer)
        if how == "thread":
            threading.Thread(target=comm.barrier, daemon=True).start()
            time.sleep(0.2)
        if how == "dropped":
            del comm, pending, x
            gc.collect()
            return True
        if how == "closed":
            comm.close()
            try:
                pending.wait()
            except hfreduce.Error as error:
                assert error.kind == "aborted", error
            return True
        KEPT.extend([comm, pending])
        return True
    KEPT.append(comm)
    # Until rank 0 has gone: its call is never answered.
    until = time.monotonic() + 30
    while comm.failure() is None and time.monotonic() < until:
        time.sleep(0.05)
    return comm.failure() is not None


def test_interpreter_ends_with_open_calls() -> None:
    for how in ["kept", "callback", "reducer", "thread", "dropped", "closed"]:
        started = time.monotonic()
        assert values(job(leaves_open, 2, how)) == [True, True], how
        assert time.monotonic() - started < 30, how


def last_words() -> bool:
    comm = hfreduce.init()
    KEPT.append(comm)
    KEPT.append(KEPT)  # a cycle, which nobody drops at the end
    for _ in range(20):
        comm.all_reduce(np.ones(10))
    if comm.rank == 1:
        comm.all_reduce(np.ones(10), async_op=True)
        return True
    time.sleep(0.3)
    comm.all_reduce(np.ones(10))
    return True


def test_a_rank_that_ends_says_goodbye_first() -> None:
    for env in [{"HFR_TRANSPORT": "local"}, {"HFR_TRANSPORT": "tcp"}]:
        assert values(job(last_words, 2, nodes=2, env=env)) == [True, True]


def in_child(work: Callable[[], bool]) -> int:
    """The exit code of a forked child that runs `work` and then ends as a Python process does."""
    child = os.fork()
    if child == 0:
        try:
            done = work()
        except BaseException as error:
            print("in the child:", repr(error), file=sys.stderr, flush=True)
            os._exit(3)
        # With all of Python's own ends: modules, atexit, destructors.
        sys.exit(0 if done else 4)
    until = time.monotonic() + 40
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) if hasattr(os, "waitstatus_to_exitcode") else status
        time.sleep(0.01)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return 99


def refuses(call: Callable[[], Any]) -> bool:
    try:
        call()
    except hfreduce.Error:
        return True
    return False


def forks() -> List[int]:
    comm = hfreduce.init()
    other = comm.split(0)
    assert other is not None
    shared = comm.empty(1000, "i4")
    shared[:] = comm.rank + 1
    x = np.ones(1000)
    if comm.rank == 1:
        time.sleep(0.5)
    pending = comm.all_reduce(x, async_op=True)
    assert pending is not None

    def calls_raise() -> bool:
        return all(map(refuses, [comm.barrier, lambda: comm.start("barrier").wait(), lambda: comm.split(0),
                                 lambda: comm.send(x, 0), lambda: other.all_reduce(x)]))

    def drops() -> bool:
        nonlocal comm, other, pending, shared
        del comm, other, pending, shared
        gc.collect()
        return True

    def closes() -> bool:
        comm.close()
        other.close()
        return True

    codes = [in_child(work) for work in [calls_raise, drops, closes, lambda: True]]
    # The parent's group, calls and memory are untouched.
    assert pending.wait() and x[0] == 2.0
    comm.all_reduce(shared)
    other.barrier()
    return codes + [int(shared.min()), int(shared.max())]


def test_forked_children() -> None:
    ended = job(forks, 2)
    assert values(ended) == [[0, 0, 0, 0, 3, 3]] * 2, ended


def forks_often() -> List[int]:
    comm = hfreduce.init()
    x = np.ones(10)
    stop = threading.Event()

    def reduce() -> None:
        # The number of calls is the same on all ranks.
        for i in range(3000):
            pending = comm.all_reduce(x, op="max", async_op=True)
            assert pending is not None
            pending.then(lambda error: None)
            if i % 10 == 0:
                pending.wait()
        comm.barrier()
        stop.set()

    thread = threading.Thread(target=reduce)
    thread.start()
    codes = []
    while not stop.is_set() and len(codes) < 15:
        codes.append(in_child(lambda: True))
    thread.join()
    return sorted(set(codes))


def test_forks_while_calls_run() -> None:
    assert values(job(forks_often, 2)) == [[0], [0]]


def drops_in_any_order() -> float:
    total = 0.0
    for turn in range(8):
        comm = hfreduce.init()
        x = np.full(50_000, 1.0)
        pending = comm.all_reduce(x, async_op=True)
        assert pending is not None
        if turn % 2:
            del comm
        if turn % 4 > 1:
            del pending
        else:
            pending.wait()
            total += float(x[0])
        del x
        comm = pending = None
        gc.collect()
    return total


def test_objects_dropped_in_any_order() -> None:
    assert values(job(drops_in_any_order, 2)) == [8.0, 8.0]
