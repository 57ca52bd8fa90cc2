"""The collectives of torch.distributed, by all the names that torch has had for them, as calls of one communicator.

Knows torch's calling conventions (lists of lists, options with roots and timeouts) and nothing of how a group is made. Memory, dtypes,
devices and contiguity are judged by the native module, which reads tensors itself. Invariants: a call that its caller waits for anyway
runs on the caller's thread and gives None; all others give a Work. A call on CUDA tensors is put on the current stream, and who waits for
it is a stream too.
"""

from __future__ import annotations

from typing import Any, List, Optional, Sequence, Union

import torch
from torch._C._distributed_c10d import (
    AllgatherOptions,
    AllreduceCoalescedOptions,
    AllreduceOptions,
    AllToAllOptions,
    BarrierOptions,
    BroadcastOptions,
    GatherOptions,
    ReduceOptions,
    ReduceScatterOptions,
    ScatterOptions,
)

from .._native import Communicator, Pending, all_reduce
from . import _cuda
from ._lifecycle import Lifecycle
from ._ops import reduction, seconds
from ._stream_work import StreamWork
from ._work import Work

Tensors = List[torch.Tensor]


def _options(kind: type, given: Any) -> Any:
    """Options of a kind. Direct callers of a group may also give a reduce operation or a root in their place, or nothing."""
    if isinstance(given, kind):
        return given
    made = kind()
    if isinstance(given, int):
        made.rootRank = given
    elif given is not None:
        made.reduceOp = given
    return made


def _one(tensors: Union[torch.Tensor, Sequence[Any]], operation: str) -> Any:
    """The only element of a list: torch's lists are one entry per device of a process, and a process has one CPU."""
    if isinstance(tensors, torch.Tensor):
        return tensors
    if len(tensors) != 1:
        raise ValueError(f"{operation}: backend hfr takes one tensor per rank, and was given {len(tensors)}")
    return tensors[0]


class Collectives(Lifecycle):
    """Mixed into both shapes of backend; `communicator` does the work."""

    communicator: Communicator

    def _call(self, operation: str, options: Any, tensors: Tensors, input: Any, output: Any, **how: Any) -> Optional[Work]:
        """One operation of the library, waited for here where the caller would do nothing else."""
        limit = seconds(options.timeout)
        device = _cuda.device_of(input, output)
        stream = None if device is None else _cuda.current(device)
        # Torch before 2.7 does not say whether the caller waits, so there everything is asynchronous.
        waited = not getattr(options, "asyncOp", True)
        if waited and limit is None and self.limit is None:
            self.communicator.run(operation, input, output, stream=stream, **how)
            return None
        started = self.communicator.start(operation, input, output, stream=stream, **how)
        work = self._work(operation, [started], tensors, device, limit)
        if waited:
            work.wait()
            return None
        return work

    def _call_each(
        self, operation: str, options: Any, tensors: Tensors, inputs: Sequence[Any], outputs: Sequence[Any], **how: Any
    ) -> Optional[Work]:
        """One operation for each pair, started together, so that they run in each other's shadow."""
        if len(inputs) != len(outputs):
            raise ValueError(f"{operation}: {len(inputs)} inputs for {len(outputs)} outputs; give one output for each input")
        device = _cuda.device_of(inputs)
        stream = None if device is None else _cuda.current(device)
        pending = [self.communicator.start(operation, input, output, stream=stream, **how) for input, output in zip(inputs, outputs)]
        work = self._work(operation, pending, tensors, device, seconds(options.timeout))
        if getattr(options, "asyncOp", True):
            return work
        work.wait()
        return None

    def _work(
        self,
        operation: str,
        pending: List[Pending],
        tensors: Tensors,
        device: Optional[torch.device] = None,
        limit: Optional[float] = None,
        source: int = -1,
    ) -> Work:
        if self._batch is not None:
            self._batch.extend(pending)
            self._batch_device = self._batch_device or device
        if device is None:
            return Work(self, operation, pending, tensors, source, limit)
        return StreamWork(device, self, operation, pending, tensors, source, limit)

    # Reductions.

    def allreduce(self, tensors: Tensors, opts: Any = None) -> Optional[Work]:
        # DDP's way: everything that is usual is read and done in native code.
        if opts.__class__ is AllreduceOptions and self.limit is None:
            started = all_reduce(self.communicator, tensors, opts)
            if started is None:
                return None
            if started is not NotImplemented:
                return self._work("all_reduce", [started], tensors)
        opts = _options(AllreduceOptions, opts)
        tensor = _one(tensors, "all_reduce")
        op, factor = reduction(opts.reduceOp)
        return self._call("all_reduce", opts, tensors, tensor, tensor, op=op, factor=factor)

    def allreduce_coalesced(self, tensors: Tensors, opts: Any = None) -> Optional[Work]:
        opts = _options(AllreduceCoalescedOptions, opts)
        op, factor = reduction(opts.reduceOp)
        return self._call_each("all_reduce", opts, tensors, tensors, tensors, op=op, factor=factor)

    def allreduce_sparse(self, tensors: Tensors, opts: Any = None) -> Optional[Work]:
        raise TypeError("all_reduce: backend hfr has no sparse tensors; call .to_dense() first, or use nn.Embedding(sparse=False)")

    def reduce(self, tensors: Tensors, opts: Any = None) -> Optional[Work]:
        opts = _options(ReduceOptions, opts)
        tensor = _one(tensors, "reduce")
        op, factor = reduction(opts.reduceOp)
        root = opts.rootRank
        output = tensor if root == self.communicator.rank else None
        return self._call("reduce", opts, tensors, tensor, output, op=op, factor=factor, root=root)

    def reduce_scatter(self, outputs: Tensors, inputs: List[Tensors], opts: Any = None) -> Optional[Work]:
        opts = _options(ReduceScatterOptions, opts)
        output = _one(outputs, "reduce_scatter")
        blocks = inputs if isinstance(inputs[0], torch.Tensor) else _one(inputs, "reduce_scatter")
        op, factor = reduction(opts.reduceOp)
        return self._call("reduce_scatter", opts, [output], blocks, output, op=op, factor=factor)

    def reduce_scatter_single(self, output: torch.Tensor, input: torch.Tensor, opts: Any = None) -> Optional[Work]:
        opts = _options(ReduceScatterOptions, opts)
        op, factor = reduction(opts.reduceOp)
        return self._call("reduce_scatter", opts, [output], input, output, op=op, factor=factor)

    def reduce_scatter_single_coalesced(self, outputs: Tensors, inputs: Tensors, opts: Any = None) -> Optional[Work]:
        opts = _options(ReduceScatterOptions, opts)
        op, factor = reduction(opts.reduceOp)
        return self._call_each("reduce_scatter", opts, outputs, inputs, outputs, op=op, factor=factor)

    # Bytes that only move.

    def broadcast(self, tensors: Tensors, opts: Any = None) -> Optional[Work]:
        opts = _options(BroadcastOptions, opts)
        tensor = _one(tensors, "broadcast")
        return self._call("broadcast", opts, tensors, tensor, tensor, root=opts.rootRank)

    def allgather(self, outputs: List[Tensors], inputs: Tensors, opts: Any = None) -> Optional[Work]:
        opts = _options(AllgatherOptions, opts)
        blocks = outputs if isinstance(outputs[0], torch.Tensor) else _one(outputs, "all_gather")
        return self._call("all_gather", opts, blocks, _one(inputs, "all_gather"), blocks)

    def all_gather_single(self, output: torch.Tensor, input: torch.Tensor, opts: Any = None) -> Optional[Work]:
        return self._call("all_gather", _options(AllgatherOptions, opts), [output], input, output)

    def all_gather_single_coalesced(self, outputs: Tensors, inputs: Tensors, opts: Any = None) -> Optional[Work]:
        return self._call_each("all_gather", _options(AllgatherOptions, opts), outputs, inputs, outputs)

    def allgather_coalesced(self, outputs: List[Tensors], inputs: Tensors, opts: Any = None) -> Optional[Work]:
        # Torch lists the outputs by rank; the library wants them by input.
        by_input = [list(blocks) for blocks in zip(*outputs)]
        tensors = [tensor for blocks in outputs for tensor in blocks]
        return self._call_each("all_gather", _options(AllgatherOptions, opts), tensors, inputs, by_input)

    def gather(self, outputs: List[Tensors], inputs: Tensors, opts: Any = None) -> Optional[Work]:
        opts = _options(GatherOptions, opts)
        root = opts.rootRank
        blocks = _one(outputs, "gather") if root == self.communicator.rank else None
        return self._call("gather", opts, blocks or [], _one(inputs, "gather"), blocks, root=root)

    def scatter(self, outputs: Tensors, inputs: List[Tensors], opts: Any = None) -> Optional[Work]:
        opts = _options(ScatterOptions, opts)
        root = opts.rootRank
        blocks = _one(inputs, "scatter") if root == self.communicator.rank else None
        return self._call("scatter", opts, outputs, blocks, _one(outputs, "scatter"), root=root)

    def alltoall(self, outputs: Tensors, inputs: Tensors, opts: Any = None) -> Optional[Work]:
        # Always the form with counts: this rank cannot know whether another one's pieces are of different sizes.
        return self._call("all_to_all_v", _options(AllToAllOptions, opts), outputs, inputs, outputs)

    def all_to_all_single(
        self, output: torch.Tensor, input: torch.Tensor, output_sizes: List[int], input_sizes: List[int], opts: Any = None
    ) -> Optional[Work]:
        opts = _options(AllToAllOptions, opts)
        if not output_sizes and not input_sizes:
            return self._call("all_to_all", opts, [output], input, output)
        into, of = self._pieces(output, output_sizes, "output"), self._pieces(input, input_sizes, "input")
        return self._call("all_to_all_v", opts, [output], of, into)

    def _pieces(self, tensor: torch.Tensor, sizes: List[int], role: str) -> Sequence[torch.Tensor]:
        """A tensor's rows in one piece per rank."""
        size, rows = self.communicator.size, tensor.shape[0] if tensor.dim() else 0
        if not sizes:
            if rows % size:
                raise ValueError(
                    f"all_to_all: {rows} rows of the {role} cannot be split evenly over {size} ranks; give {role}_split_sizes"
                )
            sizes = [rows // size] * size
        if len(sizes) != size or sum(sizes) != rows:
            raise ValueError(
                f"all_to_all: {role}_split_sizes are {sizes} for {rows} rows and {size} ranks; give one per rank, adding up to all rows"
            )
        return tensor.split(sizes)

    def barrier(self, opts: Any = None) -> Optional[Work]:
        opts = _options(BarrierOptions, opts)
        device = self._device_of_barrier(opts)
        if device is None:
            return self._call("barrier", opts, [], None, None)
        # As NCCL's: behind what the device's current stream has been given, and it is the host that waits.
        with _cuda.here(device):
            started = self.communicator.start("barrier", stream=_cuda.current(device))
        work = self._work("barrier", [started], [], None, seconds(opts.timeout))
        if getattr(opts, "asyncOp", True):
            return work
        work.wait()
        return None

    @staticmethod
    def _device_of_barrier(opts: Any) -> Optional[torch.device]:
        device = getattr(opts, "device", None)
        if device is None and opts.device_ids:
            device = torch.device("cuda", opts.device_ids[0])
        return device if device is not None and device.type == "cuda" else None

    # From one rank to one rank.

    def send(self, tensors: Tensors, to: int, tag: int = 0) -> Work:
        tensor = _one(tensors, "send")
        device = _cuda.device_of(tensor)
        if to == self.communicator.rank:
            return self._work("send", [self._itself.send(tensor, tag)], tensors, device)
        stream = None if device is None else _cuda.current(device)
        return self._work("send", [self.communicator.send_start(tensor, to, tag, stream=stream)], tensors, device)

    def recv(self, tensors: Tensors, source: int, tag: int = 0) -> Work:
        tensor = _one(tensors, "recv")
        device = _cuda.device_of(tensor)
        if source == self.communicator.rank:
            return self._work("recv", [self._itself.receive(tensor, tag)], tensors, device, source=source)
        stream = None if device is None else _cuda.current(device)
        return self._work("recv", [self.communicator.recv_start(tensor, source, tag, stream=stream)], tensors, device, source=source)

    def recv_anysource(self, tensors: Tensors, tag: int = 0) -> Work:
        raise NotImplementedError("recv: backend hfr receives from a rank that is named, never from any; give src")

    # Many calls as one Work.

    def start_coalescing(self, device: Any = None) -> None:
        self._batch = []

    def end_coalescing(self, device: Any = None) -> Work:
        pending, self._batch = self._batch or [], None
        on, self._batch_device = self._batch_device, None
        return self._work("coalesced operations", pending, [], on)

    # What the same things were called before torch 2.15, and what the group classes of both call them.
    _allgather_base = all_gather_single
    allgather_into_tensor_coalesced = all_gather_single_coalesced
    _reduce_scatter_base = reduce_scatter_single
    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced
    alltoall_base = all_to_all_single
    recvAnysource = recv_anysource
    _start_coalescing = start_coalescing
    _end_coalescing = end_coalescing
