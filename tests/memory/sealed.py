# SPDX-License-Identifier: Apache-2.0
"""The keys of a sealed vault, unlocked by other means than ours (docs/formats/sealed-vault.md): what to look for."""

import ctypes
import ctypes.util
import functools
import hashlib
import pathlib
import struct

MAGIC = b"cloudtaser vault"
FIXED, SLOT, SLOT_AD, KEY, TAG = 128, 128, 56, 32, 16
ARGON2ID13 = 2
BLOCK = 1024  # of Argon2


@functools.cache
def _sodium():
    lib = ctypes.CDLL(ctypes.util.find_library("sodium"))
    assert lib.sodium_init() >= 0
    return lib


def argon2id(passphrase, salt, ops, mem):
    out = ctypes.create_string_buffer(KEY)
    done = _sodium().crypto_pwhash_argon2id(
        out,
        ctypes.c_ulonglong(KEY),
        passphrase,
        ctypes.c_ulonglong(len(passphrase)),
        salt,
        ctypes.c_ulonglong(ops),
        ctypes.c_size_t(mem),
        ctypes.c_int(ARGON2ID13),
    )
    assert done == 0
    return out.raw


def of_last_block(block):
    """The key that Argon2 (one lane) makes of the last block of its working memory: H' of it."""
    return hashlib.blake2b(struct.pack("<I", KEY) + block, digest_size=KEY).digest()


class Slot:
    """The first key slot of a vault's file."""

    def __init__(self, file):
        data = pathlib.Path(file).read_bytes()
        assert data[:16] == MAGIC
        slot = data[FIXED : FIXED + SLOT]
        self.kind, self.ops, self.mem = struct.unpack("<IIQ", slot[:16])
        assert self.kind == 1
        self.salt, self.nonce = slot[16:32], slot[32:56]
        self.wrapped = slot[56 : 56 + KEY + TAG]
        self.ad = MAGIC + data[16:20] + data[32:64] + slot[:SLOT_AD]

    def unwrap(self, key):
        """The master key, or None when that is another vault's key."""
        out = ctypes.create_string_buffer(KEY)
        done = _sodium().crypto_aead_xchacha20poly1305_ietf_decrypt(
            out,
            None,
            None,
            self.wrapped,
            ctypes.c_ulonglong(len(self.wrapped)),
            self.ad,
            ctypes.c_ulonglong(len(self.ad)),
            self.nonce,
            key,
        )
        return out.raw if done == 0 else None


def keys(file, passphrase):
    """{name: bytes} of every key that the passphrase leads to."""
    slot = Slot(file)
    key = argon2id(passphrase, slot.salt, slot.ops, slot.mem)
    master = slot.unwrap(key)
    assert master, "the passphrase does not open this vault"
    found = {"key of the passphrase": key, "master key": master}
    for number, name in ((1, "index key"), (2, "value key")):
        out = ctypes.create_string_buffer(KEY)
        _sodium().crypto_kdf_derive_from_key(out, KEY, ctypes.c_uint64(number), b"ctvault1", master)
        found[name] = out.raw
    return found
