#!/usr/bin/env bash
# Jobs that MPI starts, and MPI programs over hfreduce, under Open MPI and MPICH side by side: the commands at the top of docs/mpi.md, the tests of
# the interposer, the crate hfreduce-mpi, jobs on one host and over two emulated ones. Installs what is missing where it may.
. "$(dirname "$0")/rust.sh"
needed=(openmpi-bin libopenmpi-dev mpich libmpich-dev libclang-dev gcc)
if ! { mpicc.openmpi --version && mpicc.mpich --version && mpirun.openmpi --version && mpirun.mpich --version; } >/dev/null 2>&1 || ! ls /usr/lib/llvm-*/lib/libclang*.so* >/dev/null 2>&1; then
    if ! packages "${needed[@]}"; then
        echo "this needs Open MPI and MPICH with their compilers, and libclang: apt install ${needed[*]}" >&2
        exit 1
    fi
fi
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_btl_base_warn_component_unused=0
cargo fmt --manifest-path mpi/Cargo.toml --check

commands=$(awk '/^```sh$/ { on = 1; next } /^```$/ { if (on) exit } on' docs/mpi.md)
echo "$commands"
said=$(bash -euo pipefail -c "$commands" 2>&1) || { echo "$said"; exit 1; }
echo "$said"
# Some calls were taken over, and some were too small.
grep -Eq 'MPI_Allreduce +[1-9][0-9]* .* size:[1-9]' <<<"$said"

code=0
# As ci/test.sh has built it.
cargo build --quiet --workspace --bin hfr
for mpi in openmpi mpich; do
    mpi/tests/run.sh "$mpi" target/mpi || code=1
    export MPICC=mpicc.$mpi
    # Its build does not look whether MPICC has changed.
    cargo clean --quiet --manifest-path mpi/Cargo.toml --package mpi-sys --package mpi
    cargo build --quiet --manifest-path mpi/Cargo.toml --example average
    install -D "$CARGO_TARGET_DIR/debug/examples/average" "target/mpi/tests/$mpi/average"
    mpi/tests/hosts.sh "$mpi" target/mpi "$CARGO_TARGET_DIR/debug/hfr" || code=1
done
component clippy cargo clippy --version
cargo clippy --quiet --manifest-path mpi/Cargo.toml --all-targets -- -D warnings || code=1
exit "$code"
