# SPDX-License-Identifier: Apache-2.0
"""Everything at once: readers, rotation, listings, readers killed while they wait, mounts that come and go, reloads, a
vault that freezes and thaws. Reads of what is known never fail, and nothing is left behind."""

import errno
import os
import pathlib
import random
import signal
import subprocess
import threading
import time

import pytest
from faults import ask, status, vault, waits_in_a_call
from fs_mounts import until
from peers.openbao import OpenBao
from peers.process import die_with_parent

SECONDS = 8
KNOWN = 6
LATE = 100  # three a freeze
ROOM = 6 << 20  # bytes: what a heap may keep at hand


def value(n):
    return f"{n} " + "x" * (n % 50)


class Crowd:
    """Threads that do something again and again until the end; what one of them raises is the test's."""

    def __init__(self):
        self.over = threading.Event()
        self.counts, self.failed, self.threads = {}, [], []

    def add(self, what, pause):
        def run():
            while not self.over.is_set():
                try:
                    what()
                except BaseException as e:
                    self.failed.append(f"{what.__name__}: {e!r}")
                    self.over.set()
                self.counts[what.__name__] = self.counts.get(what.__name__, 0) + 1
                self.over.wait(pause)

        self.threads.append(threading.Thread(target=run))

    def work(self, seconds):
        for thread in self.threads:
            thread.start()
        self.over.wait(seconds)
        self.over.set()
        for thread in self.threads:
            thread.join()
        assert not self.failed, self.failed


def resident(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise AssertionError("no RssAnon")


def left(daemon):
    """What a daemon holds that could be left behind."""
    links = [os.readlink(p) for p in pathlib.Path(f"/proc/{daemon.pid}/fd").iterdir() if p.is_symlink()]
    return {
        "threads": len(os.listdir(f"/proc/{daemon.pid}/task")),
        "descriptors": sorted(link for link in links if not link.startswith("socket:")),  # connections come and go
        "open": sum(m["open"] for m in status(daemon)["mounts"]),
    }


@pytest.mark.no_asan
def test_everything_at_once(cloudtaserd, tmp_path):
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    dice = random.Random(seed)
    with OpenBao() as bao:
        for i in range(KNOWN):
            bao.put(f"known/{i}", {"x": value(1), "y": value(1)})
        for i in range(LATE):
            bao.put(f"late/{i}", {"x": "late"})
        steady, moving = tmp_path / "steady", tmp_path / "moving"
        steady.mkdir()
        moving.mkdir()
        optional = [{"path": f"none/{i}", "as": f"none-{i}", "optional": True} for i in range(20)]
        stays = {"path": str(steady), "vault": "bao", "secrets": ["known/", "late/", *optional]}
        moves = [{"path": str(moving), "vault": "bao", "secrets": s} for s in (["known/"], ["known/", "late/"])]
        config = {"wait": "3s", "vaults": {"bao": vault(bao, timeout="3s")}, "mounts": [stays, moves[0]]}
        daemon = cloudtaserd(config)
        files = [steady / f"known/{i}/{field}" for i in range(KNOWN) for field in ("x", "y")]
        newest, late = [1], list(range(LATE))

        def reads():
            at_least = newest[0] - 100  # one refresh interval is no more than that many puts
            for file in files:
                text = file.read_text()
                assert text == value(int(text.split()[0])) and int(text.split()[0]) >= at_least, text

        def lists():
            assert os.listdir(steady) == ["known", "late"]
            for entry in os.scandir(steady / "known"):
                assert entry.is_dir() and {f.name for f in os.scandir(entry)} == {"x", "y", ".json", ".version"}

        def rotates():
            if frozen.acquire(blocking=False):  # not while it is frozen: this thread would be, too
                try:
                    bao.put(f"known/{newest[0] % KNOWN}", {f: value(newest[0] + 1) for f in ("x", "y")})
                    newest[0] += 1
                finally:
                    frozen.release()

        def reads_what_moves():
            try:
                (moving / "known/0/x").read_text()
                os.listdir(moving / "known")
            except OSError as e:
                assert e.errno in (errno.ENOENT, errno.ENOTCONN, errno.ECONNABORTED, errno.EIO, errno.ENODEV), e

        def freezes():
            with frozen:
                bao.freeze()
                try:
                    waiting = [
                        subprocess.Popen(
                            ["cat", steady / f"late/{late.pop()}/x"],
                            stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL,
                            preexec_fn=die_with_parent,
                        )
                        for _ in range(3)
                    ]
                    for process in waiting:
                        until(lambda p=process: p.poll() is not None or waits_in_a_call(p), what="a reader that waits")
                    for process in waiting[dice.randrange(2) :]:
                        process.send_signal(signal.SIGKILL)
                        process.wait(2)  # gone at once, whatever the vault does
                    time.sleep(dice.random() / 2)
                finally:
                    bao.thaw()
            for process in waiting:
                process.wait(20)

        def changes_mounts():
            what = dice.randrange(3)
            if what == 0:
                ask(daemon, "umount", path=str(moving))
            elif what == 1:
                subprocess.run(["fusermount3", "-uz", str(moving)], capture_output=True)
            daemon.reload({**config, "mounts": [stays, dice.choice(moves)]})
            assert [m["path"] for m in status(daemon)["mounts"]].count(str(steady)) == 1

        frozen = threading.Lock()
        lists()  # everything that is read below is known now
        reads()
        everything = [(reads, 0.005)] * 3 + [(lists, 0.02), (rotates, 0.05), (reads_what_moves, 0.002)]
        everything += [(freezes, 0.4), (changes_mounts, 0.1)]

        def work(seconds):
            crowd = Crowd()
            for what, pause in everything:
                crowd.add(what, pause)
            crowd.work(seconds)
            return crowd.counts

        work(1)  # until every cache and heap has its size
        before, anonymous = left(daemon), resident(daemon.pid)
        mapped = status(daemon)["secret_memory"]["mapped"]
        counts = work(SECONDS)
        print(counts)
        assert min(counts.values()) >= 4, counts
        assert ask(daemon, "reload")["ok"]
        until(lambda: left(daemon) == before, 10, f"what was there before: {before}")
        assert resident(daemon.pid) < anonymous + ROOM
        assert status(daemon)["secret_memory"]["mapped"] < mapped + ROOM
        reads()
        assert daemon.stop() == 0
        assert not os.path.ismount(steady) and not os.path.ismount(moving)
