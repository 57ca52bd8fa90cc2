"""Starts training jobs for the tests, and sees to it that they end and leave nothing behind.

Every process of a job carries a mark in its environment; by it they are found again, whoever has started them. A job that takes
longer than it may is killed, all of it. What is looked at is what is left when the job has ended: processes, and files in shared
memory that nobody uses any more (files of other jobs on the machine are in use, and are left out).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Collection, Iterator

FOLDER = pathlib.Path(__file__).resolve().parent.parent
LIMIT = 120
MARK = "HFR_EXAMPLE_JOB"
SHARED = pathlib.Path("/dev/shm")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a job printed, and what each of its ranks recorded."""

    output: str
    ranks: list[list[dict[str, object]]]

    def steps(self, rank: int = 0) -> list[dict[str, float]]:
        return [record for record in self.ranks[rank] if "step" in record]  # type: ignore[misc]

    def epochs(self, rank: int) -> list[dict[str, int]]:
        return [record for record in self.ranks[rank] if "epoch" in record]  # type: ignore[misc]

    def last(self, rank: int) -> dict[str, object]:
        return self.ranks[rank][-1]


def run(command: list[str], record: pathlib.Path | None, ranks: int, **environment: str) -> Outcome:
    """Runs one command to its end, which must be a success, and reads what `ranks` ranks recorded."""
    code, output = call(command, **environment)
    assert code == 0, f"{' '.join(command)} failed with {code}:\n{output}"
    return Outcome(output, [] if record is None else records(record, ranks))


def records(folder: pathlib.Path, ranks: int) -> list[list[dict[str, object]]]:
    """What the ranks of a job have recorded in a folder."""
    return [lines(folder / f"rank{rank}.jsonl") for rank in range(ranks)]


def torchrun(ranks: int, script: str, *options: str) -> list[str]:
    """A job on one node; --standalone takes a free port, so that jobs do not meet."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), str(FOLDER / script), *options]


def two_nodes(*options: str) -> list[str]:
    """A job of two ranks on each of two emulated nodes."""
    return [str(FOLDER / "two_nodes.sh"), *options]


def call(command: list[str], **environment: str) -> tuple[int, str]:
    """Runs a command within the time it may take; its exit code and all it printed."""
    mark = uuid.uuid4().hex
    settings = {"OMP_NUM_THREADS": "1", "TORCHRUN": f"{sys.executable} -m torch.distributed.run", **environment, MARK: mark}
    before = shared_files()
    with subprocess.Popen(
        command, env=os.environ | settings, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            output, _ = process.communicate(timeout=LIMIT)
        except subprocess.TimeoutExpired:
            kill(mark)
            output, _ = process.communicate()
            raise AssertionError(f"{' '.join(command)} took more than {LIMIT} s:\n{output}") from None
    try:
        left = still(lambda: processes(mark))
    finally:
        kill(mark)
    assert not left, f"{' '.join(command)} left processes behind: {left}"
    orphans = still(lambda: orphaned(before))
    assert not orphans, f"{' '.join(command)} left files in {SHARED}: {orphans}"
    return process.returncode, output


def lines(path: pathlib.Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def processes(mark: str) -> dict[int, str]:
    """The living processes that carry the mark, with their command lines."""
    found = {}
    wanted = f"{MARK}={mark}".encode()
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return found


def still(look: Callable[[], Collection[object]]) -> Collection[object]:
    """What is still seen a little later, too: processes end in their own time, and files of other jobs come and go."""
    end = time.monotonic() + 5
    while (left := look()) and time.monotonic() < end:
        time.sleep(0.05)
    return left


def kill(mark: str) -> None:
    for process in processes(mark):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def shared_files() -> dict[str, int]:
    """The files in shared memory, each with its inode."""
    found = {}
    for path in SHARED.iterdir():
        with contextlib.suppress(FileNotFoundError):
            found[str(path)] = path.stat().st_ino
    return found


def orphaned(before: dict[str, int]) -> list[str]:
    """The files in shared memory that are new and that nobody uses."""
    new = {path: inode for path, inode in shared_files().items() if path not in before}
    used = used_files() if new else set()
    return [path for path, inode in new.items() if inode not in used]


def used_files() -> set[int]:
    """The inodes in shared memory that some living process has mapped or open. A name would not do: semaphores change theirs."""
    return {inode for folder in pathlib.Path("/proc").glob("[0-9]*") for inode in files_of(folder)}


def files_of(process: pathlib.Path) -> Iterator[int]:
    with contextlib.suppress(OSError):
        for line in (process / "maps").read_text(encoding="utf-8").splitlines():
            if f" {SHARED}/" in line:
                yield int(line.split()[4])
    with contextlib.suppress(OSError):
        for link in (process / "fd").iterdir():
            with contextlib.suppress(OSError):
                if os.readlink(link).startswith(f"{SHARED}/"):
                    yield link.stat().st_ino
