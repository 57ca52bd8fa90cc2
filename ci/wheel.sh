#!/usr/bin/env bash
# Builds the Python package's wheel with a python that has maturin, and installs it by itself into a folder: wheel.sh PYTHON FOLDER. One wheel
# serves all versions of Python and torch.
. "$(dirname "$0")/rust.sh"
python=$1 folder=$2
built=$(mktemp -d)
trap 'rm -rf "$built"' EXIT
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
"$python" -m maturin build --quiet --release --locked --manifest-path python/Cargo.toml --interpreter "$python" --out "$built"
"$python" -m pip install --disable-pip-version-check --quiet --no-deps --target "$folder" "$built"/*.whl
