"""Device memory and streams for tests on machines without a GPU: the stand-in for the CUDA driver, by ctypes.

Knows no collective. A test starts its ranks with `environment()`, which puts the stand-in in their way, and a rank begins with `Cuda()`.
Invariant: this file makes the context, as a user's program does; the library only ever joins it.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pathlib
import tempfile
from typing import Any, Dict, Iterator, Optional, Tuple

import numpy as np
import pytest

# The built stand-in (libhfr_standin.so), which the check's script names.
LIBRARY = os.environ.get("HFR_STANDIN")
needed = pytest.mark.skipif(LIBRARY is None, reason="HFR_STANDIN names no stand-in for the CUDA driver: cargo build -p hfr-standin")


@contextlib.contextmanager
def environment(**settings: str) -> Iterator[Dict[str, str]]:
    """Variables with which a process finds the stand-in as its driver, with these settings."""
    with tempfile.TemporaryDirectory() as folder:
        os.symlink(str(LIBRARY), pathlib.Path(folder) / "libcuda.so.1")
        others = os.environ.get("LD_LIBRARY_PATH")
        yield {"LD_LIBRARY_PATH": folder + (f":{others}" if others else ""), "STANDIN_DELAY_US": "300", **settings}


class Cuda:
    """The driver, with the primary context of a device current on this thread."""

    def __init__(self, device: int = 0) -> None:
        self.driver = ctypes.CDLL("libcuda.so.1")
        self("cuInit", 0)
        self.use(device)

    def __call__(self, name: str, *arguments: Any) -> None:
        code = getattr(self.driver, name)(*arguments)
        assert code == 0, f"{name} returned {code}"

    def use(self, device: int) -> None:
        """Makes a device's primary context current."""
        context = ctypes.c_void_p()
        self("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self("cuCtxSetCurrent", context)

    def stream(self) -> int:
        """A new stream, which does not wait for the default one."""
        made = ctypes.c_void_p()
        self("cuStreamCreate", ctypes.byref(made), 1)
        return int(made.value or 0)

    def synchronize(self, stream: int) -> None:
        self("cuStreamSynchronize", ctypes.c_void_p(stream))

    def idle(self, stream: int) -> bool:
        return self.driver.cuStreamQuery(ctypes.c_void_p(stream)) == 0

    def capture(self, stream: int) -> None:
        self("cuStreamBeginCapture_v2", ctypes.c_void_p(stream), 0)

    def pinned(self, like: np.ndarray) -> np.ndarray:
        """A copy of an array in pinned host memory."""
        at = ctypes.c_void_p()
        self("cuMemHostAlloc", ctypes.byref(at), ctypes.c_size_t(max(like.nbytes, 1)), 0)
        raw = (ctypes.c_uint8 * like.nbytes).from_address(int(at.value or 0))
        made = np.frombuffer(raw, like.dtype, like.size).reshape(like.shape)
        made[...] = like
        return made

    def array(self, like: np.ndarray, stream: Optional[int] = None) -> "Array":
        """An array in device memory; what it holds is copied there by the stream, behind all that it was given."""
        return Array(self, like, stream)


class Array:
    """Device memory as CuPy's and Numba's arrays show it."""

    def __init__(self, cuda: Cuda, like: np.ndarray, stream: Optional[int]) -> None:
        at = ctypes.c_uint64()
        cuda("cuMemAlloc_v2", ctypes.byref(at), ctypes.c_size_t(max(like.nbytes, 1)))
        self.cuda, self.at, self.shape, self.dtype, self.nbytes = cuda, at.value, like.shape, like.dtype, like.nbytes
        # Contents come late, so that who does not wait for the stream reads something else.
        self._from = cuda.pinned(like)
        self.fill(stream)

    def fill(self, stream: Optional[int]) -> None:
        """Puts the contents there once more."""
        if self.nbytes == 0:
            return
        source, size = ctypes.c_void_p(self._from.ctypes.data), ctypes.c_size_t(self.nbytes)
        if stream is None:
            self.cuda("cuMemcpyHtoD_v2", ctypes.c_uint64(self.at), source, size)
        else:
            self.cuda("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(self.at), source, size, ctypes.c_void_p(stream))

    @property
    def __cuda_array_interface__(self) -> Dict[str, Any]:
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (self.at, False), "version": 3, "strides": None}

    def read(self, stream: int) -> np.ndarray:
        """The contents as work on this stream finds them."""
        into = self.cuda.pinned(np.zeros(self.shape, self.dtype))
        if self.nbytes:
            target = ctypes.c_void_p(into.ctypes.data)
            self.cuda("cuMemcpyDtoHAsync_v2", target, ctypes.c_uint64(self.at), ctypes.c_size_t(self.nbytes), ctypes.c_void_p(stream))
        self.cuda.synchronize(stream)
        return into.copy()

    def part(self, first: int, count: int) -> "Part":
        """Elements of it."""
        return Part(self, first, count)


class Part:
    """Neighbouring elements of an array."""

    def __init__(self, whole: Array, first: int, count: int) -> None:
        self.whole = whole
        self.about: Tuple[int, int] = (whole.at + first * whole.dtype.itemsize, count)

    @property
    def __cuda_array_interface__(self) -> Dict[str, Any]:
        at, count = self.about
        return {"shape": (count,), "typestr": self.whole.dtype.str, "data": (at, False), "version": 2, "strides": (self.whole.dtype.itemsize,)}
