"""Plays the ranks of a job as processes: starts them, gives each its place in a process group, collects what they return.

Knows torch.distributed and no test. Invariant: when `play` returns or raises, none of its processes is left.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import signal
import sys
import time
import traceback
from datetime import timedelta
from multiprocessing.connection import wait
from typing import Any, Callable, Dict, List, Optional

import torch
import torch.distributed as dist

# What to test; "gloo" checks the tests themselves.
BACKEND = os.environ.get("HFR_TEST_BACKEND", "hfr")
# A rank that was killed, as `play` reports it.
KILLED = "killed"


class Place:
    """Where a process belongs: everything it needs to join the group, and how to say what came out."""

    def __init__(self, rank: int, world: int, port: int, seconds: float, env: Dict[str, str], backend: str, timeout: float) -> None:
        self.rank, self.world, self.port, self.seconds = rank, world, port, seconds
        self.env, self.backend, self.timeout = env, backend, timeout

    def store(self) -> dist.Store:
        return dist.TCPStore("127.0.0.1", self.port, is_master=False, timeout=timedelta(seconds=self.seconds))

    def join(self, store: Optional[dist.Store] = None) -> None:
        dist.init_process_group(
            self.backend, store=store or self.store(), rank=self.rank, world_size=self.world, timeout=timedelta(seconds=self.timeout)
        )


def play(
    world: int,
    act: Callable[..., Any],
    *args: Any,
    seconds: float = 60.0,
    timeout: float = 30.0,
    env: Optional[Dict[str, str]] = None,
    env_of: Optional[Callable[[int], Dict[str, str]]] = None,
    backend: str = BACKEND,
    init: bool = True,
) -> List[Any]:
    """Runs `act(rank, world, *args)` in `world` processes with a process group around it, and returns what each returned.

    Without `init`, calls `act(place, *args)` and leaves the group to it. A process that kills itself counts as `KILLED`.
    """
    context = multiprocessing.get_context("forkserver")
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    processes, pipes = [], []
    for rank in range(world):
        ours, theirs = context.Pipe(duplex=False)
        extra = {**(env or {}), **(env_of(rank) if env_of else {})}
        place = Place(rank, world, store.port, seconds, extra, backend, timeout)
        process = context.Process(target=_rank, args=(place, theirs, init, act, args))
        process.start()
        theirs.close()
        processes.append(process)
        pipes.append(ours)
    try:
        return _collect(processes, pipes, time.monotonic() + seconds)
    finally:
        for process in processes:
            process.kill()
            process.join()


def _rank(place: Place, pipe: Any, init: bool, act: Callable[..., Any], args: tuple) -> None:
    faulthandler.dump_traceback_later(max(place.seconds - 5.0, 1.0), exit=False, file=sys.__stderr__)
    os.environ.update(RANK=str(place.rank), WORLD_SIZE=str(place.world), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(place.port), **place.env)
    torch.set_num_threads(1)
    try:
        if init:
            place.join()
            result = act(place.rank, place.world, *args)
            dist.destroy_process_group()
        else:
            result = act(place, *args)
        pipe.send((True, result))
    except BaseException:
        pipe.send((False, traceback.format_exc()))


def _collect(processes: List[Any], pipes: List[Any], until: float) -> List[Any]:
    results: Dict[int, Any] = {}
    failures: List[str] = []
    while len(results) < len(pipes):
        open_pipes = [pipe for rank, pipe in enumerate(pipes) if rank not in results]
        ready = wait(open_pipes, timeout=max(until - time.monotonic(), 0.0))
        if not ready:
            silent = [rank for rank in range(len(pipes)) if rank not in results]
            raise AssertionError("\n".join([f"ranks {silent} did not end in time"] + failures))
        for pipe in ready:
            rank = pipes.index(pipe)
            try:
                good, results[rank] = pipe.recv()
            except EOFError:
                processes[rank].join()
                good, results[rank] = processes[rank].exitcode == -signal.SIGKILL, KILLED
                if not good:
                    results[rank] = f"ended with exit code {processes[rank].exitcode}"
            if not good:
                failures.append(f"rank {rank}: {results[rank]}")
    if failures:
        raise AssertionError("\n".join(failures))
    return [results[rank] for rank in range(len(pipes))]


def error_of(call: Callable[..., Any], *args: Any, **kwargs: Any) -> BaseException:
    """The error that a call raises; an AssertionError when it raises none."""
    try:
        call(*args, **kwargs)
    except Exception as error:
        return error
    raise AssertionError("the call should have failed")


def numbers(rank: int, count: int, dtype: torch.dtype = torch.float32, top: int = 5) -> torch.Tensor:
    """Values from 1 to `top`, different on each rank and in each place, small enough that every type adds them exactly."""
    values = (torch.arange(count) * 7 + rank * 3 + count) % top + 1
    return values.to(dtype)


def same(got: torch.Tensor, wanted: torch.Tensor) -> None:
    """Equal in shape, type and every element."""
    assert got.shape == wanted.shape and got.dtype == wanted.dtype, f"{got.shape} {got.dtype}, not {wanted.shape} {wanted.dtype}"
    wide = torch.complex128 if got.is_complex() else torch.float64
    if not torch.equal(got.to(wide), wanted.to(wide)):
        raise AssertionError(f"{got.flatten()[:20]}, not {wanted.flatten()[:20]}")
