#!/usr/bin/env bash
# Checks that the program compiles for other targets than this machine's: musl, and arm64. Nothing is linked.
# The TLS library has C in it, so each target needs a C compiler: Debian's musl-tools and gcc-aarch64-linux-gnu.
set -euo pipefail
cd "$(dirname "$0")/.."

for target in x86_64-unknown-linux-musl aarch64-unknown-linux-gnu; do
    if ! rustup target add "$target"; then
        echo "$target is not checked: this toolchain has no standard library for it"
        continue
    fi
    cargo check --locked --package tidegate --bin tidegate --target "$target"
done
