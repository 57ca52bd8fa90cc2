#!/usr/bin/env bash
# Builds the C interface and installs it below PREFIX: shared and static library, header, pkg-config files, and the library with NCCL's own names.
# PROFILE is cargo's; without it, the release. Knows nothing of the code. The number in the soname changes when, and only when, programs must
# be compiled anew. With --built the libraries are those that lie in a folder of cargo's already, and have no soname: for tests.
#
# usage: c/install.sh [--profile PROFILE | --built FOLDER] PREFIX
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"

profile=release built=
if [ "${1:-}" = --profile ]; then
    profile=${2:?"--profile needs the name of one, such as dev"}
    shift 2
elif [ "${1:-}" = --built ]; then
    built=${2:?"--built needs the folder of the libraries"}
    shift 2
fi
if [ $# != 1 ] || [ -z "$1" ]; then
    echo "usage: c/install.sh [--profile PROFILE | --built FOLDER] PREFIX" >&2
    exit 2
fi
if ! command -v cargo >/dev/null; then
    echo "this needs Rust 1.95 or later; install it with rustup (https://www.rust-lang.org/tools/install) and start again" >&2
    exit 1
fi

version=$(sed -n 's/^#define HFR_\(MAJOR\|MINOR\|PATCH\) //p' "$here/include/hfreduce.h" | paste -sd.)
soname=libhfreduce.so.0
if [ -z "$built" ]; then
    # Not in a build script: what one says of a shared library holds for those that stand on it, too.
    cargo rustc --profile "$profile" --manifest-path "$here/Cargo.toml" --lib -- -C "link-arg=-Wl,-soname,$soname"
    cargo build --profile "$profile" --manifest-path "$here/../nccl/Cargo.toml"
    # Cargo calls the folder of the profile dev otherwise.
    built=${CARGO_TARGET_DIR:-$here/../target}/${profile/#dev/debug}
fi
mkdir -p "$1"
prefix=$(cd "$1" && pwd)
# What a program needs beside the static library: what Rust's standard library needs. Rustc puts a new file in the place of its output, so
# that is a file of our own: as root it would replace even a device.
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
needs=$(echo | rustc --crate-type staticlib --print native-static-libs -o "$scratch/empty.a" - 2>&1 | sed -n 's/^note: native-static-libs: //p')

install -d "$prefix/lib/pkgconfig" "$prefix/include"
install -m 644 "$here/include/hfreduce.h" "$prefix/include/"
install -m 644 "$built/libhfreduce_c.a" "$prefix/lib/libhfreduce.a"
install -m 755 "$built/libhfreduce_c.so" "$prefix/lib/libhfreduce.so.$version"
ln -sf "libhfreduce.so.$version" "$prefix/lib/$soname"
ln -sf "$soname" "$prefix/lib/libhfreduce.so"
# Its soname is libnccl.so.2: it is loaded by its path, and is not found as NCCL by accident.
[ ! -e "$built/libhfr_nccl.so" ] || install -m 755 "$built/libhfr_nccl.so" "$prefix/lib/libhfr_nccl.so.2"

# describe NAME LIBS PRIVATE
describe() {
    cat >"$prefix/lib/pkgconfig/$1.pc" <<END
prefix=$prefix
libdir=\${prefix}/lib
includedir=\${prefix}/include

Name: $1
Description: Collectives on the CPU for data-parallel training, in the shape of NCCL's interface
Version: $version
Cflags: -I\${includedir}
Libs: $2
${3:+Libs.private: $3}
END
}
describe hfreduce "-L\${libdir} -lhfreduce" "$needs"
# The static library although the shared one lies beside it.
describe hfreduce-static "\${libdir}/libhfreduce.a $needs" ""
echo "installed $version in $prefix: cc app.c \$(PKG_CONFIG_PATH=$prefix/lib/pkgconfig pkg-config --cflags --libs hfreduce)"
