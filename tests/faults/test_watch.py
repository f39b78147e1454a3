# SPDX-License-Identifier: Apache-2.0
"""The tests' own eyes: what the other tests call known is known, and who watches sees what is wrong."""

import signal
import time

import pytest
from faults import LIVENESS, SECRETS, fill
from peers.process import wait_until


def test_who_watches_sees(bao, site):
    s = site(bao)
    found = sorted(str(p.relative_to(s.mount)) for p in s.files)
    assert found == ["app/db/password", "app/db/username", "app/web/key", "one/only"]
    assert sum(len(fields) for fields in SECRETS.values()) == len(found)
    with s.watched(judge=False) as watch:
        bao.put("single", {"only": "something else"})
        wait_until(lambda: watch.hammer.failed, 10, "the readers to see a wrong value")
        fill(bao, 1)
    assert watch.seen["wrong"] and not watch.seen["failures"]
    with pytest.raises(AssertionError, match="wrong"):
        watch.judged()
    s.has(1)
    # A server that is stopped for longer than may be: both see it.
    with s.watched(judge=False) as watch:
        s.daemon.process.send_signal(signal.SIGSTOP)
        time.sleep(LIVENESS + 0.3)
        s.daemon.process.send_signal(signal.SIGCONT)
        watch.more()
    with pytest.raises(AssertionError, match="a read of a known secret took"):
        watch.judged()
    watch.seen["worst"] = 0
    with pytest.raises(AssertionError, match="ls -l took"):
        watch.judged()
