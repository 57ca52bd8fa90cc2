#!/usr/bin/env bash
# Builds everything and runs every test; arguments go to cargo test. Needs nothing but Rust, and installs that where it is missing.
# The last line says how many tests passed and failed.
. "$(dirname "$0")/rust.sh"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
code=0
cargo test --workspace --no-fail-fast "$@" 2>&1 | tee "$log" || code=$?
summary "$log"
exit "$code"
