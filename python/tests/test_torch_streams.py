"""The PyTorch backend's calls on CUDA tensors, in the order of streams, without a GPU: the backend's own methods over the stand-in driver.

No torch with a GPU is here, so `_cuda` is replaced by streams of the stand-in, and tensors by objects that answer as CUDA tensors do. This
shows which stream waits for what, and that the host waits for nothing; what torch itself makes of it (futures, DDP, the allocator) is for
tests/gpu.
"""

from __future__ import annotations

import contextlib
import ctypes
import time
from datetime import timedelta
from typing import Any, Callable, Iterator, List, Optional

import numpy as np
import pytest

pytest.importorskip("torch")

import hfreduce  # noqa: E402
from ranks import job, values  # noqa: E402
from standin import Array, Cuda, environment, needed  # noqa: E402
from test_collectives import folded, of, same  # noqa: E402
from test_streams import Tensor  # noqa: E402

pytestmark = needed


class Moment:
    """An event of the stand-in."""

    def __init__(self, cuda: Cuda, stream: int) -> None:
        self.cuda, self.event = cuda, ctypes.c_void_p()
        cuda("cuEventCreate", ctypes.byref(self.event), 2)
        cuda("cuEventRecord", self.event, ctypes.c_void_p(stream))

    def follow(self, stream: int) -> None:
        self.cuda("cuStreamWaitEvent", ctypes.c_void_p(stream), self.event, 0)

    def synchronize(self) -> None:
        self.cuda("cuEventSynchronize", self.event)


class Whole(Tensor):
    """A CUDA tensor, as much as a message to itself needs of it."""

    def __init__(self, place: "Place", values: np.ndarray) -> None:
        super().__init__(place.cuda.array(values, place.stream))
        self.place = place

    def view_as(self, _other: "Whole") -> "Whole":
        return self

    def copy_(self, other: "Whole") -> None:
        size, stream = ctypes.c_size_t(self.array.nbytes), ctypes.c_void_p(self.place.stream)
        self.place.cuda("cuMemcpyDtoDAsync_v2", ctypes.c_uint64(self.array.at), ctypes.c_uint64(other.array.at), size, stream)

    def read(self) -> np.ndarray:
        """As work on the current stream finds it."""
        return self.array.read(self.place.stream)


Whole.__module__, Whole.__qualname__ = "torch", "Tensor"


class Place:
    """A rank with a group of the backend, and the current stream, which tests change."""

    def __init__(self, wrapped: bool = False, timeout: Optional[float] = None) -> None:
        import torch

        from hfreduce.torch import _cuda
        from hfreduce.torch._collectives import Collectives

        self.cuda = Cuda()
        self.stream, self.other = self.cuda.stream(), self.cuda.stream()
        self.futures: List[int] = []
        device = torch.device("cuda", 0)

        def device_of(*sides: Any) -> Optional[torch.device]:
            for side in sides:
                first = side[0] if isinstance(side, (list, tuple)) and side else side
                if first is not None:
                    return device if isinstance(first, Tensor) else None
            return None

        def future(_device: Any, side: Any, block: Callable[[int], None], value: Any) -> torch.futures.Future:
            block(side.cuda_stream)
            self.futures.append(side.cuda_stream)
            made: torch.futures.Future = torch.futures.Future()
            made.set_result(value)
            return made

        _cuda.device_of = device_of
        _cuda.current = lambda _device: self.stream
        _cuda.future = future
        _cuda.side = lambda _device: type("Side", (), {"cuda_stream": self.cuda.stream()})()
        _cuda.moment = lambda _device: Moment(self.cuda, self.stream)
        _cuda.follow = lambda _device, moment: moment.follow(self.stream)
        _cuda.here = lambda _device: contextlib.nullcontext()
        self.group = type("Group", (Collectives,), {"wrapped": wrapped})()
        options = type("Options", (), {"store": None, "timeout": timedelta(seconds=30)})()
        self.comm = hfreduce.init(timeout=timeout)
        self.group._begin(self.comm, options)
        self.rank, self.size = self.comm.rank, self.comm.size

    @contextlib.contextmanager
    def on(self, stream: int) -> Iterator[None]:
        before, self.stream = self.stream, stream
        yield
        self.stream = before

    def put(self, seed: int = 0, count: int = 70_001) -> Whole:
        return Whole(self, of(self.rank, count, "f4", seed=seed))

    def sum(self, seed: int = 0, count: int = 70_001) -> np.ndarray:
        return folded("sum", [of(r, count, "f4", seed=seed) for r in range(self.size)])


def options(kind: str, asynchronous: bool, **fields: Any) -> Any:
    import torch

    made = getattr(torch._C._distributed_c10d, kind)()
    made.asyncOp = asynchronous
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def order() -> None:
    place = Place()
    group, size = place.group, place.size
    for seed in range(4):
        x = place.put(seed)
        assert group.allreduce([x], options("AllreduceOptions", False)) is None
        same(x.read(), place.sum(seed), "the current stream has waited")
    for ask in ["wait", "synchronize", "block_current_stream"]:
        x = place.put(7)
        work = group.allreduce([x], options("AllreduceOptions", True))
        with place.on(place.other):
            # Not the stream of the call: the one that is current now.
            assert getattr(work, ask)() in (True, None)
            same(x.read(), place.sum(7), ask)
    x = place.put(8)
    work = group.allreduce([x], options("AllreduceOptions", True))
    assert work.get_future().done() and work.get_future().value() == [x] and len(place.futures) == 1
    with place.on(place.futures[0]):
        same(x.read(), place.sum(8), "the future's stream")
    assert work.wait(timedelta(seconds=20)) and work.is_completed() and work.is_success() and work.exception() is None
    out = Whole(place, np.ones(70_001 * size, "f4"))
    group.all_gather_single(out, x, options("AllgatherOptions", False))
    same(out.read(), np.tile(place.sum(8), size), "all_gather")
    out = place.put(9)
    whole = Whole(place, np.concatenate([of(place.rank, 70_001, "f4", seed=r) for r in range(size)]))
    group.reduce_scatter_single(out, whole, options("ReduceScatterOptions", True)).wait()
    same(out.read(), place.sum(place.rank), "reduce_scatter")
    many = [place.put(seed) for seed in range(3)]
    group.allreduce_coalesced(many, options("AllreduceCoalescedOptions", False))
    for seed, x in enumerate(many):
        same(x.read(), place.sum(seed), "coalesced")
    group.start_coalescing()
    started = [place.put(seed) for seed in range(3)]
    for x in started:
        group.broadcast([x], options("BroadcastOptions", True, rootRank=1))
    work = group.end_coalescing()
    with place.on(place.other):
        work.wait()
        for seed, x in enumerate(started):
            same(x.read(), of(1, 70_001, "f4", seed=seed), "batch")
    right, left = (place.rank + 1) % size, (place.rank - 1) % size
    x, out = place.put(3), place.put(4)
    works = [group.send([x], right, 5), group.recv([out], left, 5)]
    for work in works:
        work.wait()
    same(out.read(), of(left, 70_001, "f4", seed=3), "message")
    place.comm.barrier()


def test_streams_wait_in_order() -> None:
    with environment(STANDIN_DELAY_US="1000") as env:
        job(order, 2, env=env)


def free() -> bool:
    place = Place()
    # The first call of a kind is waited for on the host.
    place.group.allreduce([place.put()], options("AllreduceOptions", False))
    x, y = place.put(), place.put(1)
    place.cuda.synchronize(place.stream)
    place.comm.barrier()
    if place.rank == 1:
        time.sleep(2.0)
    began = time.monotonic()
    place.group.allreduce([x], options("AllreduceOptions", False))
    work = place.group.allreduce([y], options("AllreduceOptions", True))
    future = work.get_future()
    work.wait()
    work.block_current_stream()
    quick = time.monotonic() - began < 1.5 and future.done()
    waiting = place.rank == 1 or (not work.is_completed() and not place.cuda.idle(place.stream))
    same(x.read(), place.sum(), "first")
    same(y.read(), place.sum(1), "second")
    return quick and waiting


def test_the_host_waits_for_nothing() -> None:
    with environment() as env:
        assert values(job(free, 2, env=env)) == [True, True]


def barriers() -> List[bool]:
    import torch

    place = Place()
    x = place.put()
    place.comm.barrier()
    if place.rank == 1:
        time.sleep(1.0)
    # Behind the current stream, and the host waits.
    began = time.monotonic()
    opts = options("BarrierOptions", False, device=torch.device("cuda", 0))
    assert place.group.barrier(opts) is None
    waited = time.monotonic() - began
    quiet = place.cuda.idle(place.stream)
    work = place.group.barrier(options("BarrierOptions", True, device_ids=[0]))
    assert work.wait()
    assert place.group.barrier(options("BarrierOptions", False, device=torch.device("cpu"))) is None
    same(x.read(), of(place.rank, 70_001, "f4"), "untouched")
    return [waited > 0.5 or place.rank == 1, quiet]


def test_barriers_block_the_host() -> None:
    with environment() as env:
        assert values(job(barriers, 2, env=env)) == [[True, True]] * 2


def itself() -> None:
    place = Place()
    first, second = place.put(1), place.put(2)
    with place.on(place.other):
        late = Whole(place, of(5, 70_001, "f4"))
        sending = place.group.send([late], place.rank, 3)
    receiving = place.group.recv([first], place.rank, 3)
    receiving.wait()
    same(first.read(), of(5, 70_001, "f4"), "received")
    with place.on(place.other):
        sending.wait()
    # The other way around: the receiver is there first, and its future is for the host.
    receiving = place.group.recv([second], place.rank, 0)
    future = receiving.get_future()
    assert not future.done() and not receiving.is_completed()
    place.group.send([first], place.rank, 0).wait()
    assert future.done()
    receiving.wait()
    same(second.read(), of(5, 70_001, "f4"), "received behind")
    wrong = place.group.recv([second], place.rank, 1)
    place.group.send([first], place.rank, 2)
    with pytest.raises(ValueError, match="tag 2"):
        wrong.wait()
    with pytest.raises(RuntimeError, match="tag 2"):
        wrong.get_future().wait()


def test_messages_to_itself() -> None:
    with environment(STANDIN_DELAY_US="1000") as env:
        job(itself, 1, env=env)


def mixed() -> None:
    place = Place()
    for turn in range(4):
        if (place.rank + turn) % 2:
            x = place.put(turn)
            place.group.allreduce([x], options("AllreduceOptions", False))
            same(x.read(), place.sum(turn), "device")
        else:
            import torch

            host = torch.from_numpy(of(place.rank, 70_001, "f4", seed=turn))
            place.group.allreduce([host], options("AllreduceOptions", False))
            same(host.numpy(), place.sum(turn), "host")


def test_cpu_tensors_on_one_rank_and_cuda_tensors_on_another() -> None:
    with environment() as env:
        job(mixed, 2, env=env)


def limits(how: str) -> str:
    place = Place()
    x = place.put()
    place.comm.barrier()
    if place.rank == 1:
        until = time.monotonic() + 30
        while place.comm.failure() is None and time.monotonic() < until:
            time.sleep(0.05)
        return str(place.comm.failure())
    given = {"timeout": timedelta(seconds=1)} if how == "call" else {}
    if how == "group":
        place.group.set_timeout(timedelta(seconds=1))
    work = place.group.allreduce([x], options("AllreduceOptions", True, **given))
    if how == "wait":
        with pytest.raises(RuntimeError, match="did not end within the 1 s"):
            work.wait(timedelta(seconds=1))
    else:
        work.wait()  # the stream's wait, at once
    # The stream goes on when the group has ended.
    place.cuda.synchronize(place.stream)
    until = time.monotonic() + 30
    while place.comm.failure() is None and time.monotonic() < until:
        time.sleep(0.05)
    with pytest.raises(hfreduce.Error, match="did not end within the 1 s"):
        work.wait()
    with pytest.raises(RuntimeError, match="did not end within the 1 s"):
        work.get_future().wait()
    with pytest.raises(hfreduce.Error, match="did not end within the 1 s"):
        place.group.allreduce([place.put(1)], options("AllreduceOptions", True)).wait(timedelta(seconds=20))
    assert place.group.watch._entries == [] or how == "group"
    return str(place.comm.failure())


@pytest.mark.parametrize("how", ["call", "group", "wait"])
def test_limits_end_the_group_and_release_the_stream(how: str) -> None:
    with environment() as env:
        one, other = values(job(limits, 2, how, env=env))
    assert one == other and "all_reduce" in one and "rank 0" in one, (one, other)


def wrapped() -> List[int]:
    """Torch's own block_current_stream asks a wrapped Work for a future, and counts on the stream to be held up."""
    import _thread

    place = Place(wrapped=True)
    x = place.put()
    work = place.group.allreduce([x], options("AllreduceOptions", True))
    blocked: List[int] = []
    block = work._block
    work._block = lambda stream: (blocked.append(stream), block(stream))
    asked = getattr(work, "get_future")

    def hook() -> None:
        work.get_future()

    def user() -> None:
        # The frame that a caller of torch's block_current_stream has.
        asked() and work.block_current_stream

    def unknown() -> None:
        asked()

    counts = []
    for ask in [hook, user, unknown]:
        ask()
        counts.append(blocked.count(place.stream))
    # C++, from a thread without Python.
    ended = _thread.start_new_thread(asked, ())
    time.sleep(1.0)
    counts.append(blocked.count(place.stream))
    assert ended and len(blocked) == counts[-1] + 1 and len(place.futures) == 1, blocked
    same(x.read(), place.sum(), "blocked")
    return counts


def test_a_wrapped_work_blocks_the_stream_that_asks_for_it() -> None:
    with environment() as env:
        assert values(job(wrapped, 2, env=env)) == [[0, 1, 2, 2]] * 2


def known() -> List[str]:
    import os
    import signal

    place = Place()
    x = place.put()
    place.group.allreduce([x], options("AllreduceOptions", False))
    place.cuda.synchronize(place.stream)
    if place.rank == 2:
        # The others may still be on their way out of the first call.
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    works = [place.group.allreduce([x], options("AllreduceOptions", True)) for _ in range(2)]
    works[0].wait()
    place.cuda.synchronize(place.stream)
    said = []
    until = time.monotonic() + 30
    while not all(work.is_completed() for work in works) and time.monotonic() < until:
        time.sleep(0.01)
    for act in [works[1].wait, works[1].get_future().wait, works[0].block_current_stream]:
        try:
            act()
        except Exception as error:
            said.append(str(error))
    assert works[0].exception() is not None and not works[0].is_success()
    return said


def test_a_killed_rank() -> None:
    with environment() as env:
        ended = job(known, 3, env=env, fails=True)
    assert [e.code for e in ended[:2]] == [0, 0], ended
    for said in values(ended[:2]):
        assert len(said) == 3 and all("rank 2" in text for text in said), said
