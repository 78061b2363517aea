#!/usr/bin/env bash
# Fails where a dependency wants a newer Rust than Cargo.toml promises (`rust-version`).
# The toolchain in use may be newer and would never notice.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo metadata --format-version 1 --locked | python3 -c '
import json, sys

def number(version):
    parts = [int(part) for part in version.split("-")[0].split(".")]
    return parts + [0] * (3 - len(parts))

packages = json.load(sys.stdin)["packages"]
promised = next(package["rust_version"] for package in packages if package["name"] == "tidegate")
newer = [package for package in packages
         if package["rust_version"] and number(package["rust_version"]) > number(promised)]
for package in newer:
    print("{name} {version} wants Rust {rust_version}".format(**package), "but rust-version is", promised)
assert len(packages) > 10, "the list of packages is incomplete"
sys.exit(1 if newer else 0)
'
