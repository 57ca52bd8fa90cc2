"""What every trainer here needs of its job: options, the process group, a log, and a look at what the process holds.

It knows nothing of models. A log is a folder with one file of JSON lines per rank, so that what ranks should agree on can be
compared from outside, without the backend that is being tried.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import pathlib
import types

import torch
import torch.distributed as dist

from model import Sizes


def options(description: str) -> argparse.ArgumentParser:
    """The options that all trainers share."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--backend", default="hfr", help="the process group's backend: hfr, gloo, or any other that takes CPU tensors")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch", type=int, default=8, help="windows per rank and step")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--width", type=int, default=128, help="a multiple of 32")
    parser.add_argument("--context", type=int, default=128, help="bytes per window")
    parser.add_argument("--rate", type=float, default=1e-3, help="AdamW's learning rate, reached after 10 steps")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=0, help="forked DataLoader workers per rank")
    parser.add_argument("--text", metavar="FILE", help="what to learn, instead of Python's standard library")
    parser.add_argument("--record", metavar="FOLDER", help="write rank0.jsonl, rank1.jsonl, ... there")
    return parser


def sizes(args: argparse.Namespace) -> Sizes:
    return Sizes(args.layers, args.width, args.context)


def rate_at(step: int, rate: float) -> float:
    """Warm-up: AdamW's first steps are as large as its rate, whatever the gradient."""
    return rate * min(1.0, (step + 1) / 10)


def need(backend: str) -> None:
    """Ends the process with advice where the backend or the launcher is missing; torch's own texts name neither."""
    if "RANK" not in os.environ:
        raise SystemExit("this is one rank of a job: start it with torchrun --nproc-per-node 4")
    if not dist.is_backend_available(backend):
        raise SystemExit(
            f"torch knows no backend {backend}: pip install ./python, with the Python that runs this"
            " (and leave TORCH_DEVICE_BACKEND_AUTOLOAD unset, or import hfreduce.torch first)"
        )


def start(backend: str) -> None:
    """Joins the job that the launcher describes."""
    need(backend)
    dist.init_process_group(backend)


def finish() -> None:
    """Leaves the job; the models must be out of use."""
    # Modules that FSDP2 has touched hold their group in cycles. A group that outlives this takes its threads into the end of the
    # interpreter, where one that still wants Python aborts the process (seen with torch 2.15 over gloo, one job in three).
    gc.collect()
    dist.destroy_process_group()


def mean(value: torch.Tensor, group: dist.ProcessGroup | None) -> float:
    """The mean over the group's ranks; a sum and a division, since gloo does not know AVG."""
    total = value.detach().clone().float()
    dist.all_reduce(total, group=group)
    return total.item() / dist.get_world_size(group)


class Log:
    """One JSON object per line and rank; nowhere where no folder was named."""

    def __init__(self, folder: str | None) -> None:
        self.file = None
        if folder is not None:
            pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
            self.file = open(pathlib.Path(folder, f"rank{dist.get_rank()}.jsonl"), "w", buffering=1, encoding="utf-8")

    def write(self, **record: object) -> None:
        if self.file:
            self.file.write(json.dumps(record) + "\n")

    def __enter__(self) -> Log:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None) -> None:
        if self.file:
            self.file.close()


def say(text: str) -> None:
    """Rank 0 speaks for all."""
    if dist.get_rank() == 0:
        print(text, flush=True)


def held() -> dict[str, int]:
    """What may leak: this process's open files and child processes."""
    gc.collect()
    # The listing itself is one of the open files.
    return {"open_files": len(os.listdir("/proc/self/fd")) - 1, "children": len(children(os.getpid()))}


def children(parent: int) -> list[int]:
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            stat = pathlib.Path("/proc", name, "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue  # it has ended meanwhile
        # The program's name is in parentheses and may hold blanks; the parent is the second field after it.
        if int(stat.rpartition(")")[2].split()[1]) == parent:
            found.append(int(name))
    return found
