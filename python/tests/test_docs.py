"""What the manual shows works: its command, and every block of Python in a job of two ranks."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import List

import pytest

from ranks import free_port, job, values

MANUAL = pathlib.Path(__file__).resolve().parents[2] / "docs" / "python.md"


def blocks(language: str) -> List[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", MANUAL.read_text(), re.M | re.S)


def run_block(number: int) -> bool:
    exec(compile(blocks("python")[number], f"block {number}", "exec"), {"__name__": "__main__"})
    return True


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_block(number: int) -> None:
    assert values(job(run_block, 2, number)) == [True, True]


def test_the_command() -> None:
    command = blocks("sh")[0].replace("29600", str(free_port())).replace("python3", sys.executable)
    command = "\n".join(line for line in command.splitlines() if not line.startswith("pip "))
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HFR_")}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(["bash", "-c", command], cwd=folder, env=clean, capture_output=True, text=True, timeout=120)
    # Four processes write at once: a line's end may come behind another's line.
    said = sorted(re.findall(r"rank \d of 4: \[10\. 10\. 10\.\]", done.stdout))
    assert said == [f"rank {rank} of 4: [10. 10. 10.]" for rank in range(4)], done
