#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# tools/demo.sh (make run): a secret goes into a sealed vault, is mounted and read with cat. In a temporary folder that
# is gone afterwards; as root or not. Ends with 0 only when the value that was read is the one that went in.
# shellcheck disable=SC2016 # the commands are printed as they are typed, and expanded when they run
set -euo pipefail

PATH=$(cd "${BUILD:-build}/bin" && pwd):$PATH
folder=$(mktemp -d "${TMPDIR:-/tmp}/cloudtaser-demo.XXXXXX")
mounted=
finish() {
    status=$?
    cd /
    if [ -n "$mounted" ]; then
        cloudtaser umount "$folder/secrets" >/dev/null 2>&1 || fusermount3 -u -z "$folder/secrets" 2>/dev/null || true
    fi
    rm -rf "$folder"
    exit $status
}
trap finish EXIT
umask 077
# The vault's usual place and the control socket's are below these: nothing of the caller's own is touched.
export XDG_DATA_HOME=$folder/data XDG_CONFIG_HOME=$folder/config XDG_RUNTIME_DIR=$folder/run
unset VAULT_ADDR BAO_ADDR
mkdir "$folder/run"
cd "$folder"

# Prints a command, then runs it: what is shown is what happens.
run() {
    printf '\n$ %s\n' "$1"
    eval "$1"
}

echo "# In $folder. A passphrase and a secret, for this demonstration only:"
run 'head -c 24 /dev/urandom | base64 >passphrase'
run 'head -c 15 /dev/urandom | base64 >password; echo app >user'

printf '\n# A sealed vault: a file that only the passphrase opens.\n'
run 'cloudtaser vault init --passphrase-file passphrase'
run 'cloudtaser put app/db username=@user password=- --passphrase-file passphrase <password'
run 'cloudtaser ls app/ --passphrase-file passphrase'

printf '\n# Its secrets as files. The values are in secret memory; the folder is empty without the mount.\n'
run 'mkdir secrets'
run 'cloudtaser mount -d "$PWD/secrets" --passphrase-file passphrase'
mounted=yes
run 'ls -lA secrets/app/db'
run 'cat secrets/app/db/password'
read=$(cat secrets/app/db/password)
run 'cloudtaser status'
run 'cloudtaser umount "$PWD/secrets"'
mounted=
run 'ls secrets'

printf '\n'
if [ "$read" = "$(cat password)" ] && [ -z "$(ls secrets)" ]; then
    echo "# What was read from the mount is what was put into the vault. Done."
else
    echo "# What was read from the mount is NOT what was put into the vault."
    exit 1
fi
