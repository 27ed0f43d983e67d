# Two commands do everything: `make run` and `make test`. The rest is here for those who work on Larder.

.DEFAULT_GOAL := help
SHELL := /bin/bash
CARGO ?= cargo
NEXTEST_PROFILE ?= default

STATIC_TARGET ?= $(shell uname -m)-unknown-linux-musl

.PHONY: help run demo test format lint unit docs e2e test-long stall bench tools deb static image deny fuzz

FUZZ_SECONDS ?= 60
STALL_ROUNDS ?= 3
FUZZ_TARGETS := docker_config challenge plugin_response token glob

help: ## Show this list
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

run: ## Build and start the daemon with built-in defaults
	$(CARGO) build --release --locked
	exec target/release/larder serve

demo: ## Show a cold and a warm pull, without internet
	$(CARGO) build --release --locked --bin larder --example demo
	target/release/examples/demo

test: tools format lint unit docs e2e ## Install what the tests need, then run all of them
	@echo "all tests passed"

tools: ## Say and install what the tests need
	@tests/tools.sh

format: ## Check the format
	$(CARGO) fmt --check

lint: ## Clippy, warnings as errors
	$(CARGO) clippy --locked --all-targets -- -D warnings

unit: ## Unit and integration tests
	@if $(CARGO) nextest --version >/dev/null 2>&1; then \
	  $(CARGO) nextest run --locked --no-fail-fast --lib --test it --test layering; \
	else \
	  $(CARGO) test --locked --lib --test it --test layering; \
	fi

docs: ## Documentation, warnings as errors
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --quiet

e2e: ## The real programs: containerd, runc, docker-registry, skopeo, podman, Docker, promtool
	$(CARGO) build --locked --bin larder --example demo
	python3 tests/e2e/run.py

test-long: ## Kills and power cuts, LARDER_LONG (100) times as many of them as in make test; the page in Chromium
	$(CARGO) build --locked --bin larder
	tests/tools.sh --long
	LARDER_LONG=$${LARDER_LONG:-100} python3 tests/e2e/run.py Disk Browser

stall: ## Unit and integration tests with threads stopped at random, STALL_ROUNDS (3) times: finds races
	mkdir -p target && cc -Wall -O2 -shared -fPIC -o target/stall.so tests/stall.c -lpthread
	$(CARGO) build --locked --tests
	for round in $$(seq $(STALL_ROUNDS)); do \
	  env CARGO_TARGET_$$(rustc -vV | sed -n 's/^host: //p' | tr a-z- A-Z_)_RUNNER="env LD_PRELOAD=$(CURDIR)/target/stall.so" \
	    $(MAKE) --no-print-directory unit || exit 1; \
	done

bench: tools ## Larder beside nginx and docker-registry; writes benches/RESULTS.md; then its pieces one by one
	$(CARGO) bench --locked --bench side_by_side
	$(CARGO) bench --locked --bench micro

deb: ## A Debian package in target/deb
	$(CARGO) build --release --locked --bin larder
	systemd/deb.sh target/release/larder target/deb

static: ## A static program in target/static (needs musl-gcc: apt-get install musl-tools)
	rustup target add $(STATIC_TARGET)
	$(CARGO) build --release --locked --bin larder --target $(STATIC_TARGET)
	install -D target/$(STATIC_TARGET)/release/larder target/static/larder
	install -m 644 /etc/ssl/certs/ca-certificates.crt target/static/ca-certificates.crt

image: static ## A container image, with podman
	podman build -f config/Containerfile -t larder .

deny: ## Licences, bans, sources and advisories of the dependencies (needs cargo-deny)
	$(CARGO) deny check

fuzz: ## Each parser of strangers' bytes under the fuzzer for FUZZ_SECONDS (needs cargo-fuzz)
	@for target in $(FUZZ_TARGETS); do \
	  mkdir -p fuzz/corpus/$$target; \
	  RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run $$target fuzz/corpus/$$target fuzz/seeds/$$target --sanitizer none -- \
	    -max_total_time=$(FUZZ_SECONDS) -max_len=4096 || exit 1; \
	done
