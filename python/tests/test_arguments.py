"""Arguments that make no sense are refused before anything is started, in words that name the rank, the operation and what to do."""

from __future__ import annotations

import array
import pickle
from typing import Any, Callable, Iterator, List, Tuple, Type

import numpy as np
import pytest

import hfreduce
from ranks import job, values


@pytest.fixture
def comm() -> Iterator[hfreduce.Communicator]:
    with hfreduce.init() as made:
        yield made


def read_only(x: np.ndarray) -> np.ndarray:
    x.flags.writeable = False
    return x


TWELVE = np.arange(1.0, 13.0)
REFUSED: List[Tuple[Callable[[hfreduce.Communicator], Any], Type[Exception], str]] = [
    (lambda c: c.all_reduce(TWELVE.reshape(3, 4)[:, 1]), ValueError, "all_reduce: the input is not contiguous"),
    (lambda c: c.all_reduce(np.asfortranarray(TWELVE.reshape(3, 4))), ValueError, "numpy.ascontiguousarray"),
    (lambda c: c.all_reduce(np.ones(3, ">f8")), ValueError, "byte order"),
    (lambda c: c.all_reduce(np.array([{}, 1])), TypeError, "elements of type object"),
    (lambda c: c.all_gather(np.zeros(2, "O,i4"), np.zeros(2, "O,i4")), TypeError, "cannot be sent"),
    (lambda c: c.all_reduce(read_only(np.ones(3))), ValueError, "read-only"),
    (lambda c: c.all_reduce(np.ones(3), read_only(np.ones(3))), ValueError, "the output is read-only"),
    (lambda c: c.all_gather(np.ones(3), [read_only(np.ones(3))]), ValueError, "read-only"),
    (lambda c: c.recv(read_only(np.ones(3)), 0), ValueError, "recv: the buffer is read-only"),
    (lambda c: c.all_reduce(b"bytes"), ValueError, "read-only"),
    (lambda c: c.all_reduce(memoryview(bytearray(8))[::2]), ValueError, "not contiguous"),
    (lambda c: c.all_reduce(np.float32(1)), ValueError, "read-only"),
    (lambda c: c.all_reduce(3.5), TypeError, "of type float; pass a numpy array, a torch tensor"),
    (lambda c: c.all_reduce("text"), TypeError, "of type str"),
    (lambda c: c.all_reduce(None), TypeError, "of type NoneType"),
    (lambda c: c.all_reduce([np.ones(3)]), TypeError, "a list; pass one buffer"),
    (lambda c: c.all_gather(np.ones(3), [np.ones(3)] * 2), ValueError, "a list of 2 for 1 ranks"),
    (lambda c: c.all_gather(np.ones(3), ["x"]), TypeError, r"output\[0\] is of type str"),
    (lambda c: c.all_to_all_v(np.ones(3), np.ones(3)), ValueError, "takes a list"),
    (lambda c: c.all_reduce(np.ones(3, "i2")), ValueError, "elements of type int16 cannot be reduced; convert"),
    (lambda c: c.all_reduce(np.ones(3, "?"), op="avg"), ValueError, "bool has no avg"),
    (lambda c: c.all_reduce(np.ones(3, "c8"), op="max"), ValueError, "complex numbers have no max"),
    (lambda c: c.all_reduce(np.ones(3), op="band"), ValueError, "all_reduce: band does not exist for double"),
    (lambda c: c.all_reduce(np.ones(3), op="plus"), ValueError, "'plus' is no operation; there are sum prod"),
    (lambda c: c.all_reduce(np.ones(3), op="max", factor=2.0), ValueError, "only sum and mulsum take a factor"),
    (lambda c: c.all_reduce(np.ones(3), op="mulsum"), ValueError, "needs a factor"),
    (lambda c: c.all_reduce(np.ones(3), op=1), TypeError, "instance of 'str'"),
    (lambda c: c.all_reduce(np.ones(3), np.ones(4)), ValueError, "the input has 3 elements in all and the output 4"),
    (lambda c: c.all_reduce(np.ones(3), np.ones(3, "f4")), TypeError, "these have float64 and float32"),
    (lambda c: c.all_reduce(TWELVE[:6], TWELVE[3:9]), ValueError, "overlap"),
    (lambda c: c.all_to_all(TWELVE, TWELVE), ValueError, "overlap"),
    (lambda c: c.gather(np.ones(3)), ValueError, "gather: the output is missing|no multiple"),
    (lambda c: c.scatter(None, None), ValueError, "scatter: no buffer"),
    (lambda c: c.broadcast(np.ones(3), 1), ValueError, "broadcast: root 1 in a group of 1"),
    (lambda c: c.broadcast(np.ones(3), -1), ValueError, "root -1"),
    (lambda c: c.send(np.ones(3), 1), ValueError, "send: rank 1 in a group of 1"),
    (lambda c: c.send(np.ones(3), 0, -5), ValueError, "tag -5"),
    (lambda c: c.run("allreduce", np.ones(3)), ValueError, "there are all_reduce reduce_scatter"),
    (lambda c: c.run("barrier", np.ones(3)), ValueError, "barrier: takes no buffer"),
    (lambda c: c.empty(3, "O"), ValueError, "objects"),
    (lambda c: c.empty("x"), ValueError, "whole number"),
    (lambda c: c.empty((1 << 40, 1 << 40)), ValueError, "more elements than memory"),
    (lambda c: c.start("barrier").wait(-1), ValueError, "timeout of -1"),
    (lambda c: hfreduce.init(timeout=float("nan")), ValueError, "timeout of NaN"),
    (lambda c: hfreduce.join(b"short", 0, 1), ValueError, "128"),
    (lambda c: hfreduce.join(bytes(128), 0, 1), ValueError, "no id of this library"),
    (lambda c: hfreduce.join(bytes(128), 2, 2), ValueError, "rank 2|no id"),
    (lambda c: hfreduce.Communicator(), TypeError, "cannot create"),
    (lambda c: hfreduce.Reducer(c, "int16"), ValueError, "int16 is no type that can be reduced"),
]


@pytest.mark.parametrize(("call", "kind", "text"), REFUSED, ids=[str(i) for i in range(len(REFUSED))])
def test_refused(comm: hfreduce.Communicator, call: Callable[[Any], Any], kind: Type[Exception], text: str) -> None:
    with pytest.raises(kind, match=text) as caught:
        call(comm)
    assert not isinstance(caught.value, OverflowError)
    if kind is ValueError:
        assert isinstance(caught.value, hfreduce.Error) and caught.value.kind == "invalid_argument"
    # Nothing was started.
    x = np.array([2.0, 3.0])
    comm.all_reduce(x, factor=2.0)
    assert x.tolist() == [4.0, 6.0]


def test_error_is_a_value(comm: hfreduce.Communicator) -> None:
    with pytest.raises(hfreduce.InvalidArgument) as caught:
        comm.broadcast(np.ones(3), 7)
    error = caught.value
    assert (error.kind, error.rank, error.peer, error.operation) == ("invalid_argument", 0, None, "broadcast")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.operation) == (type(error), str(error), "broadcast")
    assert issubclass(hfreduce.InvalidArgument, (hfreduce.Error, ValueError)) and issubclass(hfreduce.Error, RuntimeError)
    assert hfreduce.Error("text").kind is None


def test_other_buffers(comm: hfreduce.Communicator) -> None:
    numbers = array.array("d", [1.0, 2.0])
    comm.all_reduce(numbers, factor=3.0)
    assert numbers.tolist() == [3.0, 6.0]
    data, out = bytearray(b"abc"), bytearray(3)
    comm.all_gather(data, out)
    assert out == b"abc"
    view = memoryview(numbers)[1:]
    comm.all_reduce(view, factor=2.0)
    assert numbers.tolist() == [3.0, 12.0]


def test_a_buffer_that_runs_cannot_be_resized(comm: hfreduce.Communicator) -> None:
    # Often: a wait may return before or after the thread that runs the calls lets go.
    for _ in range(300):
        data = bytearray(b"abc")
        pending = comm.all_reduce(data, op="max", async_op=True)
        assert pending is not None and pending.wait()
        # The export is gone with the call's end.
        data.extend(b"d")
        assert data == b"abcd"


def test_shapes_without_elements(comm: hfreduce.Communicator) -> None:
    for shape in [0, (0, 3), (2, 0)]:
        x = np.ones(shape, "f4")
        comm.all_reduce(x)
        comm.all_gather(x, np.ones(shape, "f4"))
    scalar = np.array(5.0)
    comm.all_reduce(scalar, factor=2.0)
    assert scalar == 10.0


def test_closed() -> None:
    comm = hfreduce.init()
    comm.close()
    comm.close()
    for call in [comm.barrier, comm.report, comm.failure, lambda: comm.all_reduce(np.ones(3)), lambda: comm.alloc(8),
                 lambda: comm.start("barrier"), lambda: comm.split(0), lambda: comm.send(np.ones(1), 0),
                 lambda: hfreduce.Reducer(comm), lambda: comm.abort("why"), lambda: comm.node]:
        with pytest.raises(hfreduce.Error, match="rank 0: this communicator was closed") as caught:
            call()
        assert caught.value.kind == "closed"
    assert (comm.rank, comm.size) == (0, 1)


def stays_usable() -> List[str]:
    comm = hfreduce.init()
    texts = []
    for bad in [lambda: comm.all_reduce(np.ones((4, 4))[:, 1]), lambda: comm.all_gather(np.ones(3), np.ones(7)),
                lambda: comm.gather(np.ones(2), None, comm.rank), lambda: comm.broadcast(np.ones(1), 2)]:
        try:
            bad()
        except ValueError as error:
            texts.append(str(error))
    x = np.array([1.0 + comm.rank])
    comm.all_reduce(x)
    assert x[0] == 3.0
    return texts


def test_a_group_stays_usable() -> None:
    for rank, texts in enumerate(values(job(stays_usable, 2))):
        assert len(texts) == 4 and all(text.startswith(f"rank {rank}: ") for text in texts), texts


def second_groups() -> List[float]:
    first, second = hfreduce.init(), hfreduce.init(timeout=30)
    x, y = np.array([1.0]), np.array([10.0])
    one = first.all_reduce(x, async_op=True)
    second.all_reduce(y)
    assert one is not None and one.wait()
    first.close()
    second.all_reduce(y)
    with hfreduce.init():
        pass  # so that all have come here
    second.abort("so that only this one fails")
    for _ in range(3):
        with hfreduce.init() as third:
            third.all_reduce(x)
    return [float(x[0]), float(y[0])]


def test_second_init_is_another_group() -> None:
    assert values(job(second_groups, 2)) == [[16.0, 40.0]] * 2
    assert values(job(second_groups, 2, nodes=2, env={"HFR_TRANSPORT": "tcp"})) == [[16.0, 40.0]] * 2
