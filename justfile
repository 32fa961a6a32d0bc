# `just` lists these; each is also a plain command that you can type.

_list:
    @just --list --unsorted

# Serve with a stand-in model and show one request's price
demo:
    cargo run --release -- demo

# Build with optimisations
build:
    cargo build --release --locked

# Every test (they need apt-get install faketime postgresql)
test:
    cargo test --locked --workspace

# Break everything under load, by a seed: [--seed N] [--seeds HOW_MANY] [--minutes M | --seconds S] [--on sqlite|postgres|both]
chaos *ARGS:
    cargo test --locked --test chaos -- run {{ARGS}}

# What CI checks of the code itself
lint:
    cargo fmt --check
    cargo clippy --locked --workspace --all-targets -- -D warnings
    shellcheck scripts/*.sh .ci/run
    scripts/docker-context.sh

# Put the code in its one format
fmt:
    cargo fmt

# Licences, bans and sources of the dependencies (cargo install cargo-deny)
deny:
    cargo deny check bans licenses sources
    cargo deny --manifest-path fuzz/Cargo.toml --config deny.toml --locked check bans licenses sources

# What the binary is made of, as CycloneDX JSON in target/sbom (cargo install cargo-cyclonedx)
sbom *TARGET:
    scripts/sbom.sh {{TARGET}}

# Every command of README.md and docs/, run against the binary
docs:
    cargo build --locked
    scripts/docs.py target/debug/tollgate

# The units, proxies and recipes of deploy/
deploy:
    cargo build --locked
    scripts/deploy-check.sh target/debug/tollgate

# Docker: every recipe of docs/docker.md on an engine of its own, as root: [--source] [--users N] [--only WORD]
docker *ARGS:
    cargo build --release --locked
    scripts/docker-try.sh target/release/tollgate --install {{ARGS}}

# OpenAI's Python and Node SDKs against the running binary
sdk:
    scripts/sdk-check.sh

# LangChain, pydantic-ai, openai-agents, instructor, LlamaIndex, Vercel's ai and more, each against two manners of upstream
sdk-matrix *ARGS:
    scripts/sdk-matrix.sh {{ARGS}}

# Both listeners against what they say of themselves, with schemathesis.
api:
    scripts/api-check.sh

# The operator's dashboard in Chromium, with none and with 100,000 requests; its pictures go to docs/images
dashboard:
    cargo build --locked --bin tollgate
    scripts/dashboard.sh target/debug/tollgate --pictures docs/images

# Alert rules and Grafana dashboard against a real Prometheus (apt-get install prometheus)
prometheus:
    scripts/prometheus-check.sh

# A real model behind Tollgate, and what it charges beside what the model's server counted
real-model:
    scripts/real-model.sh

# Tollgate beside nginx and a Python sketch (bench/README.md): `just bench`, `just bench --quick`, `just bench overshoot`
bench *arguments:
    cargo build --release --locked -p tollgate -p tollgate-bench
    bench/run.py {{arguments}}

# Look for inputs that break a promise: token, order, stream, usage or config (cargo install cargo-fuzz; needs c++)
fuzz TARGET MINUTES="10":
    nice -n 10 cargo fuzz run -s none {{TARGET}} -- -max_total_time=$(({{MINUTES}} * 60)) -timeout=200 -rss_limit_mb=1024 -max_len=4096 -dict=fuzz/{{TARGET}}.dict

# Leave only those kept inputs that reach something no other does
fuzz-minimise TARGET:
    cargo fuzz cmin -s none {{TARGET}}

# Instructions of the hot pure parts, compared with benches/micro/table.tsv; `just micro --renew` writes it anew (needs valgrind)
micro *ARGS:
    cargo bench --locked --bench micro -- {{ARGS}}

# Everything CI does
ci:
    .ci/run

# Take each law and each defence out once, and see a test go red (about an hour)
guards *ARGS:
    scripts/guards.py {{ARGS}}
