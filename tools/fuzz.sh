#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# tools/fuzz.sh BUILD SECONDS [fuzz_NAME...]: runs each fuzz target that is built, from its seeds in
# tests/fuzz/corpus/NAME. What it finds on the way is kept in BUILD/corpus, so that the tree stays clean; a crash stays
# in BUILD/crashes and fails the run.
set -uo pipefail

build=$1 seconds=$2
shift 2
if [ $# = 0 ]; then
    for source in tests/fuzz/fuzz_*.c; do
        [ -e "$source" ] || continue
        set -- "$@" "$(basename "$source" .c)"
    done
fi
[ $# != 0 ] || { echo "fuzz: there is no target in tests/fuzz"; exit 1; }

export UBSAN_OPTIONS=print_stacktrace=1
run=()
setarch -R true 2>/dev/null && run=(setarch -R)
mkdir -p "$build/crashes"
failed=()
for target in "$@"; do
    seeds=tests/fuzz/corpus/${target#fuzz_} found=$build/corpus/$target log=$build/$target.log
    mkdir -p "$found"
    if [ -z "$(ls "$seeds" 2>/dev/null)" ]; then
        echo "fuzz: $target: no seeds in $seeds"
        failed+=("$target")
        continue
    fi
    # The leak check traces the process; secret memory forbids that to all but root, and some containers to root as well.
    export ASAN_OPTIONS=detect_leaks=1
    "${run[@]}" "$build/fuzz/$target" -runs=1 >/dev/null 2>&1 || ASAN_OPTIONS=detect_leaks=0
    if "${run[@]}" "$build/fuzz/$target" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="$build/crashes/$target-" "$found" "$seeds" >"$log" 2>&1; then
        echo "fuzz: $target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") runs in $seconds s, no crash"
    else
        tail -40 "$log"
        echo "fuzz: $target: FAILED, see $log and $build/crashes"
        failed+=("$target")
    fi
done
[ ${#failed[@]} = 0 ]
