"""What one all_reduce costs from torch: hfr and gloo in the same processes, call by call in turns, so that a busy machine slows both.

    python python/bench/bench_torch.py --ranks 2 4 --bytes 8 65536

Prints medians over all calls of rank 0, in microseconds. Knows nothing of DDP. A call is timed from dist.all_reduce to its return.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from datetime import timedelta
from typing import Dict, List, Tuple

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

BACKENDS = ("hfr", "gloo")
# Calls in a row with one backend before it is the other's turn.
TURN = 20


def measure(group: "dist.ProcessGroup", tensor: torch.Tensor, calls: int, asynchronous: bool) -> List[float]:
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        if asynchronous:
            dist.all_reduce(tensor, group=group, async_op=True).wait()
        else:
            dist.all_reduce(tensor, group=group)
        times.append((time.perf_counter() - began) * 1e6)
    return times


def rank(index: int, world: int, port: int, sizes: List[int], turns: int, results: "multiprocessing.SimpleQueue") -> None:
    torch.set_num_threads(1)
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    store = dist.TCPStore("127.0.0.1", port, is_master=False)
    dist.init_process_group("hfr", store=store, rank=index, world_size=world, timeout=timedelta(seconds=60))
    groups = {name: dist.new_group(backend=name) for name in BACKENDS}
    for size in sizes:
        tensor = torch.zeros(max(size // 4, 1))
        for asynchronous in (False, True):
            times: Dict[str, List[float]] = {name: [] for name in BACKENDS}
            for turn in range(turns + 2):
                for name, group in groups.items():
                    taken = measure(group, tensor, TURN, asynchronous)
                    # The first turns warm up: plans, connections, allocators.
                    times[name] += taken if turn >= 2 else []
            if index == 0:
                results.put((size, asynchronous, {name: statistics.median(all) for name, all in times.items()}))
    dist.destroy_process_group()


def play(world: int, sizes: List[int], turns: int) -> List[Tuple[int, bool, Dict[str, float]]]:
    context = multiprocessing.get_context("spawn")
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    results = context.SimpleQueue()
    multiprocessing.spawn(rank, (world, store.port, sizes, turns, results), nprocs=world)
    found = []
    while not results.empty():
        found.append(results.get())
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--bytes", type=int, nargs="+", default=[8, 65536])
    parser.add_argument("--turns", type=int, default=50)
    options = parser.parse_args()
    print(f"torch {torch.__version__}, all_reduce of float32, median of {options.turns * TURN} calls, in us")
    print(f"{'ranks':>5} {'bytes':>9} {'call':>6} {'hfr':>9} {'gloo':>9} {'gloo/hfr':>9}")
    for world in options.ranks:
        for size, asynchronous, medians in play(world, options.bytes, options.turns):
            hfr, gloo = (medians[name] for name in BACKENDS)
            print(f"{world:5} {size:9} {'async' if asynchronous else 'sync':>6} {hfr:9.1f} {gloo:9.1f} {gloo / hfr:9.1f}")


if __name__ == "__main__":
    main()
