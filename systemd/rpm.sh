#!/usr/bin/env bash
# Builds a package for Fedora, RHEL and their relatives, and SUSE, from a program that was built before:
#   rpm.sh PROGRAM DIRECTORY [GENERATOR]
# GENERATOR: see files.sh. Needs rpmbuild, which Debian has in its package rpm.
set -euo pipefail
program=$(realpath "$1") generator=$(realpath "${3:-$1}")
mkdir -p "$2"
directory=$(realpath "$2")
here=$(cd "$(dirname "$0")/.." && pwd)
version=$("$generator" --version | cut -d' ' -f2)
case "$(readelf -h "$program" | sed -n 's/^ *Machine: *//p')" in
  *X86-64) architecture=x86_64 ;;
  AArch64) architecture=aarch64 ;;
  *) echo "rpm.sh: $program is for a machine that has no package" >&2; exit 1 ;;
esac
glibc=$(readelf -V "$program" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1 | cut -d_ -f2)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ZSH_COMPLETIONS=/usr/share/zsh/site-functions \
  "$here/systemd/files.sh" "$program" "$work/root" /usr/lib/systemd/system "$generator"
rpmbuild -bb --quiet --target "$architecture-linux" \
  --define "_topdir $work" --define "_rpmdir $work/out" --define "_build_name_fmt %{NAME}.rpm" \
  --define "larder_version $version" --define "larder_glibc $glibc" --define "larder_root $work/root" \
  --define "larder_scripts $here/systemd/rpm" "$here/systemd/rpm/larder.spec" >/dev/null
package="$directory/larder-$version-1.$architecture.rpm"
install -m 644 "$work/out/larder.rpm" "$package"
echo "$package"
