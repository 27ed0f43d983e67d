#!/usr/bin/env bash
# Builds the packages for a kind of machine: packages.sh [TARGET] writes target/packages/*.deb and *.rpm.
#
# TARGET is x86_64-unknown-linux-gnu or aarch64-unknown-linux-gnu, by default this machine's. The program is linked by Zig
# against the C library 2.31, that of Debian 11 and Ubuntu 20.04, so that one package serves every distribution since. The
# tools are installed below target/ from PyPI (packaging.txt).
set -euo pipefail
cd "$(dirname "$0")/.."
readonly GLIBC=2.31
target=${1:-$(uname -m)-unknown-linux-gnu}
tools=$PWD/target/tools/packaging
# What is missing is said before the build of minutes, and not after it.
tests/tools.sh --packages
[ -x "$tools/bin/pip" ] || /usr/bin/python3 -m venv "$tools"
"$tools/bin/pip" install --quiet --require-hashes -r systemd/packaging.txt
PATH="$tools/bin:$PATH"

rustup target add "$target" >/dev/null 2>&1 || rustup target list --installed | grep -qx "$target"
cargo zigbuild --release --locked --bin larder --target "$target.$GLIBC"
program=target/$target/release/larder
needs=$(readelf -V "$program" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1 | cut -d_ -f2)
[ "$(printf '%s\n' "$needs" "$GLIBC" | sort -V | tail -n 1)" = "$GLIBC" ] || {
  echo "packages.sh: $program needs the C library $needs" >&2
  exit 1
}
generator=$program
if [ "${target%%-*}" != "$(uname -m)" ]; then
  cargo build --locked --bin larder
  generator=target/debug/larder
fi
systemd/deb.sh "$program" target/packages "$generator"
systemd/rpm.sh "$program" target/packages "$generator"
