# SPDX-License-Identifier: Apache-2.0
"""A daemon with one mount of an OpenBao, for the tests in this folder."""

import time


def vault(openbao, **more):
    return {
        "address": openbao.address,
        "token_file": openbao.token_file,
        "ca_file": openbao.ca_file,
        "refresh": "1s",
        **more,
    }


def mounted(cloudtaserd, openbao, folder, secrets=None, mount=None, **more):
    """The path of a fresh mount of these secrets (None: the whole vault)."""
    where = folder / "mount"
    where.mkdir()
    entry = {"path": str(where), "vault": "bao", **(mount or {})}
    if secrets:
        entry["secrets"] = secrets
    cloudtaserd({"vaults": {"bao": vault(openbao)}, "mounts": [entry], **more})
    return where


def until(check, seconds=20, what="it"):
    """Asks again and again; what it said when it was true. For things that nothing tells of."""
    deadline = time.monotonic() + seconds
    while True:
        said = check()
        if said:
            return said
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.01)
