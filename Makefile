# make dev, make test, make lint: each installs what it needs and is missing.

PG ?=
SEED ?=
ARGS ?=
.DEFAULT_GOAL := help
.PHONY: help dev test chaos lint bench image docker-check

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | while IFS="$$(printf '\t')" read -r name what; do \
		printf '  make %-14s %s\n' "$$name" "$$what"; done

dev: ## Run a server with a database of its own, for trying it out (ARGS=... go to walcast dev)
	@scripts/provide-rust
	@scripts/provide-postgres $(PG)
	@scripts/provide-node-packages web
	cargo run --locked -p walcast -- dev $(ARGS)

test: ## Run all tests; PG=14 to PG=18 chooses the Postgres they run on
	@scripts/test $(PG)

chaos: ## Let nodes, Redis, Postgres and clients fail for five minutes (SEED=... repeats a run)
	@scripts/provide-rust
	@scripts/provide-postgres $(PG)
	@scripts/provide-redis
	WALCAST_TEST_PG=$(PG) WALCAST_CHAOS_SEED=$(or $(SEED),random) WALCAST_CHAOS_S=300 \
		cargo test --locked -p walcast --test chaos -- --nocapture

lint: ## Check formatting, lints and scripts
	@scripts/provide-rust
	@scripts/lint

bench: ## Measure a running server (ARGS=... go to walcast-bench)
	@scripts/provide-rust
	cargo run --locked --release -p walcast-bench -- $(or $(ARGS),--help)

image: ## Build the container image walcast
	docker build --tag walcast .

docker-check: ## Check the compose files
	@scripts/docker-check
