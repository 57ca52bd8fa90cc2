#!/usr/bin/env bash
# The doorbell's protocol under loom: every interleaving of raising a counter and going to sleep, within loom's bounds.
. "$(dirname "$0")/rust.sh"
RUSTFLAGS="--cfg loom" CARGO_TARGET_DIR=target-loom cargo test -p hfr-transport --test loom_doorbell
