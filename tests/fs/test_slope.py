# SPDX-License-Identifier: Apache-2.0
"""100,000 files list and look up as fast, each, as a few do."""

import os
import time

import pytest
from fs_mounts import mounted


def each(work, n):
    begin = time.perf_counter()
    work()
    return (time.perf_counter() - begin) / n


def best(work, n):
    return min(each(work, n) for _ in range(5))


@pytest.mark.no_asan
@pytest.mark.deadline(300)
def test_a_large_tree_has_no_slope(cloudtaserd, openbao, tmp_path):
    for i in range(10):
        openbao.put(f"slope/large/s{i}", {f"field-{k:05}": "v" for k in range(10000)})
    openbao.put("slope/small/s0", {f"field-{k:05}": "v" for k in range(100)})
    where = mounted(cloudtaserd, openbao, tmp_path, ["slope/"]) / "slope"
    large, small = [where / f"large/s{i}" for i in range(10)], where / "small/s0"
    assert sum(len(os.listdir(d)) for d in large) == 100020
    assert len(os.listdir(small)) == 102

    def look(folder, numbers):
        for k in numbers:
            os.stat(folder / f"field-{k:05}")

    for names in (large[0], large[9]):
        look(names, range(0, 10000, 100))
    # The factor is wide: a slope would be a hundred times.
    first = best(lambda: look(small, range(100)), 100)
    assert best(lambda: look(large[9], range(0, 10000, 100)), 100) < 10 * first
    listing = best(lambda: os.listdir(small), 102)
    assert best(lambda: os.listdir(large[9]), 10002) < 10 * listing
