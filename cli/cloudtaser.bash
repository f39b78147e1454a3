# SPDX-License-Identifier: Apache-2.0
# Completion for bash. The words come from the program itself, so there is no list to keep here.
_cloudtaser() {
    local current=${COMP_WORDS[COMP_CWORD]}
    mapfile -t COMPREPLY < <(compgen -W "$(cloudtaser complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)" -- "$current")
}
complete -o default -F _cloudtaser cloudtaser
