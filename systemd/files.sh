#!/usr/bin/env bash
# Lays the files of a package out below a root: files.sh PROGRAM ROOT UNITS [GENERATOR]
# UNITS is where the distribution has the units of packages. GENERATOR is a build of the same version that runs on this
# machine and writes the manual pages and completions; without it PROGRAM does.
set -euo pipefail
program=$1 root=$2 units=$3 generator=${4:-$1}
here=$(cd "$(dirname "$0")/.." && pwd)

put() { install -D -m "$1" "$2" "$root$3"; }
put 755 "$program" /usr/bin/larder
for unit in larder.service larder.socket larder-credentials.path larder-credentials.service; do
  put 644 "$here/systemd/$unit" "$units/$unit"
done
put 644 "$here/config/larder.toml" /etc/larder/larder.toml
put 644 "$here/config/alerts.yaml" /usr/share/larder/alerts.yaml
put 644 "$here/config/grafana/larder.json" /usr/share/larder/grafana-dashboard.json
put 644 "$here/LICENSE" /usr/share/doc/larder/copyright
put 644 "$here/CHANGELOG.md" /usr/share/doc/larder/CHANGELOG.md

generated=$(mktemp -d)
trap 'rm -rf "$generated"' EXIT
"$generator" generate "$generated"
for page in "$generated"/*.1; do
  gzip -9n "$page"
  put 644 "$page.gz" "/usr/share/man/man1/$(basename "$page").gz"
done
put 644 "$generated/larder.bash" /usr/share/bash-completion/completions/larder
put 644 "$generated/_larder" "${ZSH_COMPLETIONS:-/usr/share/zsh/vendor-completions}/_larder"
put 644 "$generated/larder.fish" /usr/share/fish/vendor_completions.d/larder.fish
