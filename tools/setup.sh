#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# tools/setup.sh [build|test|lint|fuzz]...: installs what is missing for these, and nothing else. Instant when all of
# it is there. Without arguments: build and test.
set -euo pipefail
cd "$(dirname "$0")/.."

build=(gcc libc6-dev make pkg-config libfuse3-dev fuse3 libssl-dev libcurl4-openssl-dev libcjson-dev libsodium-dev
    libyaml-dev)
test=(python3-venv iproute2 util-linux strace gdb openssl ca-certificates procps)
lint=(clang clang-tidy clang-format shellcheck libclang-rt-14-dev python3-venv)
fuzz=(clang libclang-rt-14-dev)

cache=${CLOUDTASER_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/cloudtaser}
python=/usr/bin/python3

say() { printf 'setup: %s\n' "$*"; }

# The names among "$@" of packages that are not installed.
missing() {
    local have
    have=" $(dpkg-query -W -f '${binary:Package}:${db:Status-Abbrev}\n' "$@" 2>/dev/null |
        sed -nE 's/^([^:]+)(:[a-z0-9]+)?:.i .*/\1/p' | tr '\n' ' ') "
    for p in "$@"; do
        [[ $have == *" $p "* ]] || printf '%s ' "$p"
    done
}

packages() {
    local want run=()
    want=$(missing "$@")
    [ -n "$want" ] || return 0
    if ! command -v apt-get >/dev/null; then
        say "this is no Debian system; please install what corresponds to: $want"
        exit 1
    fi
    if [ "$(id -u)" != 0 ]; then
        if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
            run=(sudo -n)
        else
            say "missing packages, and no right to install them. Please run, as root:"
            say "  apt-get update && apt-get install -y --no-install-recommends $want"
            exit 1
        fi
    fi
    run+=(env DEBIAN_FRONTEND=noninteractive)
    say "installing $want"
    # The lists of a fresh machine are empty, those of an old one name versions that are gone.
    # shellcheck disable=SC2086 # a list of names
    if ! "${run[@]}" apt-get install -y -qq --no-install-recommends $want >/dev/null 2>&1; then
        "${run[@]}" apt-get update -qq
        "${run[@]}" apt-get install -y -qq --no-install-recommends $want >/dev/null
    fi
    # shellcheck disable=SC2086
    want=$(missing $want)
    if [ -n "$want" ]; then
        say "still missing: $want"
        exit 1
    fi
}

# venv NAME REQUIREMENTS: made anew only when the requirements (or the interpreter) changed.
venv() {
    local dir=$cache/$1 requirements=$2 want
    mkdir -p "$cache"
    want=$(sha256sum <"$requirements" | cut -d' ' -f1)-$($python -c 'import sys; print(sys.version.split()[0])')
    exec 9>"$cache/$1.lock"
    flock 9
    if [ "$(cat "$dir/.made-of" 2>/dev/null)" != "$want" ]; then
        say "Python environment $dir"
        rm -rf "$dir"
        $python -m venv "$dir"
        "$dir/bin/pip" install --quiet --disable-pip-version-check --require-hashes -r "$requirements"
        printf '%s\n' "$want" >"$dir/.made-of"
    fi
    exec 9>&-
}

[ $# != 0 ] || set -- build test
for stage in "$@"; do
    case $stage in
    build) packages "${build[@]}" ;;
    test)
        packages "${test[@]}"
        venv venv tests/requirements.txt
        ;;
    lint)
        packages "${lint[@]}"
        venv venv-lint tests/requirements-lint.txt
        ;;
    fuzz) packages "${fuzz[@]}" ;;
    *)
        say "no such stage: $stage (build, test, lint, fuzz)"
        exit 64
        ;;
    esac
done
