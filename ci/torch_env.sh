#!/usr/bin/env bash
# Makes the environments with torch that other checks use, one for each version given, where they are missing (about 6 GB each), and prints
# the path of each one's python. They stay in ${HFR_CI_CACHE:-$HOME/.cache/hfreduce-ci}/torch-VERSION; the library is not in them.
set -euo pipefail
cache=${HFR_CI_CACHE:-$HOME/.cache/hfreduce-ci}
for version in "${@:?a version of torch}"; do
    at=$cache/torch-$version
    ready="import torch, numpy, pytest, accelerate, maturin, sys; sys.exit(torch.__version__.split('+')[0] != '$version')"
    if ! "$at/bin/python" -c "$ready" 2>/dev/null; then
        mkdir -p "$cache"
        [ -x "$at/bin/python" ] || python3 -m venv "$at"
        "$at/bin/python" -m pip install --disable-pip-version-check -q "torch==$version" numpy pytest accelerate "maturin>=1.9,<2" >&2
    fi
    echo "$at/bin/python"
done
