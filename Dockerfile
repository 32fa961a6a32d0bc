# Tollgate in an image without a shell, running as an unprivileged user (uid 65532). This builds it from source, which takes
# ten minutes and 1.5 GB of memory on two cores; deploy/prebuilt/Dockerfile uses a binary that was built elsewhere.
#
#   docker build -t tollgate .
#   docker run --rm -p 127.0.0.1:8080:8080 tollgate demo
#   docker run -d -p 127.0.0.1:8080:8080 -v tollgate-ledger:/tollgate/data -v "$PWD:/tollgate/settings:ro" \
#     -e TOLLGATE_CONFIG=/tollgate/settings -e PORT=8080 tollgate
#
# The mounted folder has .env and tollgate.toml, which are read again when they change. (`--env-file .env` would take quotes as
# part of the value, and read the file only once.) docker-compose.yml does all this, with a read-only root.

FROM rust:1.95-bookworm AS builder
WORKDIR /src

# First build the dependencies with an empty program, so that their layer is built again only when the lock file changes.
# The workspace needs the manifest and one source file of bench/, which is not built here, and of http1/, which is.
COPY Cargo.toml Cargo.lock ./
COPY bench/Cargo.toml bench/
COPY http1/Cargo.toml http1/
RUN mkdir -p src tests/it tests/chaos benches/micro bench/src http1/src \
    && touch src/lib.rs http1/src/lib.rs \
    && echo 'fn main() {}' > src/main.rs \
    && cp src/main.rs tests/it/main.rs \
    && cp src/main.rs tests/chaos/main.rs \
    && cp src/main.rs benches/micro/main.rs \
    && cp src/main.rs bench/src/main.rs \
    && cargo build --release --locked --bin tollgate \
    && rm -r src

COPY . .
# Cargo decides by modification times, and the empty program may be newer than the sources.
RUN touch src/lib.rs src/main.rs http1/src/lib.rs \
    && cargo build --release --locked --bin tollgate \
    && mkdir /data

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=builder /src/target/release/tollgate /usr/local/bin/tollgate
# Relative paths start here: the ledger is data/tollgate.db. Tollgate reads a tollgate.toml and a .env that are mounted here, or in
# the folder that TOLLGATE_CONFIG names.
WORKDIR /tollgate
# A new volume gets the owner of this folder; without it, only root could write the ledger.
COPY --from=builder --chown=nonroot:nonroot /data data
VOLUME /tollgate/data
EXPOSE 8080
HEALTHCHECK --interval=5s --timeout=5s --start-period=20s CMD ["/usr/local/bin/tollgate", "health"]
ENTRYPOINT ["/usr/local/bin/tollgate"]
CMD ["serve"]
