#!/usr/bin/env bash
# The C interface as a user has it: the commands at the top of docs/c.md, which build and install the release and run a job of the example;
# then the tests of the interface against that installation.
. "$(dirname "$0")/rust.sh"
for tool in cc c++ pkg-config; do
    if ! command -v "$tool" >/dev/null; then
        echo "this needs $tool: install gcc, g++ and pkg-config" >&2
        exit 1
    fi
done
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
commands=$(awk '/^```sh$/ { on = 1; next } /^```$/ { if (on) exit } on' docs/c.md)
echo "$commands"
said=$(bash -euo pipefail -c "$commands")
echo "$said"
# An installation run as root must leave the machine's devices alone.
[ -c /dev/null ]
# The page says what the example prints.
grep -qF "$(tail -n 1 <<<"$said")" docs/c.md
# With NCCL's names, too, over a stand-in for the GPU's driver. Of the whole workspace, so that crates are built with the features that they have in
# the other tests, and so not again.
HFR_C_PREFIX=$PWD/target/c cargo test --workspace --test programs
