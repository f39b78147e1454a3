# SPDX-License-Identifier: Apache-2.0
"""Many processes that read at the same moment; started by test_once.together.

    python readers.py < [[PATH, SECONDS], ...] as one line of JSON

Each reads its file once when all of them are ready; again and again for SECONDS, where that is not 0. Prints one line
of JSON: [[errno or 0, sha256 of the last read, reads], ...].
"""

import hashlib
import json
import os
import sys
import time


def reader(path, seconds, ready, go, results, number):
    os.write(ready, b".")
    os.read(go, 1)  # the end of a pipe whose writer everybody has let go of
    until = time.monotonic() + seconds
    error, data, reads = 0, b"", 0
    while not error:
        try:
            fd = os.open(path, os.O_RDONLY)
            data = os.read(fd, 1 << 16)
            os.close(fd)
            reads += 1
        except OSError as e:
            error = e.errno
        if time.monotonic() >= until:
            break
        time.sleep(0.02)
    line = json.dumps([number, [error, hashlib.sha256(data).hexdigest(), reads]]) + "\n"
    os.write(results, line.encode())


def main():
    jobs = json.loads(sys.stdin.readline())
    ready, now_ready = os.pipe()
    go, start = os.pipe()
    results, result = os.pipe()
    for number, (path, seconds) in enumerate(jobs):
        if os.fork() == 0:
            os.close(start)
            reader(path, seconds, now_ready, go, result, number)
            os._exit(0)
    os.close(result)
    seen = 0
    while seen < len(jobs):
        seen += len(os.read(ready, 4096))
    os.close(start)
    with open(results) as f:
        said = dict(json.loads(line) for line in f)
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    print(json.dumps([said[n] for n in range(len(jobs))]))


if __name__ == "__main__":
    main()
