#!/usr/bin/env bash
# Builds a package for Debian 12 and Ubuntu from a program that was built before: deb.sh PROGRAM DIRECTORY
set -euo pipefail
program=$1 directory=$2
here=$(cd "$(dirname "$0")/.." && pwd)
version=$("$program" --version | cut -d' ' -f2)
architecture=$(dpkg --print-architecture)
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"

put() { install -D -m "$1" "$2" "$root$3"; }
put 755 "$program" /usr/bin/larder
for unit in larder.service larder.socket larder-credentials.path larder-credentials.service; do
  put 644 "$here/systemd/$unit" "/lib/systemd/system/$unit"
done
put 644 "$here/config/larder.toml" /etc/larder/larder.toml
put 644 "$here/config/alerts.yaml" /usr/share/larder/alerts.yaml
put 644 "$here/config/grafana/larder.json" /usr/share/larder/grafana-dashboard.json
put 644 "$here/LICENSE" /usr/share/doc/larder/copyright
put 644 "$here/CHANGELOG.md" /usr/share/doc/larder/CHANGELOG.md

generated=$(mktemp -d)
"$program" generate "$generated"
for page in "$generated"/*.1; do
  gzip -9n "$page"
  put 644 "$page.gz" "/usr/share/man/man1/$(basename "$page").gz"
done
put 644 "$generated/larder.bash" /usr/share/bash-completion/completions/larder
put 644 "$generated/_larder" /usr/share/zsh/vendor-completions/_larder
put 644 "$generated/larder.fish" /usr/share/fish/vendor_completions.d/larder.fish
rm -r "$generated"

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
Depends: libc6 (>= 2.36), ca-certificates
Recommends: systemd (>= 252)
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
dpkg-deb --root-owner-group --build "$root" "$package" >/dev/null
echo "$package"
