"""Trains a small GPT over real text, data parallel, with the backend and the strategy you name.

    torchrun --nproc-per-node 4 examples/gpt/train.py --backend hfr --strategy ddp

Rank 0 prints the loss as it falls and what a step took; `--record` keeps both for every rank. With `--compare` two replicas are stepped
in turn instead, one over the backend and one over gloo (compare.py). All ranks end with the same weights, or the job fails.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch.distributed as dist

import compare
import job
import strategies
import text


def main() -> None:
    parser = job.options("Trains a small GPT over real text, data parallel. Start it with torchrun.")
    parser.add_argument("--strategy", choices=strategies.STRATEGIES, default="ddp")
    parser.add_argument("--compare", action="store_true", help="time steps over --backend and over gloo, in turn")
    args = parser.parse_args()
    # With --compare both groups are made on equal terms, beside a default group that serves only to hand out their addresses.
    job.need(args.backend)
    job.start("gloo" if args.compare else args.backend)
    with job.Log(args.record) as log:
        (compare.run if args.compare else train)(args, log)
    job.finish()


def train(args: argparse.Namespace, log: job.Log) -> None:
    rank, world = dist.get_rank(), dist.get_world_size()
    learnt, kept = text.split(text.read(args.text), args.context)
    group = dist.group.WORLD
    replica = strategies.build(args.strategy, job.sizes(args), args.seed, group)
    job.say(
        f"{args.strategy} over {args.backend}: {strategies.count(job.sizes(args)) / 1e6:.2f} million weights, {world} ranks,"
        f" {len(learnt)} windows of {args.context} bytes"
    )
    dealer = text.Dealer(learnt, batch=args.batch, workers=args.workers, rank=rank, world=world, seed=args.seed)
    batches = dealer.batches(lambda epoch: log.write(epoch=epoch, **job.held()))
    took = []
    for step in range(args.steps):
        batch = next(batches)
        start = time.perf_counter()
        loss, norm = replica.step(batch, job.rate_at(step, args.rate))
        took.append(time.perf_counter() - start)
        shared = job.mean(loss, group)
        log.write(step=step, loss=shared, norm=norm.item(), seconds=took[-1])
        if step % max(1, args.steps // 10) == 0 or step == args.steps - 1:
            job.say(f"step {step:5}  loss {shared:.4f}  {1e3 * statistics.median(took[-50:]):.1f} ms")
    # Ends the loader's workers, if an epoch was under way.
    batches.close()
    unseen = job.mean(replica.look(text.held_out(kept, args.batch, rank, world)), group)
    median = statistics.median(took)
    digest = replica.digest()
    log.write(held_out=unseen, weights=digest, **job.held())
    job.say(f"held-out loss {unseen:.4f}; step {1e3 * median:.1f} ms (median), {args.batch * args.context * world / median:.0f} tokens/s")
    same_weights(digest)


def same_weights(digest: str) -> None:
    """Fails on every rank if any rank has other weights."""
    digests: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(digests, digest)
    others = [rank for rank, other in enumerate(digests) if other != digests[0]]
    if others:
        raise SystemExit(f"ranks {others} ended with other weights than rank 0")
    job.say(f"weights are identical on all {len(digests)} ranks: {digest[:16]}")


if __name__ == "__main__":
    main()
