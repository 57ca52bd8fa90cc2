"""The same model and text under Hugging Face accelerate, over any backend.

    torchrun --nproc-per-node 4 examples/gpt/accelerate_train.py --backend hfr

Accelerate makes the process group itself and takes only backends that it knows by name; it takes a group that is there already as it is.
So the group comes first. Accelerate then shards the loader, wraps the model in DDP and reduces; nothing else here is about ranks.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import nn

import job
import strategies
import text
from model import Gpt


def main() -> None:
    args = job.options("Trains a small GPT under accelerate. Start it with torchrun.").parse_args()
    job.start(args.backend)
    accelerator = Accelerator(cpu=True)
    torch.manual_seed(args.seed)
    learnt, _ = text.split(text.read(args.text), args.context)
    model = Gpt(job.sizes(args), args.seed)
    model, optimizer, batches = accelerator.prepare(
        model, strategies.adam(model), text.loader(learnt, args.batch, args.workers, shuffle=True)
    )
    with job.Log(args.record) as log:
        step = 0
        while step < args.steps:
            for batch in batches:
                loss, norm = learn(accelerator, model, optimizer, batch, job.rate_at(step, args.rate))
                shared = accelerator.reduce(loss, "mean").item()
                log.write(step=step, loss=shared, norm=norm)
                if step % max(1, args.steps // 10) == 0 or step == args.steps - 1:
                    accelerator.print(f"step {step:5}  loss {shared:.4f}", flush=True)
                step += 1
                if step == args.steps:
                    break
            log.write(epoch=step, **job.held())
        log.write(weights=strategies.Replica(model, optimizer).digest(), **job.held())
    accelerator.print(f"accelerate over {dist.get_backend()}: done on {accelerator.num_processes} ranks")
    # Takes the process group down, too.
    accelerator.end_training()


def learn(
    accelerator: Accelerator, model: nn.Module, optimizer: torch.optim.Optimizer, batch: torch.Tensor, rate: float
) -> tuple[torch.Tensor, float]:
    """One step; the loss of this rank's batch and the norm of the reduced gradient."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad()
    loss = model(batch)
    accelerator.backward(loss)
    norm = accelerator.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.detach(), norm.item()


if __name__ == "__main__":
    main()
