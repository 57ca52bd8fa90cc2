"""What the tests compare with: all strategies over gloo, one after the other in one job, each recorded in a folder of its name.

One job, since torch takes longer to be imported than a tiny model to be trained. It trains with the trainer's own code.
"""

from __future__ import annotations

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import job
import strategies
import train


def main() -> None:
    args = job.options(__doc__ or "").parse_args()
    job.start(args.backend)
    for args.strategy in strategies.STRATEGIES:
        with job.Log(str(pathlib.Path(args.record, args.strategy))) as log:
            train.train(args, log)
    job.finish()


if __name__ == "__main__":
    main()
