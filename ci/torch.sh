#!/usr/bin/env bash
# The package inside PyTorch: runs python/tests/torch with each version of torch, in environments that are kept (ci/torch_env.sh), and the order of its calls on
# CUDA tensors over the stand-in for CUDA's driver. Arguments are versions of torch. Prints pytest's last lines for each. HFR_TORCH_TESTS narrows down
# what pytest runs.
. "$(dirname "$0")/rust.sh"
read -ra versions <<<"${*:-2.15.0 2.9.1}"
site=$(mktemp -d)
trap 'rm -rf "$site"' EXIT
outcome=0
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
standin=$(standin)
# The second set has a helper of the same name, so it has a run of its own.
sets=(${HFR_TORCH_TESTS:+"$HFR_TORCH_TESTS"})
[ ${#sets[@]} -gt 0 ] || sets=(python/tests/torch python/tests/test_torch_streams.py)
for version in "${versions[@]}"; do
    python=$(ci/torch_env.sh "$version")
    [ -n "$(ls "$site")" ] || ci/wheel.sh "$python" "$site"
    echo "-- torch $version"
    for tests in "${sets[@]}"; do
        # Of the older shape of a backend the calls, their futures, groups and errors; what lies beneath them, streams too, is the same. A version named by the
        # caller has all, and so has a set.
        if [ $# = 0 ] && [ -z "${HFR_TORCH_TESTS:-}" ] && [ "$version" != "${versions[0]}" ]; then
            [ "$tests" = python/tests/torch ] || continue
            tests=$(echo python/tests/torch/test_{collectives,async,groups,errors}.py)
        fi
        # Beside the environment and not in it. The safe path: this folder's own files must not be found first, built or not.
        PYTHONPATH=$site PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1 HFR_STANDIN=$standin \
            "$python" -m pytest -q -p no:cacheprovider $tests || outcome=1
    done
done
exit $outcome
