# make demo         see it work, on a private Redis, in under a minute once built
# make test         every test, on real servers (installs them under target/), and some promises again over TLS
# make lint         what .ci/run insists on before it tests
# make targets      the program compiles for musl and arm64 as well; needs their C compilers
# make alerts       checks monitoring/alerts.yml and stages each alert; brings Debian's promtool where there is none
# make docs         the documentation as a site, target/book/index.html; installs mdbook if there is none
# make bench-smoke  every part of the bench for some seconds, and the gates of .ci/run: throughput against an ideal
#                   client, instructions a message
# make bench        measures everything and writes docs/performance.md and its plots; BENCH_MINUTES=25 cuts it,
#                   BENCH_PARTS="capture latency" chooses, FULL=1 takes every combination of sizes and streams
# make bench-instructions
#                   instructions a message, by callgrind; needs valgrind
# make fuzz         each target of fuzz/ for FUZZ_SECONDS (default 60); FUZZ_TARGETS chooses. An input that does harm is
#                   left under fuzz/artifacts/. Once corrected, put it into fuzz/corpus/, which make test replays
# make soak         SOAK_SEEDS random histories, SOAK_ROUNDS of chaos on real processes and five times as many
#                   kills of a tap, then the promises over TLS, and then all of them over and over, for SOAK_MINUTES
#                   (default 30)
# make seed SEED=n  one random history again

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
CARGO ?= cargo
SOAK_MINUTES ?= 30
SOAK_SEEDS ?= 1000000
SOAK_ROUNDS ?= 20
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?= $(basename $(notdir $(wildcard fuzz/fuzz_targets/*.rs)))
export PATH := $(PATH):$(HOME)/.cargo/bin

# One promise of each kind of route, with replicas, sentinels, two instances and a password that changes.
OVER_TLS := capture::exact::on_one_server_that_is_both capture::durable::what_a_failover_lost_was_never_durable \
	broadcast::acknowledged::two_instances_publish_each_entry_exactly_once pair::takeover::a_rolling_restart \
	replication::failover::a_replica_that_lags_is_promoted servers::sentinel::an_old_master_behind_a_partition_is_left \
	invalidate::instances::two_instances_count_each_key_once_while_one_is_killed \
	servers::credentials::a_password_changes_under_load

.PHONY: demo test lint targets alerts docs bench bench-smoke bench-program bench-instructions fuzz soak seed servers

demo:
	$(CARGO) build --locked --release -p tidegate --bin tidegate -p tidegate-examples --example demo
	server=$$(scripts/servers.sh any) && target/release/examples/demo "$$server"

servers:
	scripts/servers.sh

# nextest runs each test in a process of its own and says which one was slow; cargo test does as well.
# Most tests wait for servers, so one more than there are cores runs at a time.
# tests/cache_clients.rs builds the helper of readers in Rust, and finds here that most is done.
test: servers
	$(CARGO) build --locked -p tidegate-cache
	$(CARGO) test --locked --doc
	TIDEGATE_TEST_TLS=1 $(CARGO) test --locked --test promises -- --exact $(OVER_TLS)
	if $(CARGO) nextest --version >/dev/null 2>&1; then \
		$(CARGO) nextest run --locked --lib --bins --tests --test-threads $$(($$(nproc) + 1)); \
	else \
		$(CARGO) test --locked --lib --bins --tests; \
	fi

lint:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items -p tidegate -p tidegate-cache
	$(CARGO) deny --locked check bans
	$(CARGO) deny --locked --workspace check licenses sources
	scripts/msrv.sh

targets:
	scripts/targets.sh

alerts:
	promtool=$$(scripts/promtool.sh | tail -n 1) && "$$promtool" check rules monitoring/alerts.yml \
		&& "$$promtool" test rules monitoring/alerts.test.yml

# Without the parts of mdbook that serve and search: a build is all that is needed. Unoptimized, it compiles in half the
# time and takes a second for the site.
docs:
	mdbook --version >/dev/null 2>&1 || $(CARGO) install --debug --locked --no-default-features mdbook@0.5.4
	mdbook build

# The runner is the half of gungraun that cargo does not build; both must be of one version. It only starts valgrind and
# reads what that counts, so it is compiled unoptimized.
GUNGRAUN := $(shell sed -n '/^name = "gungraun"/{n;s/version = "\(.*\)"/\1/p}' Cargo.lock)

# Cargo builds no program for the benches of another crate: without this they measure an old one, or none. Both crates are
# named, so that what they depend on is compiled once.
bench-program:
	$(CARGO) build --locked --release -p tidegate -p tidegate-benches --bin tidegate

bench-smoke: servers bench-program bench-instructions
	$(CARGO) bench --locked -p tidegate-benches --bench measure -- gate
	$(CARGO) bench --locked -p tidegate-benches --bench measure -- smoke

bench: servers bench-program
	$(CARGO) bench --locked -p tidegate-benches --bench measure -- all $(BENCH_PARTS)

bench-instructions: servers bench-program
	gungraun-runner --version 2>/dev/null | grep -qw '$(GUNGRAUN)' || \
		$(CARGO) install --debug --locked gungraun-runner@$(GUNGRAUN)
	$(CARGO) bench --locked -p tidegate-benches --bench instructions

# Counting which code was reached needs flags of the nightly compiler, which the stable one takes with RUSTC_BOOTSTRAP.
# Without a sanitizer, since the crate has no unsafe code. What is found on the way is kept under target/, so that
# fuzz/corpus/ stays small.
fuzz:
	$(CARGO) fuzz --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-fuzz@0.13.2
	for fuzzed in $(FUZZ_TARGETS); do \
		mkdir -p target/fuzz-corpus/$$fuzzed; \
		RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run --sanitizer none --target-dir target/fuzz $$fuzzed target/fuzz-corpus/$$fuzzed \
			fuzz/corpus/$$fuzzed -- -max_total_time=$(FUZZ_SECONDS) -timeout=10 -print_final_stats=1; \
	done

soak: servers
	$(CARGO) test --locked --test promises --no-run
	TIDEGATE_SEEDS=$(SOAK_SEEDS) $(CARGO) test --locked --profile bench --lib simulation::random_histories -- --nocapture
	TIDEGATE_SOAK=$(SOAK_ROUNDS) $(CARGO) test --locked --test promises -- --nocapture faults::chaos:: replication::killed_under_load
	TIDEGATE_TEST_TLS=1 $(CARGO) test --locked --test promises -- capture:: broadcast:: pair:: replication:: \
		servers::sentinel servers::named invalidate::exact --skip real_clients --skip capture::software --skip replication::opening
	end=$$((SECONDS + 60 * $(SOAK_MINUTES))); \
	while [ $$SECONDS -lt $$end ]; do $(CARGO) test --locked --test promises; done

seed:
	TIDEGATE_SEED=$(SEED) $(CARGO) test --locked --lib simulation::random_histories -- --nocapture
