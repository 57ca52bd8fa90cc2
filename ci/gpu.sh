#!/usr/bin/env bash
# Everything that needs a real GPU, on a machine that has one and no Rust. At home `build` puts prebuilt programs into a folder; over there `run`
# measures and checks with them, each part by itself (none takes 10 minutes), and leaves a folder of results: text for people, JSON for programs.
# It knows no figure that would be right: a check fails on a wrong element, an error or a program that does not end.
#
# usage: ci/gpu.sh build DIR
#        DIR/gpu.sh run DIR [PART...]     parts: sizes many latency types nodes overlap tests torch nccl
#
# Settings: HFR_GPU_OUT (results; DIR/results), HFR_GPU_MAX (largest size; 1G), HFR_GPU_RANKS ("1 2 4 8"), HFR_GPU_MATRIX (8192),
# HFR_GPU_PYTHON (python3, for torch), NCCL_TESTS_HOME (sources of nccl-tests; DIR/nccl-tests).
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
parts=(sizes many latency types nodes overlap tests torch nccl)

usage() {
    sed -n 's/^# usage: /usage: /p; s/^#        DIR/       DIR/p' "${BASH_SOURCE[0]}" >&2
    exit 2
}

# built NAME: cargo's release of it, without what only a debugger needs.
built() {
    local from=$CARGO_TARGET_DIR/release/$1 to=$folder/$2
    install -m 755 "$from" "$to"
    strip --strip-debug "$to" 2>/dev/null || true
}

build() {
    . "$here/rust.sh"
    export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
    mkdir -p "$1"
    folder=$(cd "$1" && pwd)
    cargo build --release --package hfr-tools --package hfr-tests --package hfreduce-c --bins --lib
    built hfr hfr
    built on_device on_device
    built libhfreduce.so libhfreduce.so.0
    if [ -d nccl ]; then
        cargo build --release --package hfreduce-nccl
        built libhfr_nccl.so libhfr_nccl.so.2
    fi
    local python=${HFR_GPU_PYTHON:-python3}
    if "$python" -m maturin --version >/dev/null 2>&1; then
        rm -rf "$folder/site"
        ci/wheel.sh "$python" "$folder/site"
        # Those tests bring their runner: the machine over there may have no network.
        "$python" -m pip install --disable-pip-version-check --quiet --target "$folder/site" pytest
        find "$folder/site" -name __pycache__ -prune -exec rm -rf {} +
        strip --strip-debug "$folder"/site/hfreduce/*.so 2>/dev/null || true
        rm -rf "$folder/tests"
        [ ! -d python/tests/gpu ] || { mkdir "$folder/tests" && cp -r python/tests/. "$folder/tests/"; }
    else
        echo "no wheel: $python has no maturin, so the part torch is left out (HFR_GPU_PYTHON names another python)" >&2
    fi
    cp ci/gpu.sh "$folder/"
    local size
    size=$(du -sm "$folder" | cut -f1)
    echo "$folder: $size MB"
    if [ "$size" -ge 60 ]; then
        echo "that is more than the 60 MB that travel" >&2
        exit 1
    fi
}

passed=0 failed=0

# check NAME COMMAND...: runs it for 9 minutes at most; what it prints goes into the results.
check() {
    local name=$1 outcome=0
    shift
    echo "-- $name"
    timeout --kill-after=10 540 "$@" >"$out/$name.txt" 2>&1 || outcome=$?
    # People want to see tables, not logs.
    grep -v '^#  Rank' "$out/$name.txt" | tail -n "${shown:-60}" || true
    if [ "$outcome" = 0 ]; then
        passed=$((passed + 1))
    else
        failed=$((failed + 1))
        echo "FAILED: $name, exit code $outcome (124: it did not end)"
    fi
}

skipped() { echo "-- skipped: $1: $2" | tee -a "$out/skipped.txt"; }

# bench NAME ARGUMENTS...
bench() {
    local name=$1
    shift
    check "$name" "$folder/hfr" bench --device cuda --timeout 120 -J "$out/$name.json" "$@"
}

run_sizes() { for ranks in $counts; do bench "sizes_$ranks" --nodes 1 -L "$ranks" -b 1 -e "$max" -f 8; done; }

run_many() {
    for ranks in $counts; do
        bench "many_$ranks" --nodes 1 -L "$ranks" --tensors "$tensors"
        bench "one_$ranks" --nodes 1 -L "$ranks" -b "$one" -e "$one"
    done
}

run_latency() { for ranks in $counts; do bench "latency_$ranks" --nodes 1 -L "$ranks" -b 8 -e 64K -f 2 -n 100 -w 20; done; }

run_types() {
    bench types_one_node all --nodes 1 -L 4 -d all -o all -b 100001 -e 100001 -n 2 -w 0
    bench types_two_nodes all --nodes 2 -L 2 -d all -o all -b 100001 -e 100001 -n 2 -w 0
}

run_nodes() {
    local wire
    for wire in local tcp; do bench "nodes_$wire" --nodes 2 -L 2 --transport "$wire" -b 8 -e "$top" -f 8; done
}

# Puts cuBLAS where the loader finds it: torch brings one, and a newer one has a number that we would not look for.
find_cublas() {
    local at found=
    for at in $(ldconfig -p 2>/dev/null | sed -n 's/.*libcublas\.so\.[0-9]* .*=> //p') /usr/local/cuda*/lib64/libcublas.so.* \
        $("$python" -c 'import glob, sysconfig
print(*glob.glob(sysconfig.get_path("purelib") + "/nvidia/**/libcublas.so.*", recursive=True))' 2>/dev/null || true); do
        [ -e "$at" ] && found=$at && break
    done
    [ -n "$found" ] || return 0
    mkdir -p "$scratch/cublas"
    ln -sf "$found" "$scratch/cublas/libcublas.so"
    export LD_LIBRARY_PATH=$scratch/cublas:$(dirname "$found")${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
}

run_overlap() {
    local ranks
    find_cublas
    for ranks in $counts; do
        [ "$ranks" -gt 4 ] || bench "overlap_$ranks" --nodes 1 -L "$ranks" -e "$top" --overlap --matrix "${HFR_GPU_MATRIX:-8192}"
    done
}

# The GPU tests of the library, as jobs of processes over the real driver.
run_tests() {
    local steps
    for steps in "matrix:100003" "types" "stream:5000 stream:2000000" "queue:100 queue:300000" "ring:10 ring:100000 reducer" "refused"; do
        local name=${steps%%:*}
        # shellcheck disable=SC2086 # several steps are several words
        shown=3 check "tests_${name%% *}" "$folder/hfr" run --nodes 1 -L 3 --timeout 60 -- "$folder/on_device" $steps
    done
    shown=3 check tests_nodes "$folder/hfr" run --nodes 2 -L 2 --transport tcp --timeout 60 -- "$folder/on_device" matrix:100003 reducer
}

has_torch() { "$python" -c 'import torch, sys; sys.exit(not torch.cuda.is_available())' 2>/dev/null; }

run_torch() {
    if ! has_torch; then
        skipped torch "$python has no torch with CUDA"
    elif [ ! -d "$folder/tests/gpu" ] || [ ! -d "$folder/site/hfreduce" ]; then
        skipped torch "$folder was built without the wheel or without python/tests/gpu"
    else
        PYTHONPATH=$folder/site PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1 \
            shown=20 check torch "$python" -m pytest -q -ra -p no:cacheprovider "$folder/tests/gpu"
    fi
}

# One rank of torch's own NCCL backend, on a GPU that another rank uses too, which NCCL itself refuses.
torch_nccl='
import os, torch, torch.distributed as dist
torch.cuda.set_device(0)
dist.init_process_group("nccl")
rank, size = dist.get_rank(), dist.get_world_size()
for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.int32, torch.uint8):
    own = ((torch.arange(100_003, device="cuda") * (rank + 3)) % 7 + 1).to(dtype)
    wanted = sum(((torch.arange(100_003, device="cuda") * (r + 3)) % 7 + 1).to(dtype) for r in range(size))
    dist.all_reduce(own)
    assert torch.equal(own, wanted), f"rank {rank}: all_reduce of {dtype}"
    parts = [torch.empty_like(own) for _ in range(size)]
    dist.all_gather(parts, own + rank)
    assert all(torch.equal(part, wanted + r) for r, part in enumerate(parts)), f"rank {rank}: all_gather of {dtype}"
dist.barrier()
dist.destroy_process_group()
print(f"rank {rank} of {size}: right")
'

run_nccl() {
    local library=$folder/libhfr_nccl.so.2 sources=${NCCL_TESTS_HOME:-$folder/nccl-tests} ranks
    if [ ! -e "$library" ]; then
        skipped nccl "$folder was built without libhfr_nccl.so.2"
        return
    fi
    if has_torch; then
        printf '%s' "$torch_nccl" >"$scratch/torch_nccl.py"
        check nccl_torch "$folder/hfr" run --nodes 1 -L 2 -- env LD_PRELOAD="$library" "$python" "$scratch/torch_nccl.py"
    else
        skipped nccl_torch "$python has no torch with CUDA"
    fi
    local tool=nvcc
    command -v nvcc >/dev/null || tool=/usr/local/cuda/bin/nvcc
    if ! command -v "$tool" >/dev/null || [ ! -d "$sources/src" ]; then
        skipped nccl_tests "there is no nvcc, or no sources of nccl-tests at $sources"
        return
    fi
    check nccl_tests_build make -C "$sources" -j CUDA_HOME="$(dirname "$(dirname "$(command -v "$tool")")")" BUILDDIR="$scratch/nccl-tests"
    for ranks in 2 4; do
        NCCL_TESTS_DEVICE=0 LD_PRELOAD=$library check "nccl_tests_$ranks" \
            "$scratch/nccl-tests/all_reduce_perf" -b 8 -e 64M -f 8 -t "$ranks" -g 1
    done
}

# What the figures depend on.
describe() {
    date -u
    nvidia-smi || true
    nvidia-smi topo -m || true
    nvidia-smi --query-gpu=name,driver_version,pcie.link.gen.current,pcie.link.width.current,compute_mode,mig.mode.current --format=csv || true
    uname -a
    lscpu || true
    free -g || true
    echo "memlock: $(ulimit -l) KB"
    df -h /dev/shm || true
    "$folder/hfr" --version
}

run() {
    folder=$(cd "$1" && pwd)
    shift
    local part
    [ $# -gt 0 ] || set -- "${parts[@]}"
    for part in "$@"; do
        [[ " ${parts[*]} " == *" $part "* ]] || { echo "no part '$part': there are ${parts[*]}" >&2 && exit 2; }
    done
    if ! command -v nvidia-smi >/dev/null || ! grep -q '^GPU' <<<"$(nvidia-smi -L 2>&1 || true)"; then
        echo "no GPU here: nvidia-smi is not found or lists none. On a machine with NVIDIA's driver: $folder/gpu.sh run $folder" >&2
        exit 3
    fi
    [ -x "$folder/hfr" ] || { echo "$folder has no programs: make it with ci/gpu.sh build $folder" >&2 && exit 2; }
    out=${HFR_GPU_OUT:-$folder/results} counts=${HFR_GPU_RANKS:-1 2 4 8} max=${HFR_GPU_MAX:-1G} python=${HFR_GPU_PYTHON:-python3}
    # HFReduce's own bench: as much as a model of its days had in gradients, in pieces and in one. Smaller where everything is to be.
    tensors=46x4M one=184M top=64M
    [ "$max" = 1G ] || tensors=46x1K one=$max top=$max
    mkdir -p "$out"
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    describe >"$out/machine.txt" 2>&1
    for part in "$@"; do "run_$part"; done
    # One file travels more easily than many.
    tar -czf "$out.tgz" -C "$(dirname "$out")" "$(basename "$out")"
    echo "results are in $out, and packed in $out.tgz"
    echo "$passed passed, $failed failed"
    [ "$failed" = 0 ]
}

[ $# -ge 2 ] || usage
case $1 in
build) build "$2" ;;
run) run "${@:2}" ;;
*) usage ;;
esac
