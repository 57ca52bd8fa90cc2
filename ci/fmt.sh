#!/usr/bin/env bash
# The sources are formatted as rustfmt has it.
. "$(dirname "$0")/rust.sh"
component rustfmt cargo fmt --version
cargo fmt --all --check
