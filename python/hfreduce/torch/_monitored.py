"""The monitored barrier: who has arrived is written into torch's store, so that a rank that did not come can be named.

Knows nothing of the communicator, which stays usable whatever comes out. Invariant: rank 0 alone judges, and every rank that hears its
verdict raises the same error.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any, List

_PASSED = b"passed"
# By how much a rank waits longer for the verdict than rank 0 may take for it.
_GRACE_SECONDS = 5.0


def monitored_barrier(store: Any, number: int, rank: int, size: int, limit: float, wait_all_ranks: bool) -> None:
    """Returns when all ranks are here; `number` counts the group's monitored barriers."""
    prefix = f"hfreduce/monitored/{number}"
    store.set(f"{prefix}/{rank}", b"here")
    verdict = f"{prefix}/verdict"
    if rank == 0:
        missing = _missing(store, prefix, size, limit, wait_all_ranks)
        text = _PASSED if not missing else _describe(missing, limit, wait_all_ranks).encode()
        store.set(verdict, text)
    else:
        if not _comes(store, f"{prefix}/0", limit):
            raise RuntimeError(f"rank {rank}: rank 0 did not reach the monitored barrier within {limit:g} s; look at what rank 0 is doing")
        if not _comes(store, verdict, limit + _GRACE_SECONDS):
            raise RuntimeError(f"rank {rank}: no verdict on the monitored barrier from rank 0; look at whether rank 0 still lives")
        text = store.get(verdict)
    if text != _PASSED:
        raise RuntimeError(f"rank {rank}: {text.decode()}")


def _missing(store: Any, prefix: str, size: int, limit: float, wait_all_ranks: bool) -> List[int]:
    until = time.monotonic() + limit
    missing: List[int] = []
    for rank in range(1, size):
        if not _comes(store, f"{prefix}/{rank}", max(until - time.monotonic(), 0.001)):
            missing.append(rank)
            if not wait_all_ranks:
                break
    return missing


def _comes(store: Any, key: str, limit: float) -> bool:
    """Whether a key is set in time. The kind of error that a wait ends with depends on the store, so the store is asked again."""
    try:
        store.wait([key], timedelta(seconds=limit))
        return True
    except RuntimeError:
        return store.check([key])


def _describe(missing: List[int], limit: float, wait_all_ranks: bool) -> str:
    who = ("rank " if len(missing) == 1 else "ranks ") + ", ".join(map(str, missing))
    note = "" if wait_all_ranks else " (the first one found; wait_all_ranks=True names all)"
    return f"{who} did not reach the monitored barrier within {limit:g} s{note}"
