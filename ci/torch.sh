#!/usr/bin/env bash
# The package inside PyTorch: runs python/tests/torch with each version of torch, in environments that are kept (ci/torch_env.sh).
# Arguments are versions of torch. Prints pytest's last line for each. HFR_TORCH_TESTS narrows down what pytest runs.
. "$(dirname "$0")/rust.sh"
read -ra versions <<<"${*:-2.15.0 2.9.1}"
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
outcome=0
for version in "${versions[@]}"; do
    python=$(ci/torch_env.sh "$version")
    [ -n "$(ls "$site")" ] || ci/wheel.sh "$python" "$site"
    echo "-- torch $version"
    # Beside the environment and not in it. The safe path: this folder's own files must not be found first, built or not.
    PYTHONPATH=$site PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1 \
        "$python" -m pytest -q -p no:cacheprovider ${HFR_TORCH_TESTS:-python/tests/torch} || outcome=1
done
exit $outcome
