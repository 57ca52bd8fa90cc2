"""Times a step over two backends in one job: replicas with the same weights and batches are stepped in turn, a block of steps each.

Whatever else the machine does hits all of them alike, which two jobs one after the other would not give. A third replica that exchanges
nothing shows what a step costs at the least. A step lasts until the slowest rank has made it; nothing is said about single ranks.
With `--backend gloo` the same backend is timed twice: what is seen then is the noise.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Iterable

import torch
import torch.distributed as dist

import job
import strategies
import text

BLOCK = 5
ALONE = "(none)"


def run(args: argparse.Namespace, log: job.Log) -> None:
    rank, world = dist.get_rank(), dist.get_world_size()
    learnt, _ = text.split(text.read(args.text), args.context)
    sizes = job.sizes(args)
    names = [args.backend, "gloo", ALONE]
    replicas = [strategies.build(args.strategy, sizes, args.seed, dist.new_group(backend=name)) for name in names[:2]]
    replicas.append(strategies.alone(sizes, args.seed))
    dealer = text.Dealer(learnt, batch=args.batch, workers=args.workers, rank=rank, world=world, seed=args.seed)
    batches = dealer.batches(lambda epoch: log.write(epoch=epoch, **job.held()))
    times, losses = turns(args, replicas, batches)
    for step, (seconds, means) in enumerate(zip(times, losses, strict=True)):
        log.write(step=step, loss=means, seconds=seconds)
    # The first block warms up: torch makes DDP's buckets anew after the first step, and the library connects.
    slowest = worst_of_ranks(times)[BLOCK:]
    show(args, names, slowest)
    for name, loss in zip(names[:2], losses[-1], strict=False):
        job.say(f"loss of the last step over {name}: {loss:.4f}")


def turns(
    args: argparse.Namespace, replicas: list[strategies.Replica], batches: Iterable[torch.Tensor]
) -> tuple[list[list[float]], list[list[float]]]:
    """Seconds, and mean losses, by step and replica. Blocks go round in one order and then in the other, so that none is always first."""
    supply = iter(batches)
    times, losses = [], []
    for block in range(1 + max(1, -(-args.steps // BLOCK))):
        dealt = list(itertools.islice(supply, BLOCK))
        order = list(enumerate(replicas))[:: -1 if block % 2 else 1]
        rows = [[0.0] * len(replicas) for _ in dealt]
        kept = [[0.0] * len(replicas) for _ in dealt]
        for place, replica in order:
            dist.barrier()
            for inside, batch in enumerate(dealt):
                start = time.perf_counter()
                loss, _ = replica.step(batch, job.rate_at(block * BLOCK + inside, args.rate))
                rows[inside][place] = time.perf_counter() - start
                kept[inside][place] = loss.item()
        times += rows
        losses += kept
    shared = torch.tensor(losses, dtype=torch.float64)
    dist.all_reduce(shared)
    return times, (shared / dist.get_world_size()).tolist()


def worst_of_ranks(times: list[list[float]]) -> list[list[float]]:
    worst = torch.tensor(times, dtype=torch.float64)
    dist.all_reduce(worst, dist.ReduceOp.MAX)
    return worst.tolist()


def show(args: argparse.Namespace, names: list[str], times: list[list[float]]) -> None:
    tokens = args.batch * args.context * dist.get_world_size()
    weights = strategies.count(job.sizes(args)) / 1e6
    job.say(
        f"{args.strategy}, {weights:.2f} million weights, {dist.get_world_size()} ranks, {tokens} tokens a step,"
        f" {len(times)} steps each in blocks of {BLOCK}"
    )
    job.say(f"{'backend':<10}{'step ms':>10}{'quartiles':>20}{'tokens/s':>12}")
    for name, column in zip(names, zip(*times, strict=True), strict=True):
        low, middle, high = statistics.quantiles(column, n=4)
        job.say(f"{name:<10}{1e3 * middle:>10.1f}{f'{1e3 * low:.1f} .. {1e3 * high:.1f}':>20}{tokens / middle:>12.0f}")
    # Blocks that ran next to each other are set against each other, which leaves out what drifts.
    blocks = [times[start : start + BLOCK] for start in range(0, len(times), BLOCK)]
    ratios = [sum(row[1] for row in block) / sum(row[0] for row in block) for block in blocks]
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    job.say(
        f"a step over {names[1]} takes {middle:.3f} times as long as over {names[0]}"
        f" (quartiles {low:.3f} .. {high:.3f} over {len(ratios)} blocks)"
    )
