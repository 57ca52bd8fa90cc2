#!/usr/bin/env bash
# The verbs wire over real queue pairs: in a virtual machine whose kernel has Soft-RoCE (Linux 6.12), with libibverbs linked and with libibverbs opened at run
# time. Runs the contract of all wires, the faults, and every collective on some shapes of 2 to 4 nodes (`ci/verbs.sh full`: on all). Needs qemu and installs what
# is missing; the kernel and the machine's base image are kept in ~/.cache/hfreduce-ci/rxe. `ci/verbs.sh figures` measures against perftest instead.
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
if [ ${#missing[@]} -gt 0 ]; then
    packages "${missing[@]}" || true
fi
if ! command -v qemu-system-x86_64 >/dev/null; then
    echo "ci/verbs.sh: no qemu-system-x86_64, so the verbs wire cannot be tested here: apt-get install ${missing[*]}" >&2
    exit 1
fi
# The bindings of rdma-sys cannot be made with a newer one.
export LIBCLANG_PATH=/usr/lib/llvm-14/lib
# machine ARGS...: boots it, and again where its kernel died on the way up: under emulation that happens now and then, when the kernel patches its own
# code (int3) while the other CPU runs it. Nothing of ours has run then.
machine() {
    local said code attempt
    said=$(mktemp)
    for attempt in 1 2 3; do
        code=0
        ci/rxe/run-in-vm.sh --cache "$cache" -m 3072 "$@" >"$said" 2>&1 || code=$?
        if [ $code != 125 ] || grep -qE '^(running|round) ' "$said" || ! grep -qE '^\[ +[0-9]\.[0-9]+\] Kernel panic' "$said"; then
            break
        fi
        echo "the machine's kernel died on the way up (attempt $attempt)"
    done
    cat "$said"
    rm -f "$said"
    return $code
}

# built FEATURE WHAT...: builds with it, beside what ci/test.sh builds: of the whole workspace, so that what knows no feature of ours is the same.
target=${CARGO_TARGET_DIR:-target}/debug
built() {
    local feature=$1
    shift
    cargo build --quiet --workspace --features "hfr-tools/$feature,hfr-tests/$feature,hfr-transport/$feature" "$@"
}
# kept NAME FILE: the next build would overwrite it; and the machine holds it in memory.
kept() { mkdir -p "$target/kept" && strip -o "$target/kept/$1" "$2"; }
# suite NAME: builds the tests with that feature, and keeps them.
suite() {
    rm -f "$target"/deps/verbs-*
    built "$1" --test verbs "${@:2}"
    kept "suite-$1" "$(find "$target/deps" -name 'verbs-*' -type f -executable | head -n 1)"
}
if [ "${1:-}" = figures ]; then
    # Here time is looked at: built as releases are.
    target=${CARGO_TARGET_DIR:-target}/release
    built verbs --release --bin hfr --example wire
    machine -n 2 -t 900 -v HFR_LOG=warn -b ci/rxe/job.sh -b ci/rxe/figures.sh -b "$target/hfr" -b "$target/examples/wire" -e figures.sh
    exit
fi
began=$SECONDS
suite verbs-dlopen --bin hfr
kept hfr "$target/hfr"
suite verbs
kept=$target/kept
echo "-- built in $((SECONDS - began)) s"
# What the program says where there is no RDMA, in this very process's world.
without_device() {
    local said
    said=$(HFR_RANK=0 HFR_WORLD_SIZE=2 HFR_COMM_ID=127.0.0.1:29417 HFR_COOKIE=x HFR_TRANSPORT=verbs timeout 30 "$1" bench 2>&1) && return 1
    echo "$said" | tail -n 2
    grep -qE "HFR_TRANSPORT=verbs cannot be had: .*(install it|/dev/infiniband|no RDMA device|no RDMA port)" <<<"$said"
}
log=$(mktemp -d)
trap 'rm -rf "$log"' EXIT
code=0
# What a check says comes out when it has ended: the machines run at the same time, each on about one core.
begin() {
    local name=$1
    shift
    { "$@" >"$log/$name" 2>&1 && echo 0 >"$log/$name.code" || echo 1 >"$log/$name.code"; } &
}
end() {
    wait "$2"
    echo "-- $3, after $((SECONDS - began)) s"
    cat "$log/$1"
    [ "$(cat "$log/$1.code")" = 0 ] || code=1
}
began=$SECONDS
# Fewer puts at full length: an emulated machine is a hundred times slower.
quick=(-v HFR_TEST_SHARE=${HFR_TEST_SHARE:-40} -v HFR_LOG=warn -v HFR_TIMEOUT=120)
shapes='2x1 2x4 3x2 4x1 4x2'
[ "${1:-}" != full ] || shapes=
# Links that go down, addresses that change and devices that go away come last: the kernel forgets routes with them.
calm='--skip a_link_that_is_down --skip addresses --skip alarms'
# What differs between the two is how the library's names are found; so that a machine takes about as long as the other, each has a share of the rest.
begin host without_device "$kept/hfr"
host=$!
begin linked machine -n 4 -t 600 "${quick[@]}" -v HFR_TEST_CYCLES=${HFR_TEST_CYCLES:-1000} -b "$kept/suite-verbs:suite" \
    -e "suite --test-threads=1 $calm --skip rails && suite --test-threads=1 addresses alarms a_link_that_is_down"
linked=$!
begin opened machine -n 4 -t 900 "${quick[@]}" -b "$kept/suite-verbs-dlopen:suite" \
    -f "$(ldconfig -p | awk '/libibverbs.so.1 .*x86-64/{print $NF; exit}'):/usr/lib/x86_64-linux-gnu/libibverbs.so.1" \
    -b "$kept/hfr" -b ci/rxe/job.sh -b ci/rxe/matrix.sh -b ci/rxe/rails.sh -b ci/rxe/doctor.sh -b ci/rxe/preflight.sh \
    -e "suite --test-threads=1 faults on_verbs rails $calm && matrix.sh $shapes && rails.sh && doctor.sh && preflight.sh"
opened=$!
end host $host "a host without a device, libibverbs opened at run time"
end linked $linked "libibverbs linked: contract and faults"
end opened $opened "libibverbs opened at run time: contract, faults, all collectives, doctor, what is missing"
cat "$log"/{host,linked,opened} >"$log/all"
summary "$log/all"
exit $code
