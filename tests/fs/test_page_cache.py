# SPDX-License-Identifier: Apache-2.0
"""File data does not stay in the page cache: never by read(2), and not behind a private mapping once it is closed."""

import ctypes
import mmap
import os
import time

import pytest
from fs_mounts import mounted

LIBC = ctypes.CDLL(None, use_errno=True)


class Mapping:
    """A private mapping of a whole file; looking at it touches nothing."""

    def __init__(self, path):
        self.fd = os.open(path, os.O_RDONLY)
        self.map = mmap.mmap(self.fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        self.held = ctypes.c_char.from_buffer(self.map)

    def cached(self):
        """Is the first page in the page cache?"""
        seen = (ctypes.c_ubyte * 1)()
        address = ctypes.c_void_p(ctypes.addressof(self.held))
        assert LIBC.mincore(address, ctypes.c_size_t(1), seen) == 0, os.strerror(ctypes.get_errno())
        return bool(seen[0] & 1)

    def close(self):
        del self.held
        self.map.close()
        os.close(self.fd)


@pytest.fixture
def secret(cloudtaserd, openbao, tmp_path):
    openbao.put("pages/one", {"value": "x" * 5000})
    return mounted(cloudtaserd, openbao, tmp_path, ["pages/one"]) / "pages/one/value"


def test_reading_leaves_nothing_in_the_page_cache(secret):
    look = Mapping(secret)
    assert len(secret.read_bytes()) == 5000
    assert not look.cached()
    look.close()


def test_a_private_mapping_leaves_nothing_when_it_is_closed(secret):
    look = Mapping(secret)
    reader = Mapping(secret)
    assert reader.map[:3] == b"xxx"
    assert look.cached()  # so the look can see it, and while it is mapped it is there
    reader.close()
    deadline = time.monotonic() + 10
    while look.cached():
        assert time.monotonic() < deadline, "the page is still cached"
        os.sched_yield()
    look.close()


def test_shared_mappings_are_refused(secret):
    with open(secret, "rb") as f, pytest.raises(OSError, match="No such device"):
        mmap.mmap(f.fileno(), 0, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ)
