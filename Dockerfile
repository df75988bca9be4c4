# Two images: Baton itself (target `baton`), and the programs of the example fleet (target `example`).
# `docker compose build` makes both; see docker-compose.yml.

# Where the Docker client and Compose come from. Baton lets Compose say what a project is, so take one whose Compose is
# that of your host (`docker compose version`): two versions may digest the same file in two ways.
ARG DOCKER_CLI=docker:28-cli

FROM rust:1-bookworm AS build
WORKDIR /build
COPY Cargo.toml Cargo.lock build.rs ./
COPY proto proto
# Cargo wants to see every target that Cargo.toml names, whether it is built or not.
COPY tests/keeper.rs tests/keeper.rs
COPY src src
COPY examples examples
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/build/target \
    cargo build --release --locked --bin baton --example quickstart \
    && install -D --strip --target-directory=/out target/release/baton target/release/examples/quickstart

FROM ${DOCKER_CLI} AS docker

FROM debian:bookworm-slim AS base
RUN useradd --system --uid 10001 --home-dir /nonexistent --shell /usr/sbin/nologin baton

FROM base AS baton
LABEL org.opencontainers.image.title="baton" \
      org.opencontainers.image.description="Graceful rolling restarts: coordinator, agent, gateway and command line" \
      org.opencontainers.image.licenses="Apache-2.0 OR MIT"
COPY --from=docker /usr/local/bin/docker /usr/local/bin/docker
COPY --from=docker /usr/local/libexec/docker/cli-plugins/docker-compose \
     /usr/local/libexec/docker/cli-plugins/docker-compose
# A new volume that is mounted on one of these gets its owner and its mode.
RUN install -d -o baton -g baton -m 0700 /var/lib/baton && install -d -o baton -g baton -m 0755 /run/baton
COPY --from=build /out/baton /usr/local/bin/baton
# The agent alone has to be root: see docker-compose.yml.
USER baton
CMD ["baton", "--help"]

FROM base AS example
LABEL org.opencontainers.image.title="baton-example" \
      org.opencontainers.image.description="The programs of Baton's example fleet, and somebody who asks them" \
      org.opencontainers.image.licenses="Apache-2.0 OR MIT"
RUN install -d -o baton -g baton /work
COPY --from=build /out/quickstart /usr/local/bin/quickstart
USER baton
# Last, so that two versions differ in this alone.
ARG VERSION=v1
ENV VERSION=${VERSION}
CMD ["quickstart", "--help"]
