"""When two training runs count as the same.

The norm of the reduced gradient is compared as well as the loss: AdamW divides by the gradient's size, and would hide a sum in the place
of a mean. Knows nothing of how runs are made.
"""

from __future__ import annotations

import dataclasses

import jobs


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """How far two curves may be apart at any step: the loss in nats, the norm in parts of itself."""

    loss: float
    norm: float


# Two orders of addition differ by some 1e-7 in f32. In bf16 a sum is off by up to 2^-9 of itself each time it is rounded, and gloo rounds
# after each addition. Both leave two decimal orders of room, or one.
F32 = Tolerance(loss=1e-4, norm=1e-4)
BF16 = Tolerance(loss=1e-3, norm=1e-2)


def differences(one: jobs.Outcome, other: jobs.Outcome, tolerance: Tolerance) -> list[str]:
    """The steps at which two runs are further apart than they may be."""
    pairs = list(zip(one.steps(), other.steps(), strict=True))
    assert pairs, "neither run has a step"
    return [
        f"step {a['step']}: loss {a['loss']} and {b['loss']}, norm {a['norm']} and {b['norm']}"
        for a, b in pairs
        # Written so that a NaN is a difference.
        if not (abs(a["loss"] - b["loss"]) <= tolerance.loss and abs(a["norm"] - b["norm"]) <= tolerance.norm * b["norm"])
    ]


def check_learnt(outcome: jobs.Outcome) -> None:
    """The loss fell by far more than chance, all ranks say the same of it, and all hold the same weights."""
    losses = [step["loss"] for step in outcome.steps()]
    assert 5 < losses[0] < 6.5, f"256 bytes guessed blindly cost 5.5 nats, not {losses[0]}"
    assert losses[-1] < losses[0] - 1, f"the loss fell only from {losses[0]} to {losses[-1]}"
    for rank in range(1, len(outcome.ranks)):
        assert [step["loss"] for step in outcome.steps(rank)] == losses, f"rank {rank} saw other losses than rank 0"
        assert outcome.last(rank)["weights"] == outcome.last(0)["weights"], f"rank {rank} ended with other weights than rank 0"
