# `just` lists these; each is also a plain command that you can type.

_list:
    @just --list --unsorted

# Serve with a stand-in model, and show one request and its price
demo:
    cargo run --release -- demo

# Build with optimisations
build:
    cargo build --release --locked

# Every test; installs what they need and is missing: [ARGUMENTS FOR cargo test]
test *ARGS:
    scripts/test.sh {{ARGS}}

# Live the lives of phones that sleep and lose their connections: [LIVES]; TOLLGATE_TESTS_ON=postgres for a ledger there
phone LIVES="10000":
    TOLLGATE_PHONE_LIVES={{LIVES}} cargo test --locked --test it -- phone::

# Tell a ledger of random histories of a subscription, in any order, twice, by several channels; on SQLite and Postgres: [HISTORIES]
purchases HISTORIES="1000":
    TOLLGATE_PURCHASE_HISTORIES={{HISTORIES}} cargo test --locked --lib -- purchases::tests::the_rows_of_a_ledger

# Break everything under load, as a seed decides: [--seed N] [--seeds HOW_MANY] [--minutes M | --seconds S] [--on sqlite|postgres|both]
chaos *ARGS:
    cargo test --locked --test chaos -- run {{ARGS}}

# What CI checks of the code itself
lint:
    cargo fmt --check
    cargo clippy --locked --workspace --all-targets -- -D warnings
    shellcheck scripts/*.sh .ci/run
    scripts/docker-context.sh

# Format the code
fmt:
    cargo fmt

# The HTTP/1 client to upstreams beside hyper's: instructions (valgrind), CPU and memory (bench/README.md)
bench-client:
    bench/client/run.sh

# Lines of files and functions, shared type names, comments: [FOLDER] [--shared] [--participles] [--long]
measures *ARGS:
    scripts/measures.py {{ARGS}}

# Write prices.toml from the PyPI package genai-prices, or see what would change: [--check]
prices *ARGS:
    scripts/prices.py {{ARGS}}

# Licences, bans and sources of the dependencies (cargo install cargo-deny)
deny:
    cargo deny check bans licenses sources
    cargo deny --manifest-path fuzz/Cargo.toml --config deny.toml --locked check bans licenses sources

# Bill of materials of the binary, as CycloneDX JSON in target/sbom (cargo install cargo-cyclonedx)
sbom *TARGET:
    scripts/sbom.sh {{TARGET}}

# Run every command of README.md and docs/ against the binary
docs:
    cargo build --locked
    scripts/docs.py target/debug/tollgate

# Check the units, proxies and platform files of deploy/
deploy:
    cargo build --locked
    scripts/deploy-check.sh target/debug/tollgate

# Run every recipe of docs/docker.md on a Docker engine of its own, as root: [--source] [--users N] [--only WORD]
docker *ARGS:
    cargo build --release --locked
    scripts/docker-try.sh target/release/tollgate --install {{ARGS}}

# The Swift package and the Swift of the docs: compiled and tested in a Debian trixie of its own, as root
swift:
    scripts/swift-check.sh --tsan

# The Kotlin of the recipes compiled beside stubs, their Dart parsed
recipes:
    scripts/recipe-check.sh

# The TypeScript package, and the TypeScript of docs/answers.md in Chromium and Node
js:
    scripts/js-check.sh
    scripts/resume-check.sh

# That the packages' versions are the server's; --swift, --npm DIR: what a release makes of them
packages *ARGS:
    scripts/packages.sh {{ARGS}}

# Run OpenAI's Python and Node SDKs against the binary
sdk:
    scripts/sdk-check.sh

# Run LangChain, pydantic-ai, openai-agents, instructor, LlamaIndex, Vercel's ai and more, each with two kinds of upstream
sdk-matrix *ARGS:
    scripts/sdk-matrix.sh {{ARGS}}

# Check both listeners against their OpenAPI descriptions, with schemathesis
api:
    scripts/api-check.sh

# Test the dashboard in Chromium, with no and with 100,000 requests; makes the pictures in docs/images
dashboard:
    cargo build --locked --bin tollgate
    scripts/dashboard.sh target/debug/tollgate --pictures docs/images

# Check alert rules and the Grafana dashboard with a real Prometheus (apt-get install prometheus)
prometheus:
    scripts/prometheus-check.sh

# Put a real model behind Tollgate, and compare what it charges with what the model's server counted
real-model:
    scripts/real-model.sh

# Measure Tollgate beside nginx and a Python sketch (bench/README.md): `just bench`, `just bench --quick`, `just bench overshoot`
bench *arguments:
    cargo build --release --locked -p tollgate -p tollgate-bench
    bench/run.py {{arguments}}

# Fuzz one kind of input: token, order, stream, responses, usage, audio, multipart, image_size, webhooks, http1 or config (cargo install cargo-fuzz; needs c++)
fuzz TARGET MINUTES="10":
    nice -n 10 cargo fuzz run -s none {{TARGET}} -- -max_total_time=$(({{MINUTES}} * 60)) -timeout=200 -rss_limit_mb=1024 -max_len=4096 -dict=fuzz/{{TARGET}}.dict

# Reduce the kept inputs to those that reach code no other does
fuzz-minimise TARGET:
    cargo fuzz cmin -s none {{TARGET}}

# Count the instructions of the hot pure functions, and compare with benches/micro/table.tsv; `just micro --renew` updates it (needs valgrind)
micro *ARGS:
    cargo bench --locked --bench micro -- {{ARGS}}

# Everything that CI does
ci:
    .ci/run

# Remove each rule and each check once, and see a test fail (about an hour)
guards *ARGS:
    scripts/guards.py {{ARGS}}
