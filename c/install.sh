#!/usr/bin/env bash
# Installs the C interface below PREFIX: shared and static library, header, pkg-config files. Builds the release first, or takes what is
# built already in FOLDER (as target/release). Knows nothing of the code.
#
# usage: c/install.sh [--from FOLDER] PREFIX
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"

from=
if [ "${1:-}" = --from ]; then
    from=${2:?"--from needs the folder of the built libraries"}
    shift 2
fi
if [ $# != 1 ] || [ -z "$1" ]; then
    echo "usage: c/install.sh [--from FOLDER] PREFIX" >&2
    exit 2
fi
if ! command -v cargo >/dev/null; then
    echo "this needs Rust 1.95 or later; install it with rustup (https://www.rust-lang.org/tools/install) and start again" >&2
    exit 1
fi

version=$(sed -n 's/^#define HFR_\(MAJOR\|MINOR\|PATCH\) //p' "$here/include/hfreduce.h" | paste -sd.)
soname=$(sed -n 's/.*-soname,\(libhfreduce\.so\.[0-9]*\).*/\1/p' "$here/build.rs")
if [ -z "$from" ]; then
    (cd "$here" && cargo build --release --package hfreduce-c)
    from=${CARGO_TARGET_DIR:-$here/../target}/release
fi
mkdir -p "$1"
prefix=$(cd "$1" && pwd)
# What a program needs beside the static library: what Rust's standard library needs.
needs=$(cd "$here" && echo | rustc --crate-type staticlib --print native-static-libs -o /dev/null - 2>&1 | sed -n 's/^note: native-static-libs: //p')

install -d "$prefix/lib/pkgconfig" "$prefix/include"
install -m 644 "$here/include/hfreduce.h" "$prefix/include/"
install -m 644 "$from/libhfreduce.a" "$prefix/lib/"
install -m 755 "$from/libhfreduce.so" "$prefix/lib/libhfreduce.so.$version"
ln -sf "libhfreduce.so.$version" "$prefix/lib/$soname"
ln -sf "$soname" "$prefix/lib/libhfreduce.so"

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
