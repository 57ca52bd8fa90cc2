"""A small GPT over bytes: pre-norm blocks, causal attention, learned positions.

It knows nothing of processes, data or optimisers. The same seed gives the same weights on every rank, so that a replica needs no
exchange to start equal. A head has 32 numbers, hence the width is a multiple of 32.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import nn

BYTES = 256
HEAD = 32


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the model's shape is made of; `context` is the longest text it sees, in bytes."""

    layers: int
    width: int
    context: int

    def __post_init__(self) -> None:
        if min(self.layers, self.width, self.context) < 1 or self.width % HEAD:
            raise ValueError(f"layers, width and context are at least 1, and the width a multiple of {HEAD}; got {self}")


class Block(nn.Module):
    """Attention, then two dense layers; each adds to what came in."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.norm2 = nn.LayerNorm(width)
        self.grow = nn.Linear(width, 4 * width)
        self.shrink = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, length, width = x.shape
        heads = self.qkv(self.norm1(x)).view(batch, length, 3, width // HEAD, HEAD).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
        x = x + self.mix(seen.transpose(1, 2).reshape(batch, length, width))
        return x + self.shrink(F.gelu(self.grow(self.norm2(x))))


class Gpt(nn.Module):
    """Called with windows of context + 1 bytes; returns the mean loss of guessing each next byte."""

    def __init__(self, sizes: Sizes, seed: int) -> None:
        super().__init__()
        self.byte = nn.Embedding(BYTES, sizes.width)
        self.place = nn.Embedding(sizes.context, sizes.width)
        self.blocks = nn.ModuleList(Block(sizes.width) for _ in range(sizes.layers))
        self.norm = nn.LayerNorm(sizes.width)
        self.guess = nn.Linear(sizes.width, BYTES, bias=False)
        generator = torch.Generator().manual_seed(seed)
        for name, weight in self.named_parameters():
            if weight.dim() == 1:
                # Norms start as torch has them, at 1 and 0.
                if name.endswith("bias"):
                    nn.init.zeros_(weight)
                continue
            # Layers that add to the stream start smaller, so that its size does not grow with depth.
            adds = name.endswith(("mix.weight", "shrink.weight"))
            nn.init.normal_(weight, std=0.02 / ((2 * sizes.layers) ** 0.5 if adds else 1), generator=generator)

    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        text, following = windows[:, :-1], windows[:, 1:]
        x = self.byte(text) + self.place(torch.arange(text.shape[1]))
        for block in self.blocks:
            x = block(x)
        return F.cross_entropy(self.guess(self.norm(x)).flatten(0, 1), following.flatten())
