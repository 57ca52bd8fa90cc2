#!/usr/bin/env bash
# The Python package as a user gets it: pip builds and installs it into a fresh environment, and its tests run there with numpy (and its extra types) alone
# (those of the torch backend have a script of their own), those of buffers on a GPU over the stand-in for CUDA's driver. Needs python3 with venv, and
# pip's index. The last line is pytest's.
. "$(dirname "$0")/rust.sh"
python=${PYTHON:-python3}
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
# Some systems ship venv without ensurepip: then the package has to be there first.
if ! "$python" -m venv "$place/venv" >/dev/null 2>&1 && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    { apt-get update -qq && apt-get install -y -qq python3-venv; } >/dev/null
    "$python" -m venv --clear "$place/venv"
fi
pip() { "$place/venv/bin/python" -m pip --disable-pip-version-check -q "$@"; }
# The build's own target folder is kept, so that a second run compiles only what has changed.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
cargo fmt --manifest-path python/Cargo.toml --check
component clippy cargo clippy --version
cargo clippy --manifest-path python/Cargo.toml -- -D warnings
export HFR_STANDIN
HFR_STANDIN=$(standin)
pip install numpy ml_dtypes pytest
pip install --no-deps ./python
cd python/tests
"$place/venv/bin/python" -m pytest -p no:cacheprovider -q --ignore=torch --ignore=gpu --ignore=test_torch_streams.py . "$@"
