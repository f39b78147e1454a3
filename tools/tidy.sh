#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# tools/tidy.sh FILE.c FLAGS...: clang-tidy on one file; prints what it found, and fails if that is anything. The
# analyzer's way to a finding is printed too when V=1.
set -uo pipefail

file=$1
shift
if [ "$file" != base/err.c ]; then
    set -- "$@" -include tools/lint-model.h
fi
found=$(${CLANG_TIDY:-clang-tidy} --quiet "$file" -- "$@" 2>/dev/null)
status=$?
if [ -z "${V:-}" ]; then
    found=$(awk '
        /^[^ ].*:[0-9]+:[0-9]+: (warning|error): / || /^error: / { keep = 1 }
        /^[^ ].*:[0-9]+:[0-9]+: note: / { keep = 0 }
        keep' <<<"$found")
fi
if [ -n "$found" ]; then
    printf '%s\n' "$found"
    exit 1
fi
if [ "$status" != 0 ]; then
    printf '%s: clang-tidy ended with status %s\n' "$file" "$status"
    exit 1
fi
