#!/usr/bin/env bash
# The documentation builds without a warning: no dead link, nothing undocumented.
. "$(dirname "$0")/rust.sh"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps
