# Sourced by every check: goes to the root of the repository and sees to it that cargo is there. All that the default build needs is Rust.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
if ! command -v cargo >/dev/null; then
    echo "this needs Rust 1.95 or later; install it with rustup (https://www.rust-lang.org/tools/install) and start again" >&2
    exit 1
fi

# component NAME COMMAND...: installs a rustup component where the command does not run.
component() {
    local name=$1
    shift
    "$@" >/dev/null 2>&1 || rustup component add "$name"
}

# standin: builds the stand-in for CUDA's driver and gives its path: not where the tests have theirs, since a program that loads it twice while it is
# replaced has two drivers.
standin() {
    local folder=${CARGO_TARGET_DIR:-$PWD/target}/standin
    cargo build --quiet --target-dir "$folder" -p hfr-standin >&2
    echo "$folder/debug/libhfr_standin.so"
}

# packages PACKAGE...: installs system packages where we may. One at a time: a lock of apt's own that is taken is an error.
packages() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    {
        flock 8
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@"; } >/dev/null
    } 8>"${TMPDIR:-/tmp}/hfreduce-apt.lock"
}

# summary LOG: the sum over all closing lines of cargo test and pytest in LOG, as "N passed, N failed".
summary() {
    awk '/^test result: /{ for (i = 2; i <= NF; i++) { if ($i == "passed;") p += $(i-1); if ($i == "failed;") f += $(i-1) } }
         /^(=+ )?[0-9]+ (passed|failed|skipped|error|errors|warning|warnings|deselected)[, ].* in [0-9.]+s/ {
             for (i = 1; i < NF; i++) { word = $(i+1); sub(",", "", word)
                 if (word == "passed") p += $i; if (word ~ /^(failed|errors?)$/) f += $i } }
         END { printf "%d passed, %d failed\n", p, f }' "$1"
}

# failures LOG: how many of them failed.
failures() {
    local total
    total=$(summary "$1")
    total=${total#*, }
    echo "${total%% failed}"
}
