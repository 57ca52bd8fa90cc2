"""The backend that is tried, and jobs that several tests look at: each is run once.

`HFR_EXAMPLE_BACKEND=gloo` tries the tests themselves where the library is not installed. It knows nothing of what a test expects.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable

import pytest

import jobs

TINY = ("--batch", "4", "--layers", "2", "--width", "64", "--context", "64", "--steps", "30")

Trainer = Callable[..., jobs.Outcome]


@pytest.fixture(scope="session")
def backend() -> str:
    return os.environ.get("HFR_EXAMPLE_BACKEND", "hfr")


@pytest.fixture(scope="session")
def train(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """Runs a tiny job, or gives the outcome of the same job before."""
    known: dict[tuple[object, ...], jobs.Outcome] = {}

    def run(backend: str, *options: str, ranks: int = 4, script: str = "train.py", nodes: int = 1) -> jobs.Outcome:
        job = (backend, options, ranks, script, nodes)
        if job not in known:
            record = tmp_path_factory.mktemp("record")
            all_options = ("--backend", backend, *TINY, *options, "--record", str(record))
            command = jobs.torchrun(ranks, script, *all_options) if nodes == 1 else jobs.two_nodes(*all_options)
            known[job] = jobs.run(command, record, ranks)
        return known[job]

    return run


@pytest.fixture(scope="session")
def gloo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, jobs.Outcome]:
    """How each strategy goes over gloo, on four ranks of one node."""
    folder = tmp_path_factory.mktemp("gloo")
    jobs.run(jobs.torchrun(4, "tests/reference.py", "--backend", "gloo", *TINY, "--record", str(folder)), None, 4)
    return {path.name: jobs.Outcome("", jobs.records(path, 4)) for path in folder.iterdir()}


@pytest.fixture(scope="session")
def short_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A text of so few windows that an epoch of two ranks is five steps."""
    path = tmp_path_factory.mktemp("text") / "short.txt"
    path.write_bytes(pathlib.Path(os.__file__).read_bytes()[:3_000])
    return str(path)
