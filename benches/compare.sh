#!/bin/sh
# Two builds of Larder in turns, and which rows of the benchmark moved beyond noise.
# usage: benches/compare.sh OLD   OLD is a program, or a commit that is built in a worktree below target/.
# Both are programs of `cargo build --release --bin larder`: a benchmark's own build has the features of the tests.
set -eu
cd "$(dirname "$0")/.."
old=${1:?usage: make bench-compare OLD=program-or-commit}
place=$PWD/target/compare
mkdir -p "$place"
if [ -x "$old" ] && [ ! -d "$old" ]; then
  # First of all: the build below writes to target/release, where OLD may be.
  cp "$old" "$place/old"
else
  commit=$(git rev-parse --verify --quiet "$old^{commit}") || {
    echo "$old is neither a program nor a commit" >&2
    exit 2
  }
  built=$place/$commit.larder
  if [ ! -x "$built" ]; then
    tree=$place/tree
    forget() { git worktree remove --force "$tree" 2>/dev/null || rm -rf "$tree"; git worktree prune; }
    # What a build that was interrupted has left.
    forget
    trap forget EXIT
    trap 'exit 1' INT TERM HUP
    git worktree add --quiet --detach "$tree" "$commit"
    # Its dependencies are built once for all commits.
    (cd "$tree" && CARGO_TARGET_DIR=$place/target cargo build --release --locked --bin larder)
    cp "$place/target/release/larder" "$built"
    forget
    trap - EXIT
  fi
  cp "$built" "$place/old"
fi
cargo build --release --locked --bin larder
cp target/release/larder "$place/new"
if cmp -s "$place/old" "$place/new"; then
  echo "both are the same program" >&2
  exit 2
fi
BENCH_COMPARE=1 BENCH_PROGRAM=$place/new BENCH_BEFORE=$place/old BENCH_ROUNDS=${BENCH_ROUNDS:-9} \
  BENCH_ONLY=${BENCH_ONLY:-cold,crowd,first,head,warm,manifest} cargo bench --locked --bench side_by_side
