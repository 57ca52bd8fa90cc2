"""Every dtype with every reduce operation: the right value, or an error on every rank; and types that only move.

Expected values are computed by torch in a wide type and rounded once, as the library does within a node.
"""

import pytest
import torch
import torch.distributed as dist

from ranks import error_of, numbers, play, same

WORLD = 3
COUNT = 257
OP = dist.ReduceOp
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2)
INTEGERS = (torch.int8, torch.uint8, torch.int32, torch.int64, torch.uint32, torch.uint64)
FIXED = {OP.SUM: "sum", OP.PRODUCT: "prod", OP.MIN: "amin", OP.MAX: "amax"}
BITS = {OP.BAND: torch.bitwise_and, OP.BOR: torch.bitwise_or, OP.BXOR: torch.bitwise_xor}


def values(rank: int, dtype: torch.dtype) -> torch.Tensor:
    # Eight bits of float hold products of these alone without rounding.
    return numbers(rank, COUNT, dtype, top=2 if dtype.itemsize == 1 else 5)


def stacked(dtype: torch.dtype) -> torch.Tensor:
    return torch.stack([values(rank, dtype) for rank in range(WORLD)]).to(torch.float64 if dtype.is_floating_point else torch.int64)


def arithmetic(rank: int, world: int) -> None:
    for dtype in FLOATS + INTEGERS:
        for op, name in FIXED.items():
            tensor = values(rank, dtype)
            dist.all_reduce(tensor, op)
            same(tensor, getattr(stacked(dtype), name)(0).to(dtype))


def averages(rank: int, world: int) -> None:
    for dtype in FLOATS + INTEGERS:
        tensor = values(rank, dtype)
        dist.all_reduce(tensor, OP.AVG)
        summed = stacked(dtype).sum(0)
        if dtype.is_floating_point:
            wanted = summed / world
            bound = wanted * torch.finfo(dtype).eps
            assert ((tensor.double() - wanted).abs() <= bound).all(), f"{dtype}: {tensor[:9]}, not {wanted[:9]}"
        else:
            same(tensor, (summed // world).to(dtype))


def bitwise(rank: int, world: int) -> None:
    for dtype in INTEGERS:
        for op, combine in BITS.items():
            tensor = values(rank, dtype)
            dist.all_reduce(tensor, op)
            wide = stacked(dtype)
            same(tensor, combine(combine(wide[0], wide[1]), wide[2]).to(dtype))
    for dtype in FLOATS:
        for op in BITS:
            error = error_of(dist.all_reduce, values(rank, dtype), op)
            assert isinstance(error, (TypeError, ValueError, RuntimeError)) and str(error), error
    # A refused call has started nothing: the group is as good as before.
    tensor = values(rank, torch.float32)
    dist.all_reduce(tensor)
    same(tensor, stacked(torch.float32).sum(0).float())


def with_factor(rank: int, world: int) -> None:
    for factor in (0.5, torch.tensor([0.5])):
        op = dist._make_nccl_premul_sum(factor)
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            tensor = values(rank, dtype)
            dist.all_reduce(tensor, op)
            same(tensor, (stacked(dtype).sum(0) * 0.5).to(dtype))
            out = torch.empty(COUNT, dtype=dtype)
            dist.reduce_scatter_tensor(out, torch.cat([values(rank, dtype)] * world), op)
            same(out, (stacked(dtype).sum(0) * 0.5).to(dtype))


def truths(rank: int, world: int) -> None:
    everyone = [numbers(r, COUNT, top=2) > 1 for r in range(world)]
    stack = torch.stack(everyone)
    parity = (stack.sum(0) % 2).bool()
    wanted = [(op, stack.any(0)) for op in (OP.SUM, OP.MAX, OP.BOR)] + [(op, stack.all(0)) for op in (OP.MIN, OP.PRODUCT, OP.BAND)]
    for op, result in [*wanted, (OP.BXOR, parity)]:
        tensor = everyone[rank].clone()
        dist.all_reduce(tensor, op)
        same(tensor, result)
    tensor = everyone[rank].clone()
    dist.broadcast(tensor, 1)
    same(tensor, everyone[1])


def complexes(rank: int, world: int) -> None:
    everyone = [torch.complex(numbers(r, COUNT), -numbers(r + 5, COUNT)) for r in range(world)]
    tensor = everyone[rank].clone()
    dist.all_reduce(tensor)
    same(tensor, sum(everyone))
    tensor = everyone[rank].clone()
    dist.reduce(tensor, 1)
    assert rank != 1 or torch.equal(tensor, sum(everyone))
    outs = [torch.empty(COUNT, dtype=torch.complex64) for _ in range(world)]
    dist.all_gather(outs, everyone[rank])
    same(torch.stack(outs), torch.stack(everyone))
    gathered = [torch.empty(COUNT, dtype=torch.complex64) for _ in range(world)] if rank == 0 else None
    dist.gather(everyone[rank], gathered, 0)
    assert rank or torch.equal(torch.stack(gathered), torch.stack(everyone))
    out = torch.empty(COUNT, dtype=torch.complex64)
    dist.reduce_scatter(out, [everyone[rank]] * world)
    same(out, sum(everyone))
    assert isinstance(error_of(dist.all_reduce, everyone[rank].clone(), OP.MAX), ValueError)
    assert "complex" in str(error_of(dist.reduce, everyone[rank].clone(), 0, OP.PRODUCT))


def moved(rank: int, world: int) -> None:
    for dtype in (torch.int16, torch.bool, torch.complex128, torch.float8_e5m2, torch.uint16):
        mine = numbers(rank, COUNT).to(dtype)
        outs = torch.empty(world * COUNT, dtype=dtype)
        dist.all_gather_into_tensor(outs, mine)
        assert torch.equal(outs.view(torch.uint8), torch.cat([numbers(r, COUNT).to(dtype) for r in range(world)]).view(torch.uint8))
        dist.broadcast(mine, 2)
        assert torch.equal(mine.view(torch.uint8), numbers(2, COUNT).to(dtype).view(torch.uint8))
    error = error_of(dist.all_reduce, numbers(rank, COUNT).to(torch.int16))
    assert "int16" in str(error), error


@pytest.mark.hfr
@pytest.mark.parametrize("act", [arithmetic, averages, bitwise, with_factor, truths, complexes, moved])
def test(act) -> None:
    play(WORLD, act)
