# Two commands do everything: `make run` and `make test`. The rest is here for those who work on Larder.

.DEFAULT_GOAL := help
.NOTPARALLEL:
SHELL := /bin/bash
CARGO ?= cargo

STATIC_TARGET ?= $(shell uname -m)-unknown-linux-musl
PACKAGE_TARGET ?= $(shell uname -m)-unknown-linux-gnu
# containerd, runc and mounts need root; what is built is built by the one who calls.
AS_ROOT ?= $(if $(filter 0,$(shell id -u)),,sudo)

.PHONY: help run demo quick test format lint lint-scripts unit sim model simulate mutants-sim coverage docs tools e2e test-long stall bench bench-program bench-scale deb packages static image \
  deny msrv fuzz bench-compare

FUZZ_SECONDS ?= 60
STALL_ROUNDS ?= 3
E2E_LONG ?= 100
SEEDS ?= 1-500
MUTANT_SEEDS ?= kept,1-60
export MODEL_SEED ?= 1
MSRV = $(shell sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
FUZZ_TARGETS := $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))

# Tests by nextest, which ends a test that hangs and names it, else by cargo alone.
define run_tests
@if $(CARGO) nextest --version >/dev/null 2>&1; then \
  $(CARGO) nextest run --locked --no-fail-fast $(1); \
else \
  $(CARGO) test --locked --no-fail-fast $(1); \
fi
endef

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

run: ## Build and start the daemon with built-in defaults
	$(CARGO) build --release --locked
	exec target/release/larder serve

demo: ## Show a cold and a warm pull, without internet
	$(CARGO) build --release --locked --bin larder --example demo
	target/release/examples/demo

quick: format lint ## Format, lints, unit tests, layers: no root, nothing installed, under a minute when warm
	$(call run_tests,--lib --test layering)

test: format lint tools unit model sim docs e2e ## Format and lints; then installs what the tests use; then all tests
	@echo "all tests passed"

format: ## Check the format
	$(CARGO) fmt --check

lint: ## Clippy, warnings as errors; and what only the fuzzers are built with
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --lib --tests --features model -- -D warnings --cfg fuzzing

lint-scripts: ## Workflows, shell scripts and the Containerfile; installs the linters below target/
	@.ci/lint-scripts

unit: ## Unit and integration tests
	$(call run_tests,--lib --test it --test layering)

model: ## What threads share, run by shuttle in thousands of orders (docs/testing.md)
	$(call run_tests,--lib --features model schedule_tests)

sim: ## The simulated world for about a minute: kept histories, fixed seeds and fresh ones (docs/testing.md)
	$(CARGO) test --locked --test sim

simulate: ## The simulated world for SEEDS: 1-5000 are many; 4711 is one, with its story, shrunk
	$(CARGO) test --locked --test sim -- simulate $(SEEDS)

mutants-sim: ## Break Larder in the ways of tests/sim/mutations.txt; the simulated world must see each (takes minutes)
	tests/sim/mutants.py $(MUTANT_SEEDS)

coverage: ## How much of src/ the simulated world runs, and all tests (docs/testing.md; needs the component llvm-tools)
	.ci/coverage

docs: ## Documentation, warnings as errors
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --quiet

tools: ## Say and install what the tests use: real clients and registries, of which no service is started
	@tests/tools.sh

e2e: ## The real programs: containerd, runc, docker-registry, skopeo, podman, Docker, promtool (as root)
	$(CARGO) build --locked --bin larder --example demo
	$(AS_ROOT) /usr/bin/python3 -B tests/e2e/run.py

test-long: ## Kills, power cuts and blobs, E2E_LONG (100) times as many as in make test; a million from 500 on; Chromium; a shared tier of ten nodes and 1 GiB
	$(CARGO) build --locked --bin larder
	tests/tools.sh --long
	$(AS_ROOT) env E2E_LONG=$(E2E_LONG) /usr/bin/python3 -B tests/e2e/run.py Disk FullDisk Browser
	$(CARGO) build --locked --release --bin larder
	$(AS_ROOT) env E2E_TIER_MIB=1024 E2E_TIER_NODES=10 LARDER=$(CURDIR)/target/release/larder /usr/bin/python3 -B tests/e2e/run.py Tier

stall: ## Unit and integration tests with threads stopped at random, STALL_ROUNDS (3) times: finds races
	mkdir -p target && cc -Wall -O2 -shared -fPIC -o target/stall.so tests/stall.c -lpthread
	$(CARGO) build --locked --tests
	for round in $$(seq $(STALL_ROUNDS)); do \
	  env CARGO_TARGET_$$(rustc -vV | sed -n 's/^host: //p' | tr a-z- A-Z_)_RUNNER="env LD_PRELOAD=$(CURDIR)/target/stall.so" \
	    NEXTEST_RETRIES=0 $(MAKE) --no-print-directory unit || exit 1; \
	done

# Each benchmark measures this program: built as the packages have it, without the features that the tests ask for. It is
# copied, since cargo bench writes a build of its own to target/release/larder.
bench-program:
	$(CARGO) build --release --locked --bin larder
	mkdir -p target/bench
	cp target/release/larder target/bench/larder

bench bench-scale: export BENCH_PROGRAM := $(CURDIR)/target/bench/larder

bench: bench-program ## Larder beside nginx, docker-registry and other caches; writes benches/RESULTS.md; then its pieces one by one
	tests/tools.sh --bench
	$(CARGO) bench --locked --bench side_by_side
	$(CARGO) bench --locked --bench growth
	$(CARGO) bench --locked --bench lazy
	$(CARGO) bench --locked --bench pods
	$(CARGO) bench --locked --bench tier
	$(CARGO) bench --locked --bench micro
	$(MAKE) --no-print-directory bench-scale

bench-compare: ## This tree beside OLD, a program or a commit, in turns: which rows moved beyond noise (BENCH_ONLY, BENCH_ROUNDS)
	tests/tools.sh --bench
	benches/compare.sh "$(OLD)"

bench-scale: bench-program ## Stores of 1,000, 10,000, 100,000 and 1,000,000 blobs (16 GiB of disk); writes benches/SCALE.md
	$(CARGO) bench --locked --bench scale

deb: ## A Debian package in target/deb
	$(CARGO) build --release --locked --bin larder
	systemd/deb.sh target/release/larder target/deb

packages: ## deb and rpm in target/packages, for every distribution since glibc 2.31 (PACKAGE_TARGET: the machine)
	systemd/packages.sh $(PACKAGE_TARGET)

static: ## A static program in target/static
	tests/tools.sh --image
	rustup target add $(STATIC_TARGET)
	$(CARGO) build --release --locked --bin larder --target $(STATIC_TARGET)
	install -D target/$(STATIC_TARGET)/release/larder target/static/larder
	install -m 644 /etc/ssl/certs/ca-certificates.crt target/static/ca-certificates.crt

image: static ## A container image of that program, with podman
	podman build -f config/Containerfile -t larder .

deny: ## Licences, bans, sources and advisories of the dependencies (needs cargo-deny)
	$(CARGO) deny check

msrv: ## Build with the oldest Rust that Cargo.toml promises (rustup installs it)
	rustup toolchain install --profile minimal --no-self-update $(MSRV)
	$(CARGO) +$(MSRV) check --locked --lib --bins --target-dir target/msrv

fuzz: ## Each parser of strangers' bytes under the fuzzer for FUZZ_SECONDS (60; needs cargo-fuzz)
	@for target in $(FUZZ_TARGETS); do \
	  mkdir -p fuzz/corpus/$$target; \
	  RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run $$target fuzz/corpus/$$target fuzz/seeds/$$target --sanitizer none -- \
	    -max_total_time=$(FUZZ_SECONDS) -max_len=4096 || exit 1; \
	done
