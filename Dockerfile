# Tollgate in an image without a shell, running as a user without rights (uid 65532). It is built from source here, which takes
# ten minutes and 1.5 GB of memory on two cores; deploy/prebuilt/Dockerfile takes a binary that was built elsewhere.
#
#   docker build -t tollgate .
#   docker run --rm -p 127.0.0.1:8080:8080 tollgate demo
#   docker run -d -p 127.0.0.1:8080:8080 -v tollgate-ledger:/tollgate/data -v "$PWD:/tollgate/settings:ro" \
#     -e TOLLGATE_CONFIG=/tollgate/settings -e PORT=8080 tollgate
#
# The folder that is mounted has .env and tollgate.toml; what changes there is read again. (`--env-file .env` takes quotes as a
# part of the value, and never reads the file again.) docker-compose.yml has all this, and a root that cannot be written.

FROM rust:1.95-bookworm AS builder
WORKDIR /src

# The dependencies first, on an empty program: their layer is built again only when the lock file changes.
# Of bench/, which is not built here, the workspace wants the manifest and a source.
COPY Cargo.toml Cargo.lock ./
COPY bench/Cargo.toml bench/
RUN mkdir -p src tests/it tests/chaos benches/micro bench/src \
    && touch src/lib.rs \
    && echo 'fn main() {}' > src/main.rs \
    && cp src/main.rs tests/it/main.rs \
    && cp src/main.rs tests/chaos/main.rs \
    && cp src/main.rs benches/micro/main.rs \
    && cp src/main.rs bench/src/main.rs \
    && cargo build --release --locked --bin tollgate \
    && rm -r src

COPY . .
# Cargo goes by the time of change, and the empty program may be newer than the sources.
RUN touch src/lib.rs src/main.rs \
    && cargo build --release --locked --bin tollgate \
    && mkdir /data

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=builder /src/target/release/tollgate /usr/local/bin/tollgate
# Relative paths begin here: the ledger is data/tollgate.db. A tollgate.toml and a .env that are mounted here, or in the folder
# that TOLLGATE_CONFIG names, are read.
WORKDIR /tollgate
# A new volume takes its owner from this folder; without it only root could write the ledger.
COPY --from=builder --chown=nonroot:nonroot /data data
VOLUME /tollgate/data
EXPOSE 8080
HEALTHCHECK --interval=5s --timeout=5s --start-period=20s CMD ["/usr/local/bin/tollgate", "health"]
ENTRYPOINT ["/usr/local/bin/tollgate"]
CMD ["serve"]
