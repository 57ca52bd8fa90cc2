"""From torch's reduce operations to the library's names, and from torch's timeouts to seconds.

Knows nothing of groups or tensors. An operation that the library has not is an error here, never silently another one.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Optional, Tuple

# By torch's own numbers, which ReduceOp's hash is: one call instead of two through the binding.
_NAMES = ("sum", "avg", "prod", "min", "max", "band", "bor", "bxor")
_PREMUL_SUM = 8


def reduction(op: Any) -> Tuple[str, Optional[float]]:
    """Name and factor of a ReduceOp, or of a constant like ReduceOp.SUM."""
    number = hash(op)
    if number < _PREMUL_SUM:
        return _NAMES[number], None
    if number == _PREMUL_SUM:
        return "sum", _factor(op)
    raise ValueError(f"backend hfr has no reduce operation {op}; use SUM, AVG, PRODUCT, MIN, MAX, BAND, BOR, BXOR or PREMUL_SUM")


def _factor(op: Any) -> float:
    """The factor of a PREMUL_SUM. `ReduceOp.factor` is new; the pickling state has held it since torch 1.13."""
    state = op.__getstate__() if hasattr(op, "__getstate__") else ()
    factor = state[1] if len(state) == 2 else None
    if factor is None:
        raise ValueError("this PREMUL_SUM has no factor; make it with torch.distributed._make_nccl_premul_sum(factor)")
    return float(factor)


def seconds(timeout: Optional[timedelta]) -> Optional[float]:
    """A timeout as a caller gave it. None, zero and torch's unset value (minus one millisecond) all mean the group's own: None."""
    if timeout is None:
        return None
    limit = timeout.total_seconds()
    return limit if limit > 0 else None
