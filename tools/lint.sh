#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# tools/lint.sh: the rules of the house that a compiler does not know. Prints FILE:LINE: sentence, and fails.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

found=$(mktemp)
code=$(mktemp -d)
trap 'rm -rf "$found" "$code"' EXIT
complain() { printf '%s\n' "$*" >>"$found"; }

mapfile -t c_files < <(find base vault fs cli tests -name '*.[ch]' | sort)
mapfile -t product < <(find base vault fs cli -name '*.[ch]' | sort)
mapfile -t others < <({
    find tools tests cli examples .ci -type f \( -name '*.py' -o -name '*.sh' -o -name '*.mk' -o -name '*.bash' \)
    echo Makefile
    [ ! -e .ci/run ] || echo .ci/run
} | sort -u)

# The code of a C file without its comments, line for line.
for f in "${c_files[@]}"; do
    mkdir -p "$code/$(dirname "$f")"
    gcc -fpreprocessed -dD -E -w "$f" 2>/dev/null | awk -v f="$f" '
        /^# [0-9]+ "/ { n = $2; next }
        { printf "%s:%d: %s\n", f, n++, $0 }' >"$code/$f"
done

# refuse SENTENCE PATTERN FILE...: each line of code that matches.
refuse() {
    local sentence=$1 pattern=$2 line
    shift 2
    [ $# != 0 ] || return 0
    while IFS= read -r line; do
        complain "$(cut -d: -f1,2 <<<"$line"): $sentence: $(cut -d: -f3- <<<"$line" | sed 's/^[ \t]*//')"
    done < <(cd "$code" && grep -hE "^[^:]+:[0-9]+: .*$pattern" "$@")
}
# all C files of the product but those named
but() {
    local f
    for f in "${product[@]}"; do
        [[ " $* " == *" $f "* ]] || printf '%s\n' "$f"
    done
}
of() { find "$1" -name '*.[ch]'; }

# shellcheck disable=SC2046 # file names of this tree have no spaces
{
    # base <- vault <- fs <- cli
    refuse "base stands on nothing else" '# *include "(vault|fs|cli|tests)/' $(of base)
    refuse "vault may include base only" '# *include "(fs|cli|tests)/' $(of vault)
    refuse "fs may include vault and base only" '# *include "(cli|tests)/' $(of fs)
    refuse "cli may include fs, vault and base only" '# *include "tests/' $(of cli)
    refuse "an include names its folder" '# *include "[^/"]+"' "${product[@]}"

    # one file sees a foreign library
    refuse "libcurl is for base/http.c only" '# *include <curl/' $(but base/http.c)
    refuse "cJSON is for base/json.c only" '# *include <(cjson/)?cJSON' $(but base/json.c)
    refuse "libyaml is for base/yaml.c only" '# *include <yaml' $(but base/yaml.c)
    refuse "FUSE is for fs only" '# *include <(fuse|linux/fuse)' $(of base) $(of vault) $(of cli)
    refuse "fs knows no HTTP" '\<(http_(client|send|request|response)|curl_)' $(of fs)

    # where a secret would leave secret memory, or the shell be asked
    refuse "no shell, no guessed file names" '\<(system|popen|gets|mktemp|tmpnam)[ \t]*\(' "${c_files[@]}"
    refuse "a function without a bound" '\<(strcpy|strcat|sprintf|vsprintf)[ \t]*\(' "${product[@]}"
    refuse "a token is never taken from the environment" \
        '(=|,|return|[a-z_]\()[ \t]*getenv\("(VAULT|BAO)_TOKEN"\)' "${product[@]}"
}

for f in "${c_files[@]}"; do
    [ "$(head -n1 "$f")" = '/* SPDX-License-Identifier: Apache-2.0 */' ] ||
        complain "$f:1: the first line has to be /* SPDX-License-Identifier: Apache-2.0 */"
done
for f in "${others[@]}"; do
    head -n2 "$f" | grep -q '^# SPDX-License-Identifier: Apache-2.0$' ||
        complain "$f:1: one of the first two lines has to be # SPDX-License-Identifier: Apache-2.0"
done

for f in "${c_files[@]}" "${others[@]}"; do
    lines=$(wc -l <"$f")
    if [ "$lines" -gt 900 ]; then
        complain "$f:$lines: more than 900 lines: make it two"
    elif [ "$lines" -gt 600 ]; then
        printf 'note: %s has %s lines; above 600 it wants to be two\n' "$f" "$lines" >&2
    fi
done

cat "$found"
[ ! -s "$found" ]
