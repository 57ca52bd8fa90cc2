"""Every collective on CUDA tensors, every dtype with every operation, against torch's own sums on the GPU; several ranks on one GPU."""

import pytest
import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional

from place import device_of, on_gpu, summed
from ranks import error_of, numbers, play, same

OP = dist.ReduceOp
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
INTEGERS = (torch.int8, torch.uint8, torch.int32, torch.int64)
FIXED = {OP.SUM: "sum", OP.PRODUCT: "prod", OP.MIN: "amin", OP.MAX: "amax"}
BITS = {OP.BAND: torch.bitwise_and, OP.BOR: torch.bitwise_or, OP.BXOR: torch.bitwise_xor}
COUNT = 4099


def values(rank: int, dtype: torch.dtype) -> torch.Tensor:
    # Eight bits of float hold products of these alone without rounding.
    return numbers(rank, COUNT, dtype, top=2 if dtype.itemsize == 1 else 5).cuda()


def stacked(world: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.stack([values(r, dtype).to(torch.float64 if dtype.is_floating_point else torch.int64) for r in range(world)])


def types(rank: int, world: int) -> None:
    device_of(rank)
    for dtype in FLOATS + INTEGERS:
        for op, name in FIXED.items():
            tensor = values(rank, dtype)
            dist.all_reduce(tensor, op)
            same(tensor, getattr(stacked(world, dtype), name)(0).to(dtype))
        tensor = values(rank, dtype)
        dist.all_reduce(tensor, OP.AVG)
        wanted = stacked(world, dtype).sum(0) / world
        if dtype.is_floating_point:
            assert ((tensor.double() - wanted).abs() <= wanted * torch.finfo(dtype).eps).all(), dtype
        else:
            same(tensor, wanted.long().to(dtype))
    for dtype in INTEGERS:
        for op, combine in BITS.items():
            tensor, all = values(rank, dtype), stacked(world, dtype)
            dist.all_reduce(tensor, op)
            wanted = all[0]
            for other in all[1:]:
                wanted = combine(wanted, other)
            same(tensor, wanted.to(dtype))
    tensor = values(rank, torch.float32)
    dist.all_reduce(tensor, dist._make_nccl_premul_sum(0.5))
    same(tensor, (stacked(world, torch.float32).sum(0) * 0.5).float())
    tensor = torch.complex(on_gpu(rank, COUNT), -on_gpu(rank + 5, COUNT))
    dist.all_reduce(tensor)
    same(tensor, sum(torch.complex(on_gpu(r, COUNT), -on_gpu(r + 5, COUNT)) for r in range(world)))
    assert "int16" in str(error_of(dist.all_reduce, on_gpu(rank, COUNT).short()))


def sizes(rank: int, world: int) -> None:
    device_of(rank)
    for count in (0, 1, 2, 63, 1000, 65_537, (1 << 20) + 3, 12_000_001):
        for _ in range(2):
            tensor = on_gpu(rank, count)
            dist.all_reduce(tensor)
            same(tensor, summed(world, count) if count else tensor)


def everything(rank: int, world: int) -> None:
    device = device_of(rank)
    for count in (1, 1000, 200_003):
        mine, root = on_gpu(rank, count), count % world
        everyone = torch.cat([on_gpu(r, count) for r in range(world)])
        tensor = mine.clone()
        dist.broadcast(tensor, root)
        same(tensor, on_gpu(root, count))
        tensor = mine.clone()
        dist.reduce(tensor, root)
        same(tensor, summed(world, count) if rank == root else mine)
        out = torch.empty(world * count, device=device)
        dist.all_gather_into_tensor(out, mine)
        same(out, everyone)
        outs = [torch.empty(count, device=device) for _ in range(world)]
        dist.all_gather(outs, mine)
        same(torch.cat(outs), everyone)
        out = torch.empty(count, device=device)
        dist.reduce_scatter_tensor(out, everyone * (rank + 1))
        same(out, on_gpu(rank, count) * sum(range(1, world + 1)))
        dist.reduce_scatter(out, [on_gpu(r, count) * (rank + 1) for r in range(world)])
        same(out, on_gpu(rank, count) * sum(range(1, world + 1)))
        outs = [torch.empty(count, device=device) for _ in range(world)] if rank == root else None
        dist.gather(mine, outs, root)
        assert rank != root or torch.equal(torch.cat(outs), everyone)
        dist.scatter(out, list((everyone + 1).split(count)) if rank == root else None, root)
        same(out, on_gpu(rank, count) + 1)
        out = torch.empty(world * count, device=device)
        dist.all_to_all_single(out, torch.cat([on_gpu(rank + 10 * r, count) for r in range(world)]))
        same(out, torch.cat([on_gpu(r + 10 * rank, count) for r in range(world)]))
        outs = [torch.empty(count + r, device=device) for r in range(world)]
        dist.all_to_all(outs, [on_gpu(rank, count + rank) for _ in range(world)])
        for r, got in enumerate(outs):
            same(got, on_gpu(r, count + r))
    same(functional.all_reduce(on_gpu(rank, 100), "sum", dist.group.WORLD) + 0, summed(world, 100))


def messages(rank: int, world: int) -> None:
    device = device_of(rank)
    right, left = (rank + 1) % world, (rank - 1) % world
    out = torch.empty(5000, device=device)
    for work in [dist.isend(on_gpu(rank, 5000), right), dist.irecv(out, left)]:
        work.wait()
    same(out, on_gpu(left, 5000))
    out = torch.empty(5000, device=device)
    ops = [dist.P2POp(dist.isend, on_gpu(rank + 7, 5000), right), dist.P2POp(dist.irecv, out, left)]
    for work in dist.batch_isend_irecv(ops):
        work.wait()
    same(out, on_gpu(left + 7, 5000))
    # To itself.
    out = torch.empty(5000, device=device)
    for work in [dist.isend(on_gpu(rank, 5000), rank), dist.irecv(out, rank)]:
        work.wait()
    same(out, on_gpu(rank, 5000))


def together(rank: int, world: int) -> None:
    device_of(rank)
    tensors = [on_gpu(rank + i, 1000 + i) for i in range(5)]
    with dist._coalescing_manager(async_ops=True) as manager:
        for tensor in tensors:
            dist.all_reduce(tensor)
    manager.wait()
    for i, tensor in enumerate(tensors):
        same(tensor, sum(on_gpu(r + i, 1000 + i) for r in range(world)))
    dist.barrier(device_ids=[torch.cuda.current_device()])
    dist.barrier()
    objects = [None] * world
    dist.all_gather_object(objects, {"rank": rank})
    assert objects == [{"rank": r} for r in range(world)]
    # Some ranks have host memory.
    for turn in range(4):
        tensor = numbers(rank, 30_001) if (rank + turn) % 2 else on_gpu(rank, 30_001)
        dist.all_reduce(tensor)
        same(tensor.cpu(), sum(numbers(r, 30_001) for r in range(world)))


def refused(rank: int, world: int) -> None:
    device = device_of(rank)
    assert "contiguous" in str(error_of(dist.all_reduce, torch.ones(4, 4, device=device).t()[1:]))
    assert "stream" in str(error_of(dist.all_gather_into_tensor, torch.empty(3 * world), torch.ones(3, device=device)))
    if torch.cuda.device_count() > 1 and rank == 0:
        dist.all_reduce(torch.ones(3, device=device), group=dist.new_group([0]))
        other = torch.ones(3, device=torch.device("cuda", (device.index + 1) % torch.cuda.device_count()))
        assert "device" in str(error_of(dist.all_gather, [other], torch.ones(3, device=device), group=dist.new_group([0])))
    tensor = on_gpu(rank, 10)
    dist.all_reduce(tensor)
    same(tensor, summed(world, 10))


@pytest.mark.parametrize("act", [types, sizes, everything, messages, together, refused])
@pytest.mark.parametrize("world", [1, 2, 4])
def test(act, world: int) -> None:
    if act is refused and world > 1 and torch.cuda.device_count() > 1:
        pytest.skip("makes groups of one rank")
    play(world, act, seconds=180)


def test_two_nodes() -> None:
    play(4, everything, seconds=180, env_of=lambda rank: {"HFR_NODE": f"node{rank // 2}", "HFR_TRANSPORT": "tcp"})
