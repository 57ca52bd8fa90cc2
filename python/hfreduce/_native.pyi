"""The native module. A buffer is a numpy array, a torch tensor on the CPU, or an object with the buffer protocol: contiguous, in native byte order.

With `stream` a call is put on that CUDA stream, and its buffers are torch tensors on a CUDA device, objects with `__cuda_array_interface__`, or
pinned host memory.
"""

from __future__ import annotations

from typing import Any, Callable, List, Literal, Optional, Sequence, Union

Buffer = Any
"""One buffer."""
Buffers = Union[Any, Sequence[Any]]
"""One buffer, or a list of them with one for each rank."""
Shape = Union[int, Sequence[int]]
Stream = Any
"""A CUDA stream: its handle (0 is the legacy default stream), a torch.cuda.Stream, or an object with `__cuda_stream__`."""
Op = Literal["sum", "prod", "min", "max", "avg", "mulsum", "band", "bor", "bxor"]
Collective = Literal[
    "all_reduce", "reduce_scatter", "all_gather", "broadcast", "reduce",
    "barrier", "all_to_all", "all_to_all_v", "gather", "scatter",
]

__version__: str

class Error(RuntimeError):
    """A failure of the group or of its start. Its text says who, in what, why, and what to do."""

    kind: Optional[str]
    """invalid_argument, mismatch, timeout, peer_lost, wire, memory, device, start, aborted, or closed."""
    rank: Optional[int]
    peer: Optional[int]
    operation: Optional[str]

class InvalidArgument(Error, ValueError):
    """An argument that makes no sense. Nothing was started, and the communicator stays usable."""

class UniqueId:
    """Where a group meets, and its secret: made by one rank, known to all."""

    @staticmethod
    def create(near: Optional[str] = None) -> UniqueId: ...
    @staticmethod
    def from_bytes(b: bytes) -> UniqueId: ...
    def to_bytes(self) -> bytes: ...

class Pending:
    """A call that was started. The buffers must be left alone until it has ended; references to them are kept so long."""

    def wait(self, timeout: Optional[float] = None) -> bool: ...
    def block(self, stream: Stream) -> None:
        """What the stream is given from now on waits for the result; the host does not."""
    @property
    def on_stream(self) -> bool: ...
    def done(self) -> bool: ...
    def error(self) -> Optional[Error]: ...
    def then(self, callback: Callable[[Optional[Error]], object]) -> None: ...

class SharedMemory:
    """Memory that all ranks of the node see. It has the buffer protocol, writable."""

    def __new__(cls, comm: Communicator, nbytes: int) -> SharedMemory: ...
    @property
    def ptr(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...

class Communicator:
    """A group of ranks that call collectives together, all the same ones in the same order."""

    @staticmethod
    def from_env(
        *, timeout: Optional[float] = None, connect_timeout: Optional[float] = None, gpu: Optional[bool] = None
    ) -> Communicator: ...
    @staticmethod
    def join(
        id: bytes, rank: int, world: int, *, timeout: Optional[float] = None, connect_timeout: Optional[float] = None,
        gpu: Optional[bool] = None,
    ) -> Communicator: ...
    @property
    def rank(self) -> int: ...
    @property
    def size(self) -> int: ...
    @property
    def device(self) -> Optional[int]: ...
    @property
    def node(self) -> int: ...
    @property
    def nodes(self) -> int: ...
    @property
    def local_rank(self) -> int: ...
    @property
    def local_size(self) -> int: ...
    @property
    def transport(self) -> str: ...
    def run(
        self,
        name: Collective,
        input: Optional[Buffers] = None,
        output: Optional[Buffers] = None,
        op: Optional[Op] = None,
        factor: Optional[float] = None,
        root: int = 0,
        *,
        stream: Optional[Stream] = None,
    ) -> None: ...
    def start(
        self,
        name: Collective,
        input: Optional[Buffers] = None,
        output: Optional[Buffers] = None,
        op: Optional[Op] = None,
        factor: Optional[float] = None,
        root: int = 0,
        *,
        stream: Optional[Stream] = None,
    ) -> Pending: ...
    def send_start(self, buffer: Buffer, to: int, tag: int = 0, *, stream: Optional[Stream] = None) -> Pending: ...
    def recv_start(self, buffer: Buffer, source: int, tag: int = 0, *, stream: Optional[Stream] = None) -> Pending: ...
    def all_reduce(
        self, x: Buffer, out: Optional[Buffer] = None, op: Optional[Op] = None,
        *, factor: Optional[float] = None, async_op: bool = False, stream: Optional[Stream] = None,
    ) -> Optional[Pending]: ...
    def reduce_scatter(
        self, x: Buffers, out: Optional[Buffer] = None, op: Optional[Op] = None,
        *, factor: Optional[float] = None, async_op: bool = False, stream: Optional[Stream] = None,
    ) -> Optional[Pending]: ...
    def all_gather(
        self, x: Optional[Buffer], out: Buffers, *, async_op: bool = False, stream: Optional[Stream] = None
    ) -> Optional[Pending]: ...
    def broadcast(
        self, x: Buffer, root: int = 0, *, async_op: bool = False, stream: Optional[Stream] = None
    ) -> Optional[Pending]: ...
    def reduce(
        self, x: Buffer, out: Optional[Buffer] = None, op: Optional[Op] = None, root: int = 0,
        *, factor: Optional[float] = None, async_op: bool = False, stream: Optional[Stream] = None,
    ) -> Optional[Pending]: ...
    def all_to_all(
        self, x: Buffers, out: Buffers, *, async_op: bool = False, stream: Optional[Stream] = None
    ) -> Optional[Pending]: ...
    def all_to_all_v(
        self, x: Sequence[Buffer], out: Sequence[Buffer], *, async_op: bool = False, stream: Optional[Stream] = None
    ) -> Optional[Pending]: ...
    def gather(
        self, x: Optional[Buffer], out: Optional[Buffers] = None, root: int = 0, *, async_op: bool = False, stream: Optional[Stream] = None
    ) -> Optional[Pending]: ...
    def scatter(
        self, x: Optional[Buffers], out: Optional[Buffer] = None, root: int = 0, *, async_op: bool = False, stream: Optional[Stream] = None
    ) -> Optional[Pending]: ...
    def barrier(
        self, *, async_op: bool = False, stream: Optional[Stream] = None
    ) -> Optional[Pending]: ...
    def send(
        self, x: Buffer, to: int, tag: int = 0, *, async_op: bool = False, stream: Optional[Stream] = None
    ) -> Optional[Pending]: ...
    def recv(
        self, x: Buffer, source: int, tag: int = 0, *, async_op: bool = False, stream: Optional[Stream] = None
    ) -> Optional[Pending]: ...
    def split(self, color: Optional[int], key: int = 0) -> Optional[Communicator]: ...
    def abort(self, why: str) -> None: ...
    def close(self) -> None: ...
    def failure(self) -> Optional[Error]: ...
    def report(self) -> str: ...
    def alloc(self, nbytes: int) -> SharedMemory: ...
    def empty(self, shape: Shape, dtype: Any = None) -> Any: ...
    def torch_empty(self, shape: Shape, dtype: Any = None) -> Any: ...
    def __enter__(self) -> Communicator: ...
    def __exit__(self, *_raised: object) -> None: ...

class Reducer:
    """HFReduce's own shape: named tensors of one type, each reduced as soon as it is handed over."""

    def __new__(
        cls, comm: Communicator, dtype: Any = None, op: Optional[Op] = None, *, factor: Optional[float] = None
    ) -> Reducer: ...
    def register(self, name: str, count: int) -> None: ...
    def total(self) -> int: ...
    def set_fused_dest(self, destination: Optional[Buffer]) -> None: ...
    def async_reduce(self, name: str, tensor: Buffer, *, stream: Optional[Stream] = None) -> None: ...
    def synchronize(self, *, stream: Optional[Stream] = None) -> List[str]: ...

def all_reduce(comm: Communicator, tensors: List[Any], opts: Any) -> Any:
    """For hfreduce.torch: an all_reduce with torch's arguments. None when done, a Pending, or NotImplemented for what is unusual."""

def when_ended(pending: Sequence[Pending], callback: Callable[[None], object]) -> None:
    """For hfreduce.torch: calls back when all have ended, well or not, on a thread that may wait for other calls."""
