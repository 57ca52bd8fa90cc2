"""The text that is learnt, cut into windows and dealt to the ranks.

Without a file of yours it is the source of Python's standard library, which is on every machine that can run this: about 4 MB,
(c) Python Software Foundation, under the PSF License Agreement (LICENSE.txt in the same folder; nothing is copied from there).
The last twentieth is held out. Knows nothing of the model; all ranks see different windows, and all windows once per epoch.
"""

from __future__ import annotations

import pathlib
import sysconfig
from collections.abc import Callable, Generator

import torch
from torch.utils.data import DataLoader, Dataset, DistributedSampler


def read(path: str | None) -> bytes:
    """The file at `path`, or the modules at the top of the standard library in the order of their names."""
    if path is not None:
        return pathlib.Path(path).read_bytes()
    folder = pathlib.Path(sysconfig.get_path("stdlib"))
    text = b"\n".join(file.read_bytes() for file in sorted(folder.glob("*.py")))
    if len(text) < 200_000:
        raise SystemExit(f"{folder} holds hardly any Python source: give a text with --text FILE")
    return text


class Windows(Dataset[torch.Tensor]):
    """Non-overlapping windows of context + 1 bytes, the last byte of one being the first of the next."""

    def __init__(self, text: bytes, context: int) -> None:
        self.text = torch.frombuffer(bytearray(text), dtype=torch.uint8)
        self.context = context

    def __len__(self) -> int:
        return (len(self.text) - 1) // self.context

    def __getitem__(self, index: int) -> torch.Tensor:
        start = index * self.context
        return self.text[start : start + self.context + 1].long()


def split(text: bytes, context: int) -> tuple[Windows, Windows]:
    """What is trained on, and what is held out."""
    at = len(text) - len(text) // 20
    return Windows(text[:at], context), Windows(text[at:], context)


def loader(windows: Windows, batch: int, workers: int, **more: object) -> DataLoader[torch.Tensor]:
    """A DataLoader whose workers are forked: that is what trainers do, and what a library with threads and shared memory must bear."""
    context = "fork" if workers else None
    settings = {"num_workers": workers, "multiprocessing_context": context, "drop_last": True, **more}
    return DataLoader(windows, batch, **settings)  # type: ignore[arg-type]


class Dealer:
    """Batches of this rank without end: epoch after epoch, shuffled anew each time, with new workers each time."""

    def __init__(self, windows: Windows, *, batch: int, workers: int, rank: int, world: int, seed: int) -> None:
        self.sampler: DistributedSampler[torch.Tensor] = DistributedSampler(windows, world, rank, seed=seed, drop_last=True)
        self.loader = loader(windows, batch, workers, sampler=self.sampler)
        if len(self.loader) == 0:
            raise SystemExit(f"the text has {len(windows)} windows, too few for {world} ranks with batches of {batch}")

    def batches(self, after_epoch: Callable[[int], None]) -> Generator[torch.Tensor, None, None]:
        epoch = 0
        while True:
            self.sampler.set_epoch(epoch)
            yield from self.loader
            after_epoch(epoch)
            epoch += 1


def held_out(windows: Windows, batch: int, rank: int, world: int) -> torch.Tensor:
    """This rank's share of the held-out windows that are looked at: one batch, the same at every call."""
    if len(windows) < world:
        raise SystemExit(f"the text is too short: {len(windows)} held-out windows for {world} ranks")
    # Spread over the whole held-out text; every rank takes equally many, since a mean of means is reported.
    step = max(1, len(windows) // (batch * world))
    mine = range(rank * step, len(windows), world * step)[: max(1, min(batch, len(windows) // (world * step)))]
    return torch.stack([windows[index] for index in mine])
