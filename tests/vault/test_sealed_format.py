# SPDX-License-Identifier: Apache-2.0
"""docs/formats/sealed-vault.md is enough to read a vault: a reader written from that page alone, over libsodium.

It reads the page's own test vector, and what the program writes; the program reads the vector.
"""

import ctypes
import hashlib
import pathlib
import re
import struct
import subprocess

import pytest

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs/formats/sealed-vault.md"
PASSPHRASE = b"correct horse battery staple"
SODIUM = ctypes.CDLL("libsodium.so.23")
assert SODIUM.sodium_init() >= 0


def vector(name):
    """The bytes in the page's block of hexadecimal digits that follows `name`."""
    block = re.search(rf"^{re.escape(name)}.*?\n```hex\n(.*?)```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert block, f"the page has no vector {name!r}"
    return bytes.fromhex(block[1])


def blake2b(data):
    return hashlib.blake2b(data, digest_size=32).digest()


def argon2id(passphrase, salt, ops, mem):
    key = ctypes.create_string_buffer(32)
    assert not SODIUM.crypto_pwhash(
        key, ctypes.c_ulonglong(32), passphrase, ctypes.c_ulonglong(len(passphrase)), salt, ctypes.c_ulonglong(ops),
        ctypes.c_size_t(mem), ctypes.c_int(2)
    )  # fmt: skip
    return key.raw


def subkey(master, number):
    key = ctypes.create_string_buffer(32)
    SODIUM.crypto_kdf_derive_from_key(key, ctypes.c_size_t(32), ctypes.c_uint64(number), b"ctvault1", master)
    return key.raw


def opened(sealed, ad, nonce, key):
    """XChaCha20-Poly1305; None when it is not authentic."""
    plain = ctypes.create_string_buffer(max(1, len(sealed) - 16))
    refused = SODIUM.crypto_aead_xchacha20poly1305_ietf_decrypt(
        plain, None, None, sealed, ctypes.c_ulonglong(len(sealed)), ad, ctypes.c_ulonglong(len(ad)), nonce, key
    )
    return None if refused else plain.raw[: len(sealed) - 16]


class Reader:
    """A vault, as the page describes it."""

    def __init__(self, data, passphrase):
        assert data[:16] == b"cloudtaser vault"
        version, header_len, slots, reserved = struct.unpack_from("<IIII", data, 16)
        assert (version, header_len, slots, reserved) == (1, 160 + 128 * slots, 1, 0)
        header = data[:header_len]
        assert blake2b(header[:-32]) == header[-32:]
        assert blake2b(data[:-32]) == data[-32:]
        self.file_id = header[32:64]
        self.generation, file_len, index_len = struct.unpack_from("<QQQ", header, 64)
        assert file_len == len(data) and header[112:128] == bytes(16)

        slot = header[128:256]
        kind, ops, mem = struct.unpack_from("<IIQ", slot)
        assert kind == 1 and slot[104:] == bytes(24)
        self.key = argon2id(passphrase, slot[16:32], ops, mem)
        ad = header[:16] + struct.pack("<I", 1) + self.file_id + slot[:56]
        self.master = opened(slot[56:104], ad, slot[32:56], self.key)
        assert self.master, "wrong passphrase"
        self.index_key, self.value_key = subkey(self.master, 1), subkey(self.master, 2)

        at = header_len + index_len
        self.index = opened(data[header_len:at], header, header[88:112], self.index_key)
        assert self.index is not None
        self.secrets = {}
        count, reserved = struct.unpack_from("<II", self.index)
        assert reserved == 0
        p = 8
        for _ in range(count):
            path_len, versions, reserved, last = struct.unpack_from("<HBBQ", self.index, p)
            path = self.index[p + 12 : p + 12 + path_len]
            p += 12 + path_len
            for _ in range(versions):
                version, _created, length = struct.unpack_from("<QqI", self.index, p)
                nonce = self.index[p + 20 : p + 44]
                ad = b"cloudtaser value" + self.file_id + struct.pack("<Q", version) + path
                self.secrets[path, version] = opened(data[at : at + length], ad, nonce, self.value_key)
                at += length
                p += 44
            assert not versions or version == last
        assert p == len(self.index) and at == len(data) - 32


def fields(block):
    """The fields of a value block, decrypted."""
    (count,) = struct.unpack_from("<I", block)
    result, p = {}, 4
    for _ in range(count):
        name, value = struct.unpack_from("<II", block, p)
        p += 8
        result[block[p : p + name]] = block[p + name : p + name + value]
        p += name + value
    assert p == len(block)
    return result


@pytest.fixture
def program(build_folder):
    path = build_folder / "unit" / "test_vault_sealed"
    assert path.exists(), f"{path} is not built: make test-programs"
    return path


def test_vector_read_from_the_page():
    vault = Reader(vector("The file"), PASSPHRASE)
    assert vault.key == vector("Argon2id key")
    assert vault.master == vector("Master key")
    assert vault.index_key == vector("Index key")
    assert vault.value_key == vector("Value key")
    assert vault.index == vector("Index, decrypted")
    assert vault.secrets[b"app/db", 1] == vector("Value block of `app/db`, decrypted")
    assert {k: fields(v) for k, v in vault.secrets.items()} == {
        (b"app/db", 1): {b"value": b"1"},
        (b"both", 1): {b"value": b"app/db"},
        (b"count", 1): {b"value": b"1"},
    }


def test_vector_read_by_the_program(program, tmp_path):
    (tmp_path / "vault").write_bytes(vector("The file"))
    for path, value in {"app/db": "1", "both": "app/db", "count": "1"}.items():
        done = subprocess.run([program, "show", tmp_path / "vault", path], capture_output=True, check=True, timeout=60)
        assert done.stdout.decode() == f"1 {value}\n"


def test_written_by_the_program(program, tmp_path):
    vault = tmp_path / "vault"
    subprocess.run([program, "init", vault], check=True, timeout=60)
    empty = Reader(vault.read_bytes(), PASSPHRASE)
    assert empty.secrets == {} and empty.generation == 1
    subprocess.run([program, "loop", vault, "a/b", "12"], stdout=subprocess.DEVNULL, check=True, timeout=60)
    full = Reader(vault.read_bytes(), PASSPHRASE)
    assert full.generation == 37 and full.file_id == empty.file_id and full.master == empty.master
    # the last ten of twelve
    assert {k: fields(v) for k, v in full.secrets.items()} == {
        (path, n): {b"value": b"a/b" if path == b"both" else str(n).encode()}
        for path in (b"a/b", b"both", b"count")
        for n in range(3, 13)
    }


def test_the_reader_refuses():
    """So that it could have said no above."""
    with pytest.raises(AssertionError, match="wrong passphrase"):
        Reader(vector("The file"), b"wrong")
