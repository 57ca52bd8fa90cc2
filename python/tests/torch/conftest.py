"""Starts the process from which all ranks are forked, with torch imported once, and ends it with the session.

Knows no test. Invariant: nothing that a test starts outlives it (see `ranks`).
"""

import multiprocessing
import os

import pytest

import ranks

# Hosts of tests have few cores; a rank is one process and needs one thread.
os.environ.setdefault("OMP_NUM_THREADS", "1")
multiprocessing.set_forkserver_preload(
    ["ranks", "torch._dynamo", "torch.distributed.tensor", "torch.distributed.fsdp", "torch.nn.parallel"]
)


def pytest_collection_modifyitems(items: list) -> None:
    """The same tests, run against gloo, check themselves; what gloo has not is left out then."""
    if ranks.BACKEND == "hfr":
        return
    for item in items:
        if item.get_closest_marker("hfr"):
            item.add_marker(pytest.mark.skip(reason=f"not in {ranks.BACKEND}"))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "hfr: needs what only the backend hfr has")


def pytest_report_header() -> str:
    import torch

    return f"torch {torch.__version__}, backend {ranks.BACKEND}"
