# tidegate in a small image: docker build -t tidegate .
#
# The program needs a C library, and for TLS the authorities' certificates: no shell, no package manager. So it
# stands on distroless "cc", which brings both, a user that is not root, and little that could need a
# security update. (A static musl build on an empty image would be smaller still, but musl's memory
# allocator is slower under the daemon's load.)

# The oldest compiler that the project promises to build with.
FROM rust:1.88-slim-bookworm AS build
WORKDIR /src
COPY . .
RUN cargo build --release --locked --bin tidegate
# Made here, because distroless has no mkdir.
RUN install -d -m 0700 /state

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /src/target/release/tidegate /usr/bin/tidegate
COPY --from=build --chown=65532:65532 /state /var/lib/tidegate
# In a container, its own network is the boundary: probes and Prometheus come from outside of it.
ENV TIDEGATE_DAEMON__LISTEN=0.0.0.0:7380
EXPOSE 7380
VOLUME /var/lib/tidegate
STOPSIGNAL SIGTERM
# The form with brackets, for there is no shell. It asks /healthz, which never depends on Redis.
HEALTHCHECK --interval=10s --timeout=6s --start-period=15s --retries=3 \
    CMD ["/usr/bin/tidegate", "healthcheck", "--config", "/etc/tidegate/tidegate.toml"]
ENTRYPOINT ["/usr/bin/tidegate"]
CMD ["run", "--config", "/etc/tidegate/tidegate.toml"]
