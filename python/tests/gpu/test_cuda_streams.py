"""The order of streams on a real GPU: who waits for what, memory that comes and goes, graphs, and errors that release the stream."""

import os
import signal
import time

import pytest
import torch
import torch.distributed as dist

from place import device_of, nap, on_gpu, summed
from ranks import KILLED, error_of, play, same

COUNT = 1_000_003


def late_input(rank: int, world: int) -> None:
    """The input is written by the stream long after the call was made."""
    device_of(rank)
    for turn in range(4):
        tensor = torch.zeros(COUNT, device="cuda")
        source = on_gpu(rank + turn, COUNT)
        nap()
        tensor.copy_(source)
        dist.all_reduce(tensor)
        # No wait on the host: what is read is ordered by the stream alone.
        same(tensor, sum(on_gpu(r + turn, COUNT) for r in range(world)))


def streams(rank: int, world: int) -> None:
    device_of(rank)
    one, other = torch.cuda.Stream(), torch.cuda.Stream()
    for ask in ("wait", "block_current_stream"):
        with torch.cuda.stream(one):
            tensor = torch.zeros(COUNT, device="cuda")
            source = on_gpu(rank, COUNT)
            nap()
            tensor.copy_(source)
            work = dist.all_reduce(tensor, async_op=True)
        with torch.cuda.stream(other):
            getattr(work, ask)()
            copy = tensor * 1
            tensor.record_stream(other)
        other.synchronize()
        same(copy, summed(world, COUNT))
    work = dist.all_reduce(on_gpu(rank, COUNT), async_op=True)
    doubled = work.get_future().then(lambda future: future.value()[0] * 2)
    same(doubled.wait(), summed(world, COUNT) * 2)


def overwritten(rank: int, world: int) -> None:
    """What is put on the stream behind the call does not reach its input."""
    device_of(rank)
    source, tensor = on_gpu(rank, COUNT), on_gpu(rank, COUNT)
    for _ in range(10):
        out = torch.empty(world * COUNT, device="cuda")
        dist.all_gather_into_tensor(out, tensor)
        tensor.fill_(7)
        tensor.copy_(source)
        same(out, torch.cat([on_gpu(r, COUNT) for r in range(world)]))


def dropped(rank: int, world: int) -> None:
    """The allocator gets no memory back that a call still uses."""
    device_of(rank)
    sums = []
    for turn in range(30):
        tensor = on_gpu(rank, COUNT)
        work = dist.all_reduce(tensor, async_op=True)
        sums.append(work.get_future().then(lambda future: future.value()[0].double().sum()))
        dist.all_reduce(on_gpu(rank, COUNT // 2), async_op=True)
        del tensor, work
        torch.full((COUNT,), float(turn), device="cuda")
    wanted = summed(world, COUNT).double().sum().item()
    assert [total.item() for total in torch.futures.wait_all(sums)] == [wanted] * 30
    dist.barrier(device_ids=[torch.cuda.current_device()])


def unblocked(rank: int, world: int) -> None:
    device_of(rank)
    tensor = on_gpu(rank, COUNT)
    dist.all_reduce(tensor)
    torch.cuda.synchronize()
    dist.barrier()
    if rank == 1:
        time.sleep(2.0)
    began = time.monotonic()
    dist.all_reduce(tensor)
    work = dist.all_reduce(tensor, async_op=True)
    work.wait()
    assert time.monotonic() - began < 1.0, "the host waited"
    assert rank == 1 or not torch.cuda.current_stream().query()
    same(tensor, summed(world, COUNT) * world * world)


def graphs(rank: int, world: int) -> None:
    device_of(rank)
    tensor = on_gpu(rank, 1000)
    dist.all_reduce(tensor)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    text = ""
    try:
        with torch.cuda.graph(graph, capture_error_mode="relaxed"):
            text = str(error_of(dist.all_reduce, tensor))
    except RuntimeError:
        # An empty graph, which some versions refuse to end.
        pass
    assert "graph" in text, text
    torch.cuda.synchronize()
    same(tensor, summed(world, 1000))
    dist.all_reduce(tensor)
    same(tensor, summed(world, 1000) * world)


def native(rank: int, world: int) -> None:
    """The package's own calls on torch tensors."""
    import hfreduce

    device_of(rank)
    identity = [hfreduce.UniqueId.create().to_bytes() if rank == 0 else None]
    dist.broadcast_object_list(identity)
    with hfreduce.join(identity[0], rank, world, gpu=True) as comm:
        one, other = torch.cuda.Stream(), torch.cuda.Stream()
        with torch.cuda.stream(one):
            tensor = torch.zeros(COUNT, device="cuda")
            source = on_gpu(rank, COUNT)
            nap()
            tensor.copy_(source)
            comm.all_reduce(tensor, stream=one)
            pending = comm.all_reduce(tensor, async_op=True, stream=one.cuda_stream)
        pending.block(other)
        with torch.cuda.stream(other):
            copy = tensor * 1
        other.synchronize()
        same(copy, summed(world, COUNT) * world)
        pinned = torch.ones(100).pin_memory()
        comm.all_reduce(pinned, stream=one)
        one.synchronize()
        same(pinned, torch.full((100,), float(world)))
        assert "ordinary host memory" in str(error_of(comm.all_reduce, torch.ones(100), stream=one))
        assert "pass the stream" in str(error_of(comm.all_reduce, tensor))
        reducer = hfreduce.Reducer(comm, torch.float32)
        reducer.register("weight", COUNT)
        fused = torch.zeros(reducer.total(), device="cuda")
        torch.cuda.synchronize()
        reducer.set_fused_dest(fused)
        with torch.cuda.stream(one):
            reducer.async_reduce("weight", on_gpu(rank, COUNT), stream=one)
            assert reducer.synchronize(stream=one) == ["weight"]
            same(fused, summed(world, COUNT))


@pytest.mark.parametrize("act", [late_input, streams, overwritten, dropped, unblocked, graphs, native])
def test(act) -> None:
    play(2, act, seconds=120)


def dies(rank: int, world: int) -> str:
    device_of(rank)
    tensor = on_gpu(rank, COUNT)
    dist.all_reduce(tensor)
    torch.cuda.synchronize()
    if rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    dist.all_reduce(tensor, async_op=True).wait()
    # The stream is released, and the host is not held up.
    torch.cuda.synchronize()
    return str(error_of(lambda: [(dist.all_reduce(tensor), time.sleep(0.1)) for _ in range(100)]))


def test_a_killed_rank() -> None:
    began = time.monotonic()
    texts = play(3, dies)
    assert texts[1] == KILLED and all("rank 1" in text for text in (texts[0], texts[2])), texts
    assert time.monotonic() - began < 50


def late(rank: int, world: int) -> str:
    device_of(rank)
    tensor = on_gpu(rank, COUNT)
    dist.all_reduce(tensor)
    torch.cuda.synchronize()
    if rank == 1:
        time.sleep(6)
        return str(error_of(lambda: [(dist.all_reduce(tensor), time.sleep(0.1)) for _ in range(100)]))
    dist.all_reduce(tensor)
    torch.cuda.synchronize()
    return str(error_of(lambda: [(dist.all_reduce(tensor), time.sleep(0.1)) for _ in range(100)]))


def test_a_timeout() -> None:
    texts = play(2, late, timeout=2.0)
    assert all("rank" in text for text in texts), texts
