#!/usr/bin/env bash
# Plans, engine, simulator and the scalar kernels they use, under miri: every memory access of their unsafe code is checked. The tests
# shrink their inputs under miri by themselves. The kernels' own tests run under miri too, by hand: they take longer than a check may.
. "$(dirname "$0")/rust.sh"
if ! rustc +nightly --version >/dev/null 2>&1; then
    echo "miri needs the nightly toolchain: rustup toolchain install nightly --profile minimal" >&2
    exit 1
fi
cargo +nightly miri --version >/dev/null 2>&1 || rustup +nightly component add miri rust-src
export CARGO_TARGET_DIR=target-miri
cargo +nightly miri test -p hfr-tests --test simulate
