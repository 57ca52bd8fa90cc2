#!/usr/bin/env bash
# The verbs wire over real queue pairs: in a virtual machine whose kernel has Soft-RoCE (Linux 6.12), with libibverbs linked and with libibverbs opened at run
# time. Runs the contract of all wires, the faults, and every collective on some shapes of 2 to 4 nodes (`ci/verbs.sh full`: on all). Needs qemu and installs what is missing; the
# kernel and the machine's base image are kept in ~/.cache/hfreduce-ci/rxe. `ci/verbs.sh figures` measures against perftest instead.
. "$(dirname "$0")/rust.sh"
cache=${XDG_CACHE_HOME:-$HOME/.cache}/hfreduce-ci/rxe
need() { # need PACKAGE TEST...
    local package=$1
    shift
    "$@" >/dev/null 2>&1 || missing+=("$package")
}
missing=()
need libibverbs-dev test -e /usr/include/infiniband/verbs.h
need librdmacm-dev test -e /usr/include/rdma/rdma_cma.h
need libclang-14-dev test -e /usr/lib/llvm-14/lib/libclang.so
need pkg-config pkg-config --version
need cmake cmake --version
need make make --version
need perftest command -v ib_write_bw
need qemu-system-x86 command -v qemu-system-x86_64
need busybox-static command -v busybox
need cpio command -v cpio
need kmod test -e /sbin/modprobe
need iproute2 command -v rdma
need ibverbs-providers sh -c 'ls /usr/lib/*/libibverbs/librxe-rdmav*.so'
need xz-utils command -v xz
need zstd command -v zstd
if [ ${#missing[@]} -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"; } >/dev/null || true
fi
if ! command -v qemu-system-x86_64 >/dev/null; then
    echo "ci/verbs.sh: no qemu-system-x86_64, so the verbs wire cannot be tested here: apt-get install ${missing[*]}" >&2
    exit 1
fi
# The bindings of rdma-sys cannot be made with a newer one.
export LIBCLANG_PATH=/usr/lib/llvm-14/lib
machine() { ci/rxe/run-in-vm.sh --cache "$cache" -m 3072 "$@"; }

# built FEATURE: builds the program and the tests with it, each feature in a folder of its own so that neither undoes the other's work; gives the folder.
built() {
    local target=${CARGO_TARGET_DIR:-target}/$1
    cargo build --quiet --release --target-dir "$target" -p hfr-tools --features "$1" >&2
    cargo build --quiet --release --target-dir "$target" -p hfr-transport --features "$1" --example wire >&2
    rm -f "$target"/release/deps/verbs-*
    cargo test --quiet --release --target-dir "$target" --no-run -p hfr-tests --test verbs --features "$1" >&2
    echo "$target/release"
}
linked=$(built verbs)
if [ "${1:-}" = figures ]; then
    machine -n 2 -t 900 -v HFR_LOG=warn -b ci/rxe/job.sh -b ci/rxe/figures.sh -b "$linked/hfr" -b "$linked/examples/wire" -e figures.sh
    exit
fi
opened=$(built verbs-dlopen)
# What the program says where there is no RDMA, in this very process's world.
without_device() {
    local said
    said=$(HFR_RANK=0 HFR_WORLD_SIZE=2 HFR_COMM_ID=127.0.0.1:29417 HFR_COOKIE=x HFR_TRANSPORT=verbs timeout 30 "$1" bench 2>&1) && return 1
    echo "$said" | tail -n 2
    grep -qE "HFR_TRANSPORT=verbs cannot be had: .*(install it|/dev/infiniband|no RDMA device|no RDMA port)" <<<"$said"
}
suite() { find "$1/deps" -name 'verbs-*' -type f -executable | head -n 1; }
log=$(mktemp)
trap 'rm -f "$log"' EXIT
code=0
check() {
    echo "-- $1"
    shift
    "$@" 2>&1 | tee -a "$log" || code=1
}
# Fewer puts and lives than at full length: an emulated machine is a hundred times slower.
quick=(-v HFR_TEST_SHARE=25 -v HFR_TEST_CYCLES=${HFR_TEST_CYCLES:-100} -v HFR_LOG=warn -v HFR_TIMEOUT=120)
check "a host without a device, libibverbs opened at run time" without_device "$opened/hfr"
shapes='2x1 2x4 3x2 4x1 4x2'
[ "${1:-}" != full ] || shapes=
# The test that takes a link down comes last: the kernel forgets routes with it.
all='suite --test-threads=1 --skip a_link_that_is_down && suite --test-threads=1 a_link_that_is_down'
check "libibverbs linked: contract and faults" machine -n 4 -t 300 "${quick[@]}" -b "$(suite "$linked"):suite" -e "$all"
check "libibverbs opened at run time: contract, faults and all collectives" machine -n 4 -t 400 "${quick[@]}" \
    -b "$(suite "$opened"):suite" -f "$(ldconfig -p | awk '/libibverbs.so.1 .*x86-64/{print $NF; exit}'):/usr/lib/x86_64-linux-gnu/libibverbs.so.1" \
    -b "$opened/hfr" -b ci/rxe/job.sh -b ci/rxe/matrix.sh \
    -e 'suite --test-threads=1 faults lives on_verbs rails --skip a_link_that_is_down && matrix.sh '"$shapes"
summary "$log"
exit $code
