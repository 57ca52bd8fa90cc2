#!/usr/bin/env bash
# No warning of the compiler or of clippy, in any target.
. "$(dirname "$0")/rust.sh"
component clippy cargo clippy --version
cargo clippy --workspace --all-targets -- -D warnings
