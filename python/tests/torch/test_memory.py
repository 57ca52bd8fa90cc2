"""Tensors in the node's shared memory, and how torch finds the backend."""

import subprocess
import sys

import pytest
import torch
import torch.distributed as dist

from ranks import error_of, numbers, play, same

pytestmark = pytest.mark.hfr


def shared(rank: int, world: int) -> None:
    import hfreduce.torch

    for shape, dtype in (((3, 5), torch.float32), (1000, torch.bfloat16), ((200_000,), torch.int64), ((0, 4), None), ((), torch.float64)):
        tensor = hfreduce.torch.empty(shape, dtype)
        assert tensor.shape == torch.Size((shape,) if isinstance(shape, int) else shape)
        assert tensor.dtype == (dtype or torch.get_default_dtype()) and tensor.is_contiguous()
        tensor.copy_(numbers(rank, tensor.numel(), tensor.dtype).view(tensor.shape))
        dist.all_reduce(tensor)
        same(tensor, sum(numbers(r, tensor.numel(), tensor.dtype) for r in range(world)).view(tensor.shape) if tensor.numel() else tensor)
    # Many, one after the other: what is dropped is given back.
    for i in range(200):
        tensor = hfreduce.torch.empty(100_000)
        tensor.fill_(i)
    dist.all_reduce(tensor, async_op=True).wait()
    same(tensor, torch.full((100_000,), 199.0 * world))
    group = dist.new_group(list(range(world)))
    mine = hfreduce.torch.empty(10, group=group).fill_(rank + 1)
    dist.all_reduce(mine, group=group)
    same(mine, torch.full((10,), world * (world + 1) / 2))
    dist.destroy_process_group(group)
    # Memory outlives its group.
    same(mine, torch.full((10,), world * (world + 1) / 2))


def test_shared_tensors() -> None:
    play(3, shared)


def elsewhere(rank: int, world: int) -> None:
    import hfreduce.torch

    assert "not hfr" in str(error_of(hfreduce.torch.empty, 3))


def test_other_backends_have_none() -> None:
    play(1, elsewhere, backend="gloo")


def python(code: str, **env: str) -> str:
    import os

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env={**os.environ, **env})
    assert done.returncode == 0, done.stderr
    return done.stdout


START = "dist.init_process_group('hfr', init_method='tcp://127.0.0.1:0', rank=0, world_size=1)"


def test_found_without_an_import() -> None:
    code = f"import torch, torch.distributed as dist\n{START}\nprint(dist.get_backend(), dist.is_backend_available('hfr'))"
    assert python(code) == "hfr True\n"


def test_nothing_native_is_loaded_before_it_is_asked_for() -> None:
    code = "import sys, torch\nprint('hfreduce.torch._backend' in sys.modules)"
    assert python(code).startswith("False")


def test_registered_by_hand_where_autoload_is_off() -> None:
    twice = "hfreduce.torch.register()\n" * 2
    code = f"import torch.distributed as dist, hfreduce.torch\n{twice}{START}\nprint(dist.get_backend())"
    assert python(code, TORCH_DEVICE_BACKEND_AUTOLOAD="0") == "hfr\n"


def test_options_are_refused() -> None:
    code = f"""
import torch.distributed as dist
try:
    dist.init_process_group('hfr', init_method='tcp://127.0.0.1:0', rank=0, world_size=1, pg_options=object())
except ValueError as error:
    print(error)
"""
    assert "HFR_" in python(code)
