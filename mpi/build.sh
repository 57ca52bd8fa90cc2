#!/usr/bin/env bash
# Builds libhfr_mpi.so, one for each MPI that is there: PREFIX/lib/openmpi/libhfr_mpi.so and PREFIX/lib/mpich/libhfr_mpi.so. It has hfreduce
# inside, and shows nothing but MPI's names. PROFILE is cargo's; without it, the release.
#
# usage: mpi/build.sh [--profile PROFILE] PREFIX
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"

profile=release
if [ "${1:-}" = --profile ]; then
    profile=${2:?"--profile needs the name of one, such as dev"}
    shift 2
fi
if [ $# != 1 ] || [ -z "$1" ]; then
    echo "usage: mpi/build.sh [--profile PROFILE] PREFIX" >&2
    exit 2
fi

# Compilers by family: what mpi.h says decides, not the name.
family() {
    local names
    names=$("$1" -E -dM -I"$here/../c/include" "$here/interpose/stats.c" 2>/dev/null) || return 0
    case $names in
    *"#define OPEN_MPI "*) echo openmpi ;;
    *"#define MPICH_VERSION "*) echo mpich ;;
    esac
}
declare -A compilers=()
for compiler in ${MPICC:-mpicc.openmpi mpicc.mpich mpicc}; do
    command -v "$compiler" >/dev/null || continue
    kind=$(family "$compiler")
    [ -z "$kind" ] || : "${compilers[$kind]:=$compiler}"
done
if [ ${#compilers[@]} = 0 ]; then
    echo "this needs Open MPI or MPICH with its mpicc (Debian: apt install libopenmpi-dev, or libmpich-dev); MPICC names another mpicc" >&2
    exit 1
fi

cargo build --quiet --profile "$profile" --manifest-path "$here/../c/Cargo.toml"
built=${CARGO_TARGET_DIR:-$here/../target}/${profile/#dev/debug}
for kind in "${!compilers[@]}"; do
    mkdir -p "$1/lib/$kind"
    "${compilers[$kind]}" -std=gnu11 -O2 -g -fPIC -fvisibility=hidden -Wall -Wextra -Werror -I"$here/../c/include" -shared \
        "$here"/interpose/*.c "$built/libhfreduce_c.a" -Wl,--exclude-libs,ALL -Wl,-z,defs -pthread -ldl -lm -o "$1/lib/$kind/libhfr_mpi.so"
    echo "built $1/lib/$kind/libhfr_mpi.so with ${compilers[$kind]}"
done
