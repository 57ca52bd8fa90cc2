"""Calls that run while the program goes on: waiting, callbacks, the interpreter's lock, signals, references."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import weakref
from typing import Any, List

import numpy as np

import hfreduce
from ranks import job, values


class Array(np.ndarray):
    """An array that can be referenced weakly."""


def ordered() -> List[float]:
    comm = hfreduce.init()
    buffers = [np.full(1000, float(i + comm.rank)) for i in range(50)]
    pending = [comm.start("all_reduce", x, None, "sum" if i % 2 else "max") for i, x in enumerate(buffers)]
    last = np.array([1.0])
    comm.all_reduce(last)  # behind the others
    assert all(p.done() and p.error() is None and p.wait() and p.wait(0) for p in pending)
    assert "done" in repr(pending[0])
    return [float(x[0]) for x in buffers] + [float(last[0])]


def test_order_and_results() -> None:
    want = [float(2 * i + 1 if i % 2 else i + 1) for i in range(50)] + [2.0]
    assert values(job(ordered, 2)) == [want] * 2


def slices() -> List[Any]:
    comm = hfreduce.init()
    if comm.rank == 1:
        time.sleep(1.0)
    x = np.array([1.0])
    pending = comm.all_reduce(x, async_op=True)
    assert pending is not None
    early = pending.wait(0.2), pending.done(), pending.error()
    assert pending.wait()
    return [list(early) if comm.rank == 0 else None, float(x[0])]


def test_wait_with_a_timeout() -> None:
    assert values(job(slices, 2)) == [[[False, False, None], 2.0], [None, 2.0]]


def callbacks() -> List[Any]:
    comm = hfreduce.init()
    seen: List[Any] = []
    came = threading.Event()
    unraised: List[str] = []
    sys.unraisablehook = lambda about: unraised.append(str(about.exc_value))
    if comm.rank == 1:
        time.sleep(0.5)
    x = np.array([1.0])
    pending = comm.all_reduce(x, async_op=True)
    assert pending is not None

    def wrong(error: Any) -> None:
        raise RuntimeError("of the callback")

    def ended(error: Any) -> None:
        # What would wait for ever is refused: this may be the thread that runs the calls.
        for call in [lambda: comm.barrier(), lambda: comm.start("barrier").wait()]:
            try:
                call()
            except hfreduce.InvalidArgument as refused:
                seen.append("callback" in str(refused))
        seen.extend([error, x[0]])
        came.set()

    pending.then(wrong)
    pending.then(ended)
    assert came.wait(30)
    pending.then(lambda error: seen.append("late"))
    comm.barrier()
    comm.barrier()
    failed = comm.start("all_reduce", x, None, "band")
    gone = threading.Event()
    failed.then(lambda error: (seen.append(error.kind), gone.set()))
    assert gone.wait(30)
    # The second wait in `ended` may find its barrier done already, where the other rank came first.
    return [[s for s in seen if s is not True], unraised]


def test_callbacks() -> None:
    assert values(job(callbacks, 2)) == [[[None, 2.0, "late", "invalid_argument"], ["of the callback"]]] * 2


def released() -> int:
    comm = hfreduce.init()
    comm.barrier()
    if comm.rank == 1:
        time.sleep(1.0)
        comm.barrier()
        comm.start("barrier").wait()
        return 1
    counted = [0]
    stop = threading.Event()

    def count() -> None:
        while not stop.is_set():
            counted[0] += 1
            time.sleep(0.001)

    thread = threading.Thread(target=count)
    thread.start()
    comm.barrier()  # blocks for a second
    during = counted[0]
    comm.start("barrier").wait()
    stop.set()
    thread.join()
    return during


def test_blocking_calls_release_the_interpreter() -> None:
    # With the lock held the thread would count once or twice.
    assert values(job(released, 2))[0] > 20


def interrupted(where: str) -> bool:
    if os.environ["HFR_RANK"] == "1":
        if where == "init":
            return True
        comm = hfreduce.init()
        x = np.ones(1)
        time.sleep(3.0)
        comm.all_reduce(x)
        return True
    # A shell that runs the tests in the background has them ignore the signal.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    timer = threading.Timer(1.0, lambda: os.kill(os.getpid(), signal.SIGINT))
    started = time.monotonic()
    if where == "init":
        timer.start()
        try:
            hfreduce.init(connect_timeout=20)
        except KeyboardInterrupt:
            return time.monotonic() - started < 10
        return False
    comm = hfreduce.init()
    timer.start()
    pending = comm.all_reduce(np.ones(1), async_op=True)
    assert pending is not None
    try:
        pending.wait()
    except KeyboardInterrupt:
        early = not pending.done()
        # The call goes on, and so may the program.
        return pending.wait() and early
    return False


def test_interrupt_while_waiting() -> None:
    assert values(job(interrupted, 2, "wait")) == [True, True]


def test_interrupt_while_joining() -> None:
    assert values(job(interrupted, 2, "init"))[0] is True


def referenced() -> List[bool]:
    comm = hfreduce.init()
    if comm.rank == 1:
        time.sleep(1.0)
    x = np.full(4, 1.0 + comm.rank).view(Array)
    out = np.zeros(4).view(Array)
    pieces = [np.zeros(4).view(Array) for _ in range(2)]
    alive = [weakref.ref(o) for o in [x, out, *pieces]]
    pending = comm.start("all_reduce", x, out)
    comm.start("all_gather", x, pieces)  # nobody keeps this one
    pieces.clear()
    mean = weakref.ref(out)
    del x, out
    during = [r() is not None for r in alive]
    kept = mean()
    assert pending.wait() and kept is not None and kept[0] == 3.0
    del kept
    comm.barrier()
    comm.barrier()
    until = time.monotonic() + 20
    while any(r() is not None for r in alive) and time.monotonic() < until:
        comm.barrier() if comm.size == 1 else pending.wait()
        time.sleep(0.01)
    return [all(during) or comm.rank == 1, not any(r() is not None for r in alive)]


def test_buffers_live_until_the_end_and_no_longer() -> None:
    assert values(job(referenced, 2)) == [[True, True]] * 2
