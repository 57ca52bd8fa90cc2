"""Training over the backend goes as it does over gloo: every strategy, two nodes, accelerate, forked workers, two ranks.

Each test starts whole jobs with torchrun, as a user would; gloo is the reference for all. Jobs are tiny and real: the loss falls.
"""

from __future__ import annotations

import re
import sys

import pytest

import curves
import jobs
from conftest import Trainer

TOLERANCES = {"ddp": curves.F32, "ddp-bf16": curves.BF16, "fsdp2": curves.F32, "zero": curves.F32}


@pytest.mark.parametrize("strategy", TOLERANCES)
def test_the_curve_is_that_of_gloo(train: Trainer, gloo: dict[str, jobs.Outcome], backend: str, strategy: str) -> None:
    ours = train(backend, "--strategy", strategy)
    curves.check_learnt(ours)
    assert not curves.differences(ours, gloo[strategy], TOLERANCES[strategy])


def test_the_tolerance_would_show_bf16(train: Trainer, backend: str) -> None:
    plain, rounded = (train(backend, "--strategy", strategy) for strategy in ("ddp", "ddp-bf16"))
    assert curves.differences(plain, rounded, curves.F32), "either bf16 was not on the wire, or the comparison sees nothing"


def test_zero_ends_with_the_bits_of_ddp(train: Trainer, backend: str) -> None:
    """The same gradients and the same optimiser, in shares: two jobs that must not differ in one bit."""
    weights = {train(backend, "--strategy", strategy).last(0)["weights"] for strategy in ("ddp", "zero")}
    assert len(weights) == 1


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_nodes(train: Trainer, gloo: dict[str, jobs.Outcome], backend: str, strategy: str) -> None:
    ours = train(backend, "--strategy", strategy, nodes=2)
    curves.check_learnt(ours)
    assert not curves.differences(ours, gloo[strategy], curves.F32)


def test_accelerate(train: Trainer, backend: str) -> None:
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    ours = train(backend, script="accelerate_train.py")
    curves.check_learnt(ours)
    assert not curves.differences(ours, train("gloo", script="accelerate_train.py"), curves.F32)
    assert f"accelerate over {backend}: done on 4 ranks" in ours.output


def test_forked_workers_on_two_ranks(train: Trainer, backend: str, short_text: str) -> None:
    """Workers are forked anew in each epoch, beside whatever threads and shared memory the backend has in the parent."""
    ours = train(backend, "--text", short_text, "--workers", "2", ranks=2)
    curves.check_learnt(ours)
    assert not curves.differences(ours, train("gloo", "--text", short_text, ranks=2), curves.F32)
    for rank in range(2):
        epochs = ours.epochs(rank)
        assert len(epochs) >= 5, f"too few epochs to see anything grow: {epochs}"
        assert all(epoch["children"] == 0 for epoch in epochs), f"rank {rank} has child processes left: {epochs}"
        # The loader's queues close on threads of their own, so that single epochs may count some more; what leaks stays.
        late = min(epoch["open_files"] for epoch in epochs[2:])
        assert late <= epochs[0]["open_files"], f"rank {rank} leaks open files: {epochs}"
        assert ours.last(rank)["children"] == 0


def test_compare_steps_both_alike(train: Trainer, backend: str) -> None:
    outcome = train(backend, "--compare")
    steps = outcome.steps()
    for step in steps:
        ours, gloo, alone = step["loss"]  # type: ignore[misc]
        assert abs(ours - gloo) <= curves.F32.loss, f"the replicas went different ways: {step}"
    assert abs(gloo - alone) > curves.F32.loss, "replicas that exchange nothing cannot end where the others do"
    assert steps[0]["loss"][0] > steps[-1]["loss"][0] + 1  # type: ignore[index]
    table = dict.fromkeys(re.findall(r"^(\S+) +[\d.]+ +[\d.]+ \.\. [\d.]+ +\d+$", outcome.output, re.MULTILINE))
    assert list(table) == list(dict.fromkeys([backend, "gloo", "(none)"])), outcome.output
    assert f"as long as over {backend} " in outcome.output


def test_without_a_launcher_or_a_backend_there_is_advice() -> None:
    code, output = jobs.call([sys.executable, str(jobs.FOLDER / "train.py")])
    assert code != 0 and "start it with torchrun" in output and "Traceback" not in output
    code, output = jobs.call(jobs.torchrun(1, "train.py", "--backend", "nobody"))
    assert code != 0 and "torch knows no backend nobody: pip install ./python" in output
