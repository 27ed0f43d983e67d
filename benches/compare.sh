#!/bin/sh
# Two builds of Larder in turns, and which rows of the benchmark moved beyond noise.
# usage: benches/compare.sh OLD   OLD is a program, or a commit that is built in a worktree below target/.
set -eu
cd "$(dirname "$0")/.."
old=${1:?usage: make bench-compare OLD=program-or-commit}
if [ ! -x "$old" ] || [ -d "$old" ]; then
  commit=$(git rev-parse --verify --quiet "$old^{commit}") || {
    echo "$old is neither a program nor a commit" >&2
    exit 2
  }
  tree=target/compare/$commit
  if [ ! -x "$tree/larder" ]; then
    mkdir -p "$tree"
    git worktree add --quiet --force --detach "$tree/tree" "$commit"
    # Its dependencies are built once for all commits.
    (cd "$tree/tree" && CARGO_TARGET_DIR=$PWD/../../target cargo build --release --locked --bin larder)
    cp target/compare/target/release/larder "$tree/larder"
    git worktree remove --force "$tree/tree"
  fi
  old=$tree/larder
fi
BENCH_COMPARE=1 BENCH_BEFORE=$(realpath "$old") BENCH_ROUNDS=${BENCH_ROUNDS:-9} \
  BENCH_ONLY=${BENCH_ONLY:-cold,warm,manifest} cargo bench --locked --bench side_by_side
