"""Calls on streams that are refused, and calls that fail: in words, in bounded time, with the streams released. Over the stand-in driver."""

from __future__ import annotations

import os
import pathlib
import signal
import tempfile
import time
from typing import Any, Callable, List, Optional

import numpy as np

import hfreduce
from ranks import job, values
from standin import environment, needed
from test_collectives import of, same
from test_streams import Lane, Tensor

pytestmark = needed


def told(call: Callable[[], Any]) -> Optional[List[str]]:
    try:
        call()
    except (hfreduce.Error, TypeError, ValueError) as error:
        return [type(error).__name__, str(getattr(error, "kind", "")), str(error)]
    return None


def refused() -> List[Any]:
    comm = hfreduce.init()
    lane = Lane(comm)
    host, x, on = np.ones(4), lane.put(np.ones(4)), lane.first
    whole = lane.put(np.ones(8))

    def strange(**about: Any) -> Any:
        made = whole.part(0, 4)
        shown = {**made.__cuda_array_interface__, **about}
        return type("Strange", (), {"__cuda_array_interface__": shown, "dtype": np.dtype("f8")})()

    capturing = lane.cuda.stream()
    lane.cuda.capture(capturing)
    calls: List[Callable[[], Any]] = [
        lambda: comm.all_reduce(host, stream=on),
        lambda: comm.all_reduce(x, host, stream=on),
        lambda: comm.all_reduce(x),
        lambda: comm.all_reduce(Tensor(x)),
        lambda: comm.all_reduce(Tensor(x, contiguous=False), stream=on),
        lambda: comm.all_reduce(Tensor(x), Tensor(whole.cuda.array(np.ones(4)), 1), stream=on),
        lambda: comm.all_reduce(x, stream="first"),
        lambda: comm.all_reduce(x, stream=-1),
        lambda: comm.all_reduce(x, stream=capturing),
        lambda: comm.all_reduce(host, async_op=True).block(on),
        lambda: comm.all_reduce(x, async_op=True, stream=on).block(capturing),
        lambda: comm.all_reduce(strange(strides=(16,)), stream=on),
        lambda: comm.all_reduce(strange(data=(whole.at, True)), stream=on),
        lambda: comm.all_reduce(strange(data=whole.at), stream=on),
        lambda: comm.all_reduce(strange(data=(0, False)), stream=on),
        lambda: comm.all_reduce(strange(typestr=">f8"), stream=on),
        lambda: comm.all_reduce(strange(typestr="f8"), stream=on),
        lambda: comm.all_reduce(strange(shape=3), stream=on),
        lambda: comm.all_reduce(strange(mask=x), stream=on),
        lambda: comm.all_reduce(whole.part(0, 4), whole.part(2, 4), stream=on),
        lambda: comm.send(x, 1, stream=on),
    ]
    said = [told(call) for call in calls]
    lane.cuda.use(1)
    other = lane.cuda.array(np.ones(4))
    there = lane.cuda.stream()
    said.append(told(lambda: comm.all_reduce(other, stream=there)))
    lane.cuda.use(0)
    said.append(told(lambda: comm.all_reduce(x, other, stream=on)))
    # Nothing was started: the group is as good as before.
    comm.all_reduce(x, stream=on)
    same(x.read(on), np.ones(4), "afterwards")
    return said


REFUSED = [
    ("InvalidArgument", "the input lies in ordinary host memory, and the call is on a stream; pin the memory, or leave the stream out"),
    ("InvalidArgument", "the output lies in ordinary host memory"),
    ("InvalidArgument", "the input is in device memory; pass the stream"),
    ("InvalidArgument", "the input is on device cuda:0; pass the stream that its contents are ordered on"),
    ("InvalidArgument", "the input is not contiguous"),
    ("InvalidArgument", "one buffer is on device 0, another on device 1"),
    ("TypeError", "the stream is of type str; pass its handle"),
    ("InvalidArgument", "a stream's handle is a whole number from 0 on"),
    ("InvalidArgument", "recording a CUDA graph"),
    ("InvalidArgument", "was not put on a stream"),
    ("InvalidArgument", "recording a CUDA graph"),
    ("InvalidArgument", "not contiguous in C order"),
    ("InvalidArgument", "read-only"),
    ("TypeError", "data is no pair of an address and a truth value"),
    ("InvalidArgument", "has no memory"),
    ("InvalidArgument", "byte order"),
    ("TypeError", "typestr is not understood"),
    ("TypeError", "shape is no tuple"),
    ("InvalidArgument", "mask"),
    ("InvalidArgument", "overlap"),
    ("InvalidArgument", "rank 1 in a group of 1"),
    ("InvalidArgument", "device 1, and this communicator has worked on device 0"),
    ("InvalidArgument", "one buffer is on device 0, another on device 1"),
]


def test_what_is_refused() -> None:
    with environment(STANDIN_DEVICES="2") as env:
        (said,) = values(job(refused, 1, env=env))
    assert len(said) == len(REFUSED)
    for got, (kind, text) in zip(said, REFUSED):
        assert got is not None and got[0] == kind and text in got[2], (got, kind, text)
        assert "rank 0" in got[2]


def driverless() -> Any:
    comm = hfreduce.init()

    class There:
        __cuda_array_interface__ = {"shape": (4,), "typestr": "<f4", "data": (4096, False), "version": 3}

    said = told(lambda: comm.all_reduce(There(), stream=0))
    x = np.full(4, 1.0)
    comm.all_reduce(x)
    return [said, told(lambda: comm.all_reduce(x, stream=0)), x.tolist()]


def test_without_a_driver() -> None:
    with tempfile.TemporaryDirectory() as folder:
        # Whatever the machine has: this is no library.
        (pathlib.Path(folder) / "libcuda.so.1").write_text("none")
        (pathlib.Path(folder) / "libcuda.so").write_text("none")
        ((device, host, x),) = values(job(driverless, 1, env={"LD_LIBRARY_PATH": folder}))
    assert device[:2] == ["Error", "device"] and "libcuda.so.1" in device[2] and "all_reduce" in device[2], device
    assert host[0] == "InvalidArgument" and "ordinary host memory" in host[2] and x == [1.0] * 4, host


def killed() -> List[Any]:
    comm = hfreduce.init()
    lane = Lane(comm)
    x = lane.put(of(comm.rank, 1000, "f4"))
    comm.all_reduce(x, stream=lane.first)
    lane.cuda.synchronize(lane.first)
    if comm.rank == 2:
        # The others may still be on their way out of the first call.
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    pending = comm.all_reduce(x, async_op=True, stream=lane.first)
    assert pending is not None
    pending.block(lane.first)
    pending.block(lane.second)
    # Both streams go on, whatever became of the call.
    lane.cuda.synchronize(lane.first)
    lane.cuda.synchronize(lane.second)
    return [told(pending.wait), told(lambda: pending.block(lane.first)), told(lambda: comm.all_reduce(x, stream=lane.first) or comm.barrier())]


def test_a_killed_rank_releases_the_streams() -> None:
    with environment() as env:
        ended = job(killed, 3, env=env, fails=True)
    assert [e.code for e in ended[:2]] == [0, 0], ended
    for said in values(ended[:2]):
        assert all(s is not None and s[1] == "peer_lost" and "rank 2" in s[2] for s in said), said


def late() -> List[Any]:
    comm = hfreduce.init(timeout=1.0)
    lane = Lane(comm)
    x = lane.put(of(comm.rank, 1000, "f4"))
    # Whoever wants a stream to wait for the first call of a kind waits on the host.
    first = comm.all_reduce(x, async_op=True, stream=lane.first)
    assert first is not None and first.wait()
    if comm.rank == 1:
        until = time.monotonic() + 30
        while comm.failure() is None and time.monotonic() < until:
            time.sleep(0.05)

    def call() -> None:
        pending = comm.all_reduce(x, async_op=True, stream=lane.first)
        assert pending is not None
        pending.block(lane.first)
        pending.wait()

    said = told(call)
    lane.cuda.synchronize(lane.first)
    return [said]


def test_a_rank_that_does_not_come_releases_the_streams() -> None:
    with environment() as env:
        for said in values(job(late, 2, env=env)):
            assert said[0][1] == "timeout", said


def broken() -> List[Any]:
    comm = hfreduce.init()
    lane = Lane(comm)
    x = lane.put(of(comm.rank, 1000, "f4"))
    said = None
    for _ in range(30):
        said = said or told(lambda: comm.all_reduce(x, async_op=True, stream=lane.first).wait())
    return [said, told(comm.barrier)]


def test_a_device_that_fails_ends_the_group() -> None:
    with environment(STANDIN_FAIL="copy:20") as env:
        for first, again in values(job(broken, 2, env=env)):
            assert first is not None and again is not None, (first, again)
            assert "device" in {first[1], again[1]}, (first, again)
