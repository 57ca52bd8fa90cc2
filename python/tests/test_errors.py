"""Failures of a group: the same exception on every rank, in bounded time, and the process goes on."""

from __future__ import annotations

import os
import signal
import time
from typing import Any, Callable, Dict, List

import numpy as np

import hfreduce
from ranks import job, values


def told(call: Callable[[], Any]) -> Dict[str, Any]:
    try:
        call()
    except hfreduce.Error as error:
        return {"kind": error.kind, "rank": error.rank, "peer": error.peer, "operation": error.operation, "text": str(error)}
    return {}


def mismatch(what: str) -> List[Dict[str, Any]]:
    comm = hfreduce.init()
    odd = comm.rank == 1
    calls: Dict[str, Callable[[], Any]] = {
        "count": lambda: comm.all_reduce(np.ones(11 if odd else 10)),
        "dtype": lambda: comm.all_reduce(np.ones(10, "f4" if odd else "i4")),
        "op": lambda: comm.all_reduce(np.ones(10), op="max" if odd else "sum"),
        "collective": lambda: comm.broadcast(np.ones(10)) if odd else comm.all_reduce(np.ones(10)),
    }
    first = told(calls[what])
    again = told(comm.barrier)
    failure = comm.failure()
    assert failure is not None and str(failure) == first["text"]
    return [first, again]


def check_alike(all: List[List[Dict[str, Any]]], kind: str) -> None:
    first = all[0][0]
    assert first["kind"] == kind, first
    for one in all:
        assert one == [first, first]


def test_mismatches_are_the_same_everywhere() -> None:
    for what in ["count", "dtype", "op", "collective"]:
        check_alike(values(job(mismatch, 3, what)), "mismatch")


def disagree() -> List[Any]:
    comm = hfreduce.init()
    n = 5 if comm.rank == 0 else 6
    error = told(lambda: comm.all_to_all_v([np.ones(n)] * 2, [np.ones(5), np.ones(5)]))
    x = np.array([1.0])
    comm.all_reduce(x)
    return [error.get("kind"), error.get("text"), float(x[0])]


def test_all_to_all_v_that_disagrees_changes_nothing() -> None:
    one, other = values(job(disagree, 2))
    assert one == other and one[0] == "invalid_argument" and one[2] == 2.0


def killed() -> List[Dict[str, Any]]:
    comm = hfreduce.init()
    comm.barrier()
    if comm.rank == 2:
        # The others may still be on their way out of the barrier.
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    return [told(lambda: comm.all_reduce(np.ones(1000))), told(comm.barrier)]


def test_a_killed_rank() -> None:
    ended = job(killed, 3, fails=True)
    assert [e.code for e in ended] == [0, 0, -signal.SIGKILL], ended
    check_alike(values(ended[:2]), "peer_lost")
    assert "rank 2" in ended[0].value[0]["text"]


def late(async_op: bool) -> List[Dict[str, Any]]:
    comm = hfreduce.init(timeout=1.0)
    comm.barrier()
    if comm.rank == 1:
        until = time.monotonic() + 30
        while comm.failure() is None and time.monotonic() < until:
            time.sleep(0.05)
    if async_op:
        pending = comm.all_reduce(np.ones(1000), async_op=True)
        assert pending is not None
        errors = [told(pending.wait), told(comm.barrier)]
        assert pending.done() and str(pending.error()) == errors[0]["text"]
        return errors
    return [told(lambda: comm.all_reduce(np.ones(1000))), told(comm.barrier)]


def test_a_rank_that_does_not_come() -> None:
    for async_op in [False, True]:
        all = values(job(late, 2, async_op))
        check_alike(all, "timeout")
        assert all[0][0]["operation"].startswith("all_reduce")


def aborted() -> List[Dict[str, Any]]:
    comm = hfreduce.init()
    comm.barrier()
    if comm.rank == 0:
        # The other rank may still be on its way out of the barrier, which the abort would end too.
        time.sleep(0.5)
        comm.abort("the loss is not a number")
    return [told(lambda: comm.all_reduce(np.ones(1000))), told(comm.barrier)]


def test_abort() -> None:
    all = values(job(aborted, 2))
    check_alike(all, "aborted")
    assert "the loss is not a number" in all[0][0]["text"]


def nobody() -> Dict[str, Any]:
    return told(lambda: hfreduce.init(connect_timeout=1.0)) if os.environ["HFR_RANK"] == "0" else {}


def test_ranks_that_never_come() -> None:
    ended = job(nobody, 2)
    assert ended[0].value["kind"] == "start" and "1" in ended[0].value["text"]
