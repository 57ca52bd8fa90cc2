#!/usr/bin/env bash
# The package inside PyTorch: builds the wheel once, installs it beside each version of torch, runs python/tests/torch there.
# Arguments are versions of torch; the environments (about 6 GB each) stay in ${HFR_CI_CACHE:-$HOME/.cache/hfreduce-ci}.
# Prints pytest's last line for each version. HFR_TORCH_TESTS narrows down what pytest runs.
set -euo pipefail
cd "$(dirname "$0")/.."

cache=${HFR_CI_CACHE:-$HOME/.cache/hfreduce-ci}
read -ra versions <<<"${*:-2.15.0 2.9.1}"
# Python's own import lock would find this folder's files first, built or not.
export PYTHONSAFEPATH=1

# environment VERSION: a virtual environment with this torch, made where it is missing.
environment() {
    local at=$cache/torch-$1
    if ! "$at/bin/python" -c "import torch, numpy, pytest, sys; sys.exit(torch.__version__.split('+')[0] != '$1')" 2>/dev/null; then
        echo "-- making $at" >&2
        mkdir -p "$cache"
        [ -x "$at/bin/python" ] || python3 -m venv "$at"
        "$at/bin/python" -m pip install -q "torch==$1" numpy pytest >&2
    fi
    echo "$at/bin/python"
}

wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
builder=$(environment "${versions[0]}")
"$builder" -m maturin --version >/dev/null 2>&1 || "$builder" -m pip install -q "maturin>=1.9,<2"
"$builder" -m maturin build --release --locked --quiet --manifest-path python/Cargo.toml --interpreter "$builder" --out "$wheels"

outcome=0
for version in "${versions[@]}"; do
    python=$(environment "$version")
    "$python" -m pip install -q --force-reinstall --no-deps "$wheels"/*.whl
    echo "-- torch $version"
    "$python" -m pytest -q -p no:cacheprovider ${HFR_TORCH_TESTS:-python/tests/torch} || outcome=1
done
exit $outcome
