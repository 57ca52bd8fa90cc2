"""Plays the ranks of a job, as processes: `job(body, size)` runs a function of a test module in each of them.

Knows no collective. Invariant: when `job` returns, every process has ended, by itself or killed after the timeout.
"""

from __future__ import annotations

import importlib
import itertools
import json
import os
import pathlib
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import Any, Callable, Dict, List, Optional

HERE = pathlib.Path(__file__).resolve().parent


class Ended:
    """How a rank's process ended."""

    def __init__(self, rank: int, code: int, out: str, err: str, value: Any) -> None:
        self.rank, self.code, self.out, self.err, self.value = rank, code, out, err, value

    def __repr__(self) -> str:
        return f"rank {self.rank}: exit code {self.code}\n{self.out}\n{self.err}"


_numbers = itertools.count(os.getpid() * 997)


def free_port() -> int:
    """A port that was free a moment ago, below those that the kernel hands out by itself: no connection of another test takes it before it is used."""
    for number in itertools.islice(_numbers, 12000):
        port = 8000 + number % 12000
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port from 8000 to 19999 is free")


def environment(rank: int, size: int, nodes: int, port: int, cookie: str) -> Dict[str, str]:
    mine = {k: v for k, v in os.environ.items() if not k.startswith("HFR_")}
    mine.update(
        HFR_RANK=str(rank),
        HFR_WORLD_SIZE=str(size),
        HFR_COMM_ID=f"127.0.0.1:{port}",
        HFR_COOKIE=cookie,
        HFR_NODE=f"node{rank * nodes // size}",
        HFR_CONNECT_TIMEOUT="60",
        HFR_TIMEOUT="40",
        PYTHONFAULTHANDLER="1",
    )
    return mine


def job(
    body: Callable[..., Any],
    size: int,
    *arguments: Any,
    nodes: int = 1,
    env: Optional[Dict[str, str]] = None,
    timeout: float = 120,
    fails: bool = False,
) -> List[Ended]:
    """Runs `body(*arguments)` in `size` processes; what it returns comes back as JSON. Every process must exit with 0, unless `fails`."""
    port, cookie = free_port(), secrets.token_hex(8)
    module = pathlib.Path(sys.modules[body.__module__].__file__).stem
    started = []
    with tempfile.TemporaryDirectory() as folder:
        results = [pathlib.Path(folder) / str(rank) for rank in range(size)]
        for rank in range(size):
            command = [sys.executable, __file__, module, body.__name__, json.dumps(arguments), str(results[rank])]
            own = {**environment(rank, size, nodes, port, cookie), **(env or {})}
            started.append(
                subprocess.Popen(command, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=HERE)
            )
        ended = _collect(started, results, time.monotonic() + timeout)
    if not fails:
        bad = [e for e in ended if e.code != 0]
        assert not bad, "\n".join(map(repr, bad))
    return ended


def _collect(started: List[Any], results: List[pathlib.Path], until: float) -> List[Ended]:
    ended = []
    try:
        for rank, process in enumerate(started):
            try:
                out, err = process.communicate(timeout=max(0.1, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                # The traceback of every thread, from the fault handler.
                process.send_signal(signal.SIGABRT)
                out, err = process.communicate(timeout=20)
                err += "\nkilled after the timeout"
            value = json.loads(results[rank].read_text()) if results[rank].exists() else None
            ended.append(Ended(rank, process.returncode, out, err, value))
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
                process.wait()
    return ended


def values(ended: List[Ended]) -> List[Any]:
    return [e.value for e in ended]


def main() -> None:
    module, name, arguments, result = sys.argv[1:]
    body = getattr(importlib.import_module(module), name)
    value = body(*json.loads(arguments))
    pathlib.Path(result).write_text(json.dumps(value))


if __name__ == "__main__":
    # Tests find their helpers here, whatever the interpreter was told about safe paths.
    sys.path.insert(0, str(HERE))
    main()
