# SPDX-License-Identifier: Apache-2.0
"""Where there is no memfd_secret: refused, or locked memory that root can read, and said so."""

import json
import os

import pytest
from harness import programs
from memory import ask, forms, text_canary

# As on a kernel that has no memfd_secret. -D: the daemon stays our child, strace its grandchild.
NO_MEMFD_SECRET = ("-e", "trace=memfd_secret", "-e", "inject=memfd_secret:error=ENOSYS")


@pytest.fixture
def vault(cloudtaser, tmp_path):
    """(configuration, mount, value, patterns)"""
    passphrase, value = text_canary(), text_canary()
    file = tmp_path / "passphrase"
    file.touch(mode=0o600)
    file.write_bytes(passphrase + b"\n")
    how = ("--vault", f"file:{tmp_path / 'vault'}", "--passphrase-file", file)
    made = cloudtaser("vault", "init", *how, "--kdf-memory", 8, "--kdf-ops", 1)
    assert made.returncode == 0, made.stderr
    put = cloudtaser("put", "app/db", "password=-", *how, input=value)
    assert put.returncode == 0, put.stderr
    mount = tmp_path / "mount"
    mount.mkdir()
    config = {
        "vaults": {"local": {"file": str(tmp_path / "vault"), "passphrase_file": str(file)}},
        "mounts": [{"path": str(mount), "vault": "local"}],
    }
    return config, mount, value, {**forms("value", value), **forms("passphrase", passphrase)}


def test_preferred_falls_back_to_locked_memory_that_root_reads_and_says_so(vault, cloudtaserd, scanner, root, tmp_path):
    config, mount, value, patterns = vault
    config["secret_memory"] = "preferred"
    strace = ("strace", "-D", "-f", "-qq", "-o", tmp_path / "strace", *NO_MEMFD_SECRET)
    daemon = cloudtaserd(config, prefix=strace)
    assert (mount / "app/db/password").read_bytes() == value
    result = scanner(patterns).scan(daemon.pid)
    assert result.found("value (raw)"), "root reads it"
    # No better than locked memory, and no worse: not swapped, not in cores, not inherited.
    elsewhere = [str(hit) for hit in result.hits if not {"lo", "dd", "dc"} <= set(hit.mapping.flags)]
    assert not elsewhere, "\n".join(elsewhere)
    assert not result.secret
    said, _ = ask(daemon, "status")
    assert said["secret_memory"]["kind"] == "locked"
    assert {c["name"]: c["state"] for c in said["checks"]}["secret memory"] == "no"
    assert b"memfd_secret is not available" in daemon.log.read_bytes()
    assert daemon.stop() == 0


def test_required_refuses_to_start_without_memfd_secret(vault, build, root, tmp_path):
    config, mount, *_ = vault
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps({"control_socket": str(tmp_path / "c.sock"), **config}))
    argv = ["strace", "-D", "-f", "-qq", "-o", tmp_path / "strace", *NO_MEMFD_SECRET]
    done = programs.run([*argv, build / "cloudtaserd", "-c", file], tmp_path)
    assert done.returncode == 69
    assert b"secretmem.enable=1" in done.stderr
    assert not os.path.ismount(mount)
