# make demo: see it work.  make test: all tests.  make test-upgrade: two versions in one group.  make test-slow-disk: replicas on slow disks, measured.  make sim: a swarm of simulated clusters.  make bench: every figure, with five million pages.  make bench-quick: the figures of a million, with floors.  make lint: formatting, clippy, unused dependencies.
# Cargo's flags live in .cargo/config.toml; nothing here sets RUSTFLAGS (it would replace them and rebuild everything).

TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
DEMO_FLAGS ?=
BENCH_FLAGS ?=
SIM_SEEDS ?= 0..200
SIM_SECONDS ?= 60
SIM_FLAGS ?= --all-must-be-seen
# How long the swarm may take, without its build; 0: as long as it wants.
SIM_LIMIT ?= 0

.PHONY: help demo test test-upgrade test-slow-disk sim bench bench-quick bench-build lint
.DEFAULT_GOAL := help

help:
	@sed -n '1s/^# //p' Makefile

demo:
	@echo "building foreword in release mode (the first time compiles every dependency: several minutes)" >&2
	cargo build --release --bin foreword
	@echo "starting three meta replicas and two agents on this machine; the leader is killed half-way" >&2
	$(TARGET_DIR)/release/foreword demo $(DEMO_FLAGS)

test:
	@tests/run

# A second binary, of the next version, beside the one that is tested: compiles our own crates once more (two minutes on two cores).
test-upgrade:
	cargo build --workspace --bin foreword --features foreword/next-version
	cp $(TARGET_DIR)/debug/foreword $(TARGET_DIR)/debug/foreword-next
	FOREWORD_NEXT_BINARY=$(abspath $(TARGET_DIR)/debug/foreword-next) \
		cargo test --workspace --test it -- --ignored upgrade

# Syncs of 60 ms on all replicas for a minute twice, of 300 ms on the leader alone: three minutes, on a machine that does nothing else.
test-slow-disk:
	cargo test --workspace --test it -- --include-ignored --nocapture --test-threads 1 slow_disk

sim:
	cargo build --release -p sim
	timeout $(SIM_LIMIT) $(TARGET_DIR)/release/sim --seeds $(SIM_SEEDS) --seconds $(SIM_SECONDS) $(SIM_FLAGS)

# On a machine that does nothing else: half an hour.
bench: bench-build
	$(TARGET_DIR)/release/foreword bench $(BENCH_FLAGS)

# Fails below its floors, which are a third of what was reached.
bench-quick: bench-build
	$(TARGET_DIR)/release/foreword bench --quick --floors tests/bench-quick.floors $(BENCH_FLAGS)

bench-build:
	cargo build --release -p foreword -p foreword-bench

lint:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	@command -v cargo-machete >/dev/null || cargo install --locked cargo-machete
	cargo machete
	tests/unsafe
