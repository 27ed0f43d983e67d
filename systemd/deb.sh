#!/usr/bin/env bash
# Builds a package for Debian and Ubuntu from a program that was built before: deb.sh PROGRAM DIRECTORY [GENERATOR]
# GENERATOR: see files.sh. Which distributions it is for follows from the C library that the program was linked against
# (`make packages` links against that of Debian 11 and Ubuntu 20.04).
set -euo pipefail
program=$1 directory=$2 generator=${3:-$1}
here=$(cd "$(dirname "$0")/.." && pwd)
version=$("$generator" --version | cut -d' ' -f2)
case "$(readelf -h "$program" | sed -n 's/^ *Machine: *//p')" in
  *X86-64) architecture=amd64 ;;
  AArch64) architecture=arm64 ;;
  *) echo "deb.sh: $program is for a machine that has no package" >&2; exit 1 ;;
esac
glibc=$(readelf -V "$program" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1 | cut -d_ -f2)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
"$here/systemd/files.sh" "$program" "$root" /lib/systemd/system "$generator"

mkdir -p "$root/DEBIAN"
echo /etc/larder/larder.toml >"$root/DEBIAN/conffiles"
for script in postinst prerm postrm; do
  install -m 755 "$here/systemd/deb/$script" "$root/DEBIAN/$script"
done
cat >"$root/DEBIAN/control" <<CONTROL
Package: larder
Version: $version
Architecture: $architecture
Maintainer: The founders of Larder <larder@localhost>
Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f1)
Depends: libc6 (>= $glibc), ca-certificates, init-system-helpers (>= 1.54)
Recommends: systemd (>= 247)
Section: admin
Priority: optional
Description: node-local pull-through registry cache
 Container runtimes pull images through Larder. It fetches what it does not
 have from any upstream registry, with the credentials that kubelet would use,
 and stores it in one deduplicated, verified store on disk. A workload reads
 only what its own credentials may read.
CONTROL
mkdir -p "$directory"
package="$directory/larder_${version}_${architecture}.deb"
dpkg-deb --root-owner-group -Zxz --build "$root" "$package" >/dev/null
echo "$package"
