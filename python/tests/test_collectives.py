"""Every collective, type and operation against numpy, over several processes, on one node and on two."""

from __future__ import annotations

from typing import Any, Callable, Dict, List

import numpy as np
import pytest

import hfreduce
from ranks import job, values

SIZES = [0, 1, 3, 64, 1000, 70_001]
TYPES = ["f8", "f4", "f2", "i1", "u1", "i4", "u4", "i8", "u8", "?", "c8", "c16"]
MOVED = TYPES + ["i2", "u2", "M8[s]", "S5", "i4,f8"]
# Small whole numbers: exact in every type, so that results are compared with ==.
FOLD: Dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sum": lambda all: all.sum(0),
    "prod": lambda all: all.prod(0),
    "min": lambda all: all.min(0),
    "max": lambda all: all.max(0),
    "band": np.bitwise_and.reduce,
    "bor": np.bitwise_or.reduce,
    "bxor": np.bitwise_xor.reduce,
}


def of(rank: int, count: int, dtype: Any, seed: int = 0) -> np.ndarray:
    """What a rank has: never all zeros, never the same on two ranks, known to all."""
    dtype = np.dtype(dtype)
    numbers = np.random.default_rng([seed, rank]).integers(1, 4, count)
    if dtype.kind == "c":
        return (numbers + 1j * (numbers + rank)).astype(dtype)
    if dtype.kind == "b":
        return (numbers + rank) % 2 == 0
    if dtype.kind == "S":
        return numbers.astype("S5")
    if dtype.names:
        made = np.empty(count, dtype)
        made["f0"], made["f1"] = numbers + rank, numbers
        return made
    return (numbers + 10 * (rank % 2)).astype("i8").astype(dtype)


def ops(dtype: str) -> List[str]:
    if dtype == "?":
        return list(FOLD)
    if dtype.startswith("c"):
        return ["sum"]
    return list(FOLD) if dtype[0] in "iu" else ["sum", "prod", "min", "max"]


def folded(op: str, all: List[np.ndarray]) -> np.ndarray:
    dtype = all[0].dtype
    if dtype.kind == "b":
        named = {"sum": np.logical_or, "max": np.logical_or, "bor": np.logical_or, "bxor": np.logical_xor}
        return named.get(op, np.logical_and).reduce(all)
    # In the widest type, and then cut off, as sums of integers wrap.
    wide = {"f": "f8", "i": "i8", "u": "u8", "c": "c16"}[dtype.kind]
    with np.errstate(over="ignore"):
        return FOLD[op](np.array(all).astype(wide)).astype(dtype)


def same(got: np.ndarray, want: np.ndarray, what: Any) -> None:
    assert got.tobytes() == want.tobytes(), (what, got[:8], want[:8])


def reductions(comm: hfreduce.Communicator) -> int:
    rank, size, cases = comm.rank, comm.size, 0
    for dtype in TYPES:
        for op in ops(dtype):
            for count in SIZES if (dtype, op) in [("f4", "sum"), ("i8", "max")] else [5, 1000]:
                case = (dtype, op, count)
                want = folded(op, [of(r, count, dtype) for r in range(size)])
                x = of(rank, count, dtype)
                out = np.full_like(x, 1)
                comm.all_reduce(x, out, op)
                same(out, want, ("all_reduce into", case))
                same(x, of(rank, count, dtype), ("input", case))
                comm.all_reduce(x, op=op)
                same(x, want, ("all_reduce", case))

                root = count % size
                x = of(rank, count, dtype)
                comm.reduce(x, None, op, root)
                same(x, want if rank == root else of(rank, count, dtype), ("reduce", case))
                x, out = of(rank, count, dtype), np.full_like(want, 1)
                comm.run("reduce", x, out if rank == root else None, op, None, root)
                if rank == root:
                    same(out, want, ("reduce into", case))

                whole = folded(op, [of(r, count * size, dtype) for r in range(size)])
                mine = slice(rank * count, (rank + 1) * count)
                x, out = of(rank, count * size, dtype), np.full(count, 1, dtype)
                comm.reduce_scatter(x, out, op)
                same(out, whole[mine], ("reduce_scatter", case))
                comm.reduce_scatter(list(x.reshape(size, count)), out, op=op)
                same(out, whole[mine], ("reduce_scatter list", case))
                comm.reduce_scatter(x, op=op)
                same(x[mine], whole[mine], ("reduce_scatter in place", case))
                cases += 7
    return cases


def averages(comm: hfreduce.Communicator) -> None:
    rank, size = comm.rank, comm.size
    for dtype in ["f8", "f4", "c8"]:
        all = [of(r, 100, dtype) for r in range(size)]
        x = of(rank, 100, dtype)
        comm.all_reduce(x, op="avg")
        np.testing.assert_allclose(x, sum(all) / size, rtol=1e-6)
        x = of(rank, 100, dtype)
        comm.all_reduce(x, factor=0.5)
        same(x, (sum(all) * 0.5).astype(dtype), "factor")
        x = of(rank, 100, dtype)
        comm.run("all_reduce", x, None, "mulsum", 0.25)
        same(x, (sum(all) * 0.25).astype(dtype), "mulsum")


def movements(comm: hfreduce.Communicator) -> int:
    rank, size, cases = comm.rank, comm.size, 0
    for dtype in MOVED:
        for count in SIZES if dtype in ["f4", "i2"] else [5, 100]:
            case = (dtype, count)
            all = [of(r, count, dtype) for r in range(size)]
            x = of(rank, count, dtype)

            def blank(n: int) -> np.ndarray:
                return of(size + 1, n, dtype, seed=7)

            out = blank(count * size)
            comm.all_gather(x, out)
            same(out, np.concatenate(all), ("all_gather", case))
            pieces = [blank(count) for _ in range(size)]
            comm.all_gather(x, pieces)
            same(np.concatenate(pieces), np.concatenate(all), ("all_gather list", case))
            out = blank(count * size)
            out[rank * count : (rank + 1) * count] = x
            comm.all_gather(None, out)
            same(out, np.concatenate(all), ("all_gather in place", case))

            root = (count + 1) % size
            y = x.copy()
            comm.broadcast(y, root)
            same(y, all[root], ("broadcast", case))

            out = blank(count * size)
            comm.gather(x, out if rank == root else None, root)
            pieces = [blank(count) for _ in range(size)]
            comm.gather(x, pieces if rank == root else [], root)
            if rank == root:
                same(out, np.concatenate(all), ("gather", case))
                same(np.concatenate(pieces), np.concatenate(all), ("gather list", case))

            shares = of(root, count * size, dtype, seed=3)
            for source in [shares, list(shares.reshape(size, count))]:
                out = blank(count)
                comm.scatter(source if rank == root else None, out, root)
                same(out, shares[rank * count : (rank + 1) * count], ("scatter", case))

            sent = [of(r, count * size, dtype, seed=5).reshape(size, count) for r in range(size)]
            want = np.concatenate([sent[r][rank] for r in range(size)])
            out = blank(count * size)
            comm.all_to_all(sent[rank], out)
            same(out, want, ("all_to_all", case))
            pieces = [blank(count) for _ in range(size)]
            comm.all_to_all(list(sent[rank]), pieces)
            same(np.concatenate(pieces), want, ("all_to_all list", case))
            cases += 9
    return cases


def uneven(comm: hfreduce.Communicator) -> None:
    rank, size = comm.rank, comm.size
    counts = [3 * r + (r % 2) for r in range(size)]
    x = of(rank, counts[rank], "f4")
    pieces = [np.full(n, -1, "f4") for n in counts]
    comm.all_gather(x, pieces)
    for r in range(size):
        same(pieces[r], of(r, counts[r], "f4"), ("uneven all_gather", r))
    shares = [of(rank, n, "f4", seed=i) for i, n in enumerate(counts)]
    out = np.full(counts[rank], -1, "f4")
    comm.reduce_scatter(shares, out)
    same(out, folded("sum", [of(r, counts[rank], "f4", seed=rank) for r in range(size)]), "uneven reduce_scatter")

    def n(source: int, to: int) -> int:
        return (7 * source + 3 * to) % 5 * 100

    given = [of(rank, n(rank, to), "i2", seed=to) for to in range(size)]
    taken = [np.full(n(source, rank), -1, "i2") for source in range(size)]
    comm.all_to_all_v(given, taken)
    for source in range(size):
        same(taken[source], of(source, n(source, rank), "i2", seed=rank), ("all_to_all_v", source))


def messages(comm: hfreduce.Communicator) -> None:
    rank, size = comm.rank, comm.size
    right, left = (rank + 1) % size, (rank - 1) % size
    for count in [0, 1, 5000]:
        out = np.full(count, -1, "i8")
        sending = comm.send(of(rank, count, "i8"), right, tag=count, async_op=True)
        comm.recv(out, left, tag=count)
        assert sending is not None and sending.wait()
        same(out, of(left, count, "i8"), ("ring", count))
    if rank == 0:
        comm.send(of(0, 10, "c8"), 1)
    elif rank == 1:
        out = np.zeros(10, "c8")
        comm.recv(out, 0)
        same(out, of(0, 10, "c8"), "send")


def everything() -> int:
    with hfreduce.init() as comm:
        cases = reductions(comm) + movements(comm)
        averages(comm)
        uneven(comm)
        if comm.size > 1:
            messages(comm)
        comm.barrier()
        return cases


@pytest.mark.parametrize(
    ("size", "nodes", "transport"),
    [(1, 1, "auto"), (2, 1, "auto"), (3, 1, "auto"), (4, 2, "local"), (3, 2, "tcp")],
)
def test_everything_equals_numpy(size: int, nodes: int, transport: str) -> None:
    done = values(job(everything, size, nodes=nodes, env={"HFR_TRANSPORT": transport}, timeout=240))
    assert done == [done[0]] * size and done[0] > 500


def narrow() -> List[str]:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    comm = hfreduce.init()
    shown = []
    for name in ["bfloat16", "float8_e4m3fn", "float8_e5m2"]:
        x = np.array([1, 2, 3], getattr(ml_dtypes, name))
        comm.all_reduce(x)
        assert x.dtype.name == name
        shown.append(str(x.astype("f4").tolist()))
    return shown


def test_types_of_ml_dtypes() -> None:
    pytest.importorskip("ml_dtypes")
    # 3 + 3 is a tie or a value of every one of them.
    assert values(job(narrow, 2)) == [["[2.0, 4.0, 6.0]"] * 3] * 2


def names_of_job() -> List[Any]:
    comm = hfreduce.init()
    return [comm.rank, comm.size, comm.node, comm.nodes, comm.local_rank, comm.local_size, comm.transport]


def test_where_a_rank_is() -> None:
    assert values(job(names_of_job, 4, nodes=2)) == [
        [0, 4, 0, 2, 0, 2, "local"],
        [1, 4, 0, 2, 1, 2, "local"],
        [2, 4, 1, 2, 0, 2, "local"],
        [3, 4, 1, 2, 1, 2, "local"],
    ]
