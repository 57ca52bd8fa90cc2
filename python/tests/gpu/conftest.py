"""Tests for a real GPU: skipped, with a line that says so, where torch finds none. They use the ranks of the tests in `../torch`.

Knows no test. Invariant: this process never touches a device, so that the ranks have it for themselves.
"""

import multiprocessing
import os
import pathlib
import sys
from typing import List

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "torch"))
os.environ.setdefault("OMP_NUM_THREADS", "1")
# The ranks' server is another program: it has to find them too.
os.environ["PYTHONPATH"] = os.pathsep.join([sys.path[0], *filter(None, [os.environ.get("PYTHONPATH")])])
multiprocessing.set_forkserver_preload(["ranks", "torch.distributed.fsdp", "torch.nn.parallel"])


def available() -> bool:
    import torch

    return torch.cuda.is_available()


def pytest_collection_modifyitems(items: List[pytest.Item]) -> None:
    if not available():
        for item in items:
            item.add_marker(pytest.mark.skip(reason="torch.cuda.is_available() is False: no GPU, or no driver for this torch"))


def pytest_report_header() -> str:
    import torch

    device = torch.cuda.get_device_name(0) if available() else "no GPU: these tests are skipped"
    return f"torch {torch.__version__}, CUDA {torch.version.cuda}, {device}"
