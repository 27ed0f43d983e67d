#!/usr/bin/env bash
# Says what the tests need, installs what is missing on Debian or Ubuntu, and fails clearly where it cannot.
set -euo pipefail

# program:package
needed=(
  containerd:containerd runc:runc docker-registry:docker-registry skopeo:skopeo podman:podman
  promtool:prometheus prometheus:prometheus busybox:busybox-static curl:curl python3:python3 ip:iproute2
  htpasswd:apache2-utils openssl:openssl strace:strace nginx:nginx-light wrk:wrk systemd-analyze:systemd findmnt:util-linux mkfs.ext4:e2fsprogs mkfs.xfs:xfsprogs
)
[ "${1:-}" != --long ] || needed+=(chromium:chromium)
missing=()
for pair in "${needed[@]}"; do
  PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%:*}" >/dev/null || missing+=("${pair##*:}")
done
/usr/bin/python3 -c 'import grpc' 2>/dev/null || missing+=(python3-grpcio)

if [ ${#missing[@]} -gt 0 ]; then
  echo "the tests need: ${missing[*]}"
  if ! command -v apt-get >/dev/null; then
    echo "cannot install them: no apt-get here. Install the programs above by hand, then run make test again." >&2
    exit 1
  fi
  if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null; then
    echo "cannot install them: not root and no sudo. Run as root: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(); [ "$(id -u)" -eq 0 ] || as_root=(sudo)
  "${as_root[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

# Docker is unpacked and not installed: its package starts a daemon that rewrites the machine's firewall.
docker=target/tools/docker
has() { PATH="$PWD/$docker/usr/bin:$PWD/$docker/usr/sbin:$PATH:/usr/sbin" command -v "$1" >/dev/null; }
for pair in dockerd:docker.io docker:docker-cli; do
  if ! has "${pair%%:*}"; then
    echo "the tests need: ${pair##*:} (unpacked into $docker, not installed)"
    mkdir -p "$docker"
    if ! (cd "$docker" && apt-get download -qq "${pair##*:}" && dpkg-deb -x "${pair##*:}"_*.deb . && rm ./*.deb) \
      >"$docker/log" 2>&1 || ! has "${pair%%:*}"; then
      cat "$docker/log" >&2
      echo "cannot unpack it: apt-get update, then run make test again" >&2
      exit 1
    fi
  fi
done

for component in rustfmt clippy; do
  cargo "${component/rustfmt/fmt}" --version >/dev/null 2>&1 || rustup component add "$component"
done
