#!/usr/bin/env bash
# Prints where promtool is: the installed one, or that of Debian's package, unpacked under target/ without an
# installation, which would start a Prometheus.
set -euo pipefail
cd "$(dirname "$0")/.."

if command -v promtool; then exit; fi
tools=target/monitoring
if [ ! -x "$tools/usr/bin/promtool" ]; then
    mkdir -p "$tools"
    download() { (cd "$tools" && apt-get download -q prometheus >&2); }
    if ! download; then
        # A machine that has never asked for packages has no lists of them.
        if [ "$(id -u)" = 0 ]; then apt-get update -q >&2; else sudo apt-get update -q >&2; fi
        download
    fi
    dpkg-deb -x "$tools"/prometheus_*.deb "$tools"
    rm "$tools"/prometheus_*.deb
fi
echo "$tools/usr/bin/promtool"
