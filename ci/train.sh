#!/usr/bin/env bash
# Trains a small GPT in earnest: jobs of torchrun over the PyTorch backend "hfr", compared with the same jobs over gloo (examples/gpt/tests),
# then prints step times of both, interleaved. Arguments go to pytest. The environment with torch is cached, as ci/torch.sh has it;
# HFR_TORCH names another version of torch, HFR_EXAMPLE_BACKEND=gloo tries the tests themselves, without a wheel.
. "$(dirname "$0")/rust.sh"
backend=${HFR_EXAMPLE_BACKEND:-hfr}
version=${HFR_TORCH:-2.15.0}
python=$(ci/torch_env.sh "$version")

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
if [ "$backend" = hfr ]; then
    # Beside the environment and not in it: other versions of the library may be tried with it at the same time.
    ci/wheel.sh "$python" "$scratch/site"
    export PYTHONPATH=$scratch/site
fi

export OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE=1
"$python" -m pytest -q -p no:cacheprovider --basetemp "$scratch/tests" examples/gpt/tests "$@"

# compare LAYERS WIDTH CONTEXT BATCH STEPS: DDP's step, four ranks.
compare() {
    "$python" -m torch.distributed.run --standalone --nproc-per-node 4 examples/gpt/train.py --backend "$backend" --compare \
        --layers "$1" --width "$2" --context "$3" --batch "$4" --steps "$5"
}
echo "== step times"
compare 2 64 64 4 50
compare 6 384 64 1 10
