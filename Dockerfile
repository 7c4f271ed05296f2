FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked -p walcast && cp target/release/walcast /walcast

FROM debian:bookworm-slim
# curl is for health checks: those of Supabase's own compose file call it inside the container.
RUN apt-get update \
 && apt-get install -y --no-install-recommends ca-certificates curl \
 && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --no-create-home walcast
COPY --from=build /walcast /usr/local/bin/walcast
COPY LICENSE /usr/share/doc/walcast/LICENSE
USER 10001
ENV PORT=4000
EXPOSE 4000
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
  CMD curl --fail --silent --output /dev/null "http://127.0.0.1:${PORT}/healthcheck"
ENTRYPOINT ["/usr/local/bin/walcast"]
