# SPDX-License-Identifier: Apache-2.0
"""A process that reads secrets over and over and judges each read; faults.Hammer starts it. Ends with a line of JSON.

    python hammer.py BOARD '{"PATH": "NAME", ...}'

A value is "N NAME ...", exactly as faults.value makes it, and N never goes back. It ends when its standard input does.
BOARD is a file of two numbers that whoever waits may look at meanwhile: reads, failures.
"""

import json
import mmap
import os
import select
import struct
import sys
import time

from faults import value

BOARD = struct.Struct("=QQ")
KEPT = 20  # failures that are told one by one
PAUSE = 0.002  # between two rounds: the machine has other things to do


def main():
    files = json.loads(sys.argv[2])
    with open(sys.argv[1], "r+b") as f:
        board = mmap.mmap(f.fileno(), BOARD.size)
    newest = dict.fromkeys(files, 0)
    failures, wrong = [], []
    reads = failed = 0
    worst = last_good = 0.0
    while not select.select([0], [], [], 0)[0]:
        for path, name in files.items():
            began = time.monotonic()
            try:
                fd = os.open(path, os.O_RDONLY)
                try:
                    data = os.read(fd, 65536)
                finally:
                    os.close(fd)
            except OSError as e:
                failed += 1
                if len(failures) < KEPT:
                    failures.append({"at": time.monotonic(), "path": path, "errno": e.errno, "error": str(e)})
            else:
                last_good = time.monotonic()
                number = data.partition(b" ")[0]
                if not number.isdigit() or data != value(int(number), name).encode():
                    failed += 1
                    wrong.append({"path": path, "read": repr(data[:80])})
                elif int(number) < newest[path]:
                    failed += 1
                    wrong.append({"path": path, "read": repr(data[:80]), "after": newest[path]})
                else:
                    newest[path] = int(number)
            reads += 1
            worst = max(worst, time.monotonic() - began)
            board[:] = BOARD.pack(reads, failed)
        time.sleep(PAUSE)
    said = {"reads": reads, "failed": failed, "failures": failures, "wrong": wrong[:KEPT], "worst": worst}
    print(json.dumps({**said, "last_good": last_good, "newest": newest}), flush=True)


if __name__ == "__main__":
    main()
