#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures what the project promises about speed, each thing beside what it is compared with, and prints one table.

    make bench                          everything, some five minutes
    make bench T='reads heap'           some rows: reads, idle, memory, cold, heap
    make bench T='--quick --json out.json'

Both sides of a comparison are measured in this one run, taking turns; a number is the median of its rounds, a ratio the
median of the rounds' ratios. Exit status 1 when --check is given and a promise is not met.
"""

import argparse
import contextlib
import json
import os
import pathlib
import platform
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(HERE.parent))

import vaults  # noqa: E402
from harness.programs import Daemon, environment  # noqa: E402
from peers.process import die_with_parent, end, wait_until  # noqa: E402

BUILD = ROOT / os.environ.get("BUILD", "build")
DELAY_MS = 20
FOREIGN = 0.05  # of all cores: what others may use while readers are measured


class Failed(Exception):
    """A measurement could not be taken."""


def output(argv, home, timeout=120):
    argv = [str(a) for a in argv]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, env=environment(home))
    if done.returncode:
        raise Failed(f"{' '.join(argv)}: status {done.returncode}\n{done.stderr.strip()}")
    return done.stdout


def median(values):
    return statistics.median(values)


class Bench:
    def __init__(self, options, folder):
        self.options = options
        self.folder = folder
        self.rows = []
        self.details = {}
        self.waited = 0.0
        self.noisy = False
        # copies: what is measured does not change when somebody builds meanwhile
        self.bin = shutil.copytree(BUILD / "bin", folder / "bin")
        self.bench = shutil.copytree(BUILD / "bench", folder / "bench")

    def row(self, name, what, ours, against, ratio, promise, met):
        """`met` None: printed beside, nothing is promised."""
        values = (name, what, ours, against, ratio, promise, met)
        self.rows.append(dict(zip(("name", "what", "ours", "against", "ratio", "promise", "met"), values, strict=True)))

    def sub(self, name):
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        return path

    # --- reads

    def foreign(self, servers, run):
        """What run() gives, and how much of all cores others used meanwhile (0 to 1)."""

        def seconds():
            fields = [int(n) for n in pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
            busy = (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")
            children = resource.getrusage(resource.RUSAGE_CHILDREN)
            own = resource.getrusage(resource.RUSAGE_SELF)
            ours = sum(self.cpu_ns(pid) for pid in servers) / 1e9
            return busy, ours + sum(r.ru_utime + r.ru_stime for r in (children, own))

        started, (busy, ours) = time.monotonic(), seconds()
        found = run()
        elapsed, (busy2, ours2) = time.monotonic() - started, seconds()
        return found, max(0.0, (busy2 - busy) - (ours2 - ours)) / elapsed / os.cpu_count()

    def turn(self, servers, sides):
        """
        One run of each side, on a machine where nobody else does much: beside foreign load readers and servers share a
        core by chance, and the wake-up across cores, which is what these rows are about, does not happen. Tries for
        --patience seconds in all.
        """
        while True:
            started = time.monotonic()
            if self.foreign(servers, lambda: time.sleep(0.1))[1] <= FOREIGN or self.waited > self.options.patience:
                found, noise = self.foreign(servers, lambda: {side: run() for side, run in sides.items()})
                if noise <= FOREIGN:
                    return found
                if self.waited > self.options.patience:
                    self.noisy = True
                    return found
            self.waited += time.monotonic() - started

    def opener(self, path, readers, prefix=()):
        """One run of the readers; opener's JSON."""
        argv = [*prefix, self.bench / "opener", "-j", "-s", self.options.seconds, "-n", readers, path]
        return json.loads(output(argv, self.folder).splitlines()[-1])

    @contextlib.contextmanager
    def reference(self, *arguments):
        """The reference server: the path of its file, its pid."""
        mount = pathlib.Path(tempfile.mkdtemp(prefix="ref-", dir=self.folder))
        server = subprocess.Popen([self.bench / "refserver", *arguments, mount], preexec_fn=die_with_parent)
        try:
            wait_until((mount / "secret").exists, 10, "reference server", server)
            yield mount / "secret", server.pid
        finally:
            end(server)
            subprocess.run(["fusermount3", "-u", "-z", "-q", mount], check=False)

    def reads(self):
        folder = self.sub("reads")
        sealed = vaults.Sealed(self.bin / "cloudtaser", folder)
        sealed.put("bench/one", {"value": b"0123456789abcdef" * 4})
        mount = self.sub("reads/mount")
        config = {
            "vaults": {"v": sealed.config()},
            "mounts": [{"path": mount, "vault": "v", "secrets": [{"path": "bench/one", "as": "one"}]}],
        }
        inside = [self.bin / "cloudtaser", "run", *sealed.options(), "--"]
        with (
            Daemon(self.bin / "cloudtaserd", config, folder / "daemon") as daemon,
            self.reference() as (single, single_pid),
            self.reference("-m") as (threaded, threaded_pid),
        ):
            servers = (daemon.pid, single_pid, threaded_pid)
            sides = {
                "one": {
                    "ref": lambda: self.opener(single, 1),
                    "uid": lambda: self.opener(mount / "one/value", 1),
                    "tree": lambda: self.opener("/secrets/bench/one/value", 1, inside),
                },
                "four": {
                    "ref": lambda: self.opener(threaded, 4),
                    "uid": lambda: self.opener(mount / "one/value", 4),
                    "tree": lambda: self.opener("/secrets/bench/one/value", 4, inside),
                },
            }
            runs = {case: {side: [] for side in s} for case, s in sides.items()}
            for _ in range(self.options.rounds):
                for case, s in sides.items():
                    for side, took in self.turn(servers, s).items():
                        runs[case][side].append(took)
        self.details["reads"] = runs
        one, four = runs["one"], runs["four"]
        for side, promise in (("uid", "<= 0.40x"), ("tree", "")):
            ours, ref = [r["p50_us"] for r in one[side]], [r["p50_us"] for r in one["ref"]]
            ratio = median(a / b for a, b in zip(ours, ref, strict=True))
            self.row(
                f"read_1_{side}",
                f"open+read+close of 64 bytes, 1 reader, p50, policy by {side}",
                f"{median(ours):.1f} us (p99 {median(r['p99_us'] for r in one[side]):.0f})",
                f"{median(ref):.1f} us (p99 {median(r['p99_us'] for r in one['ref']):.0f})",
                round(ratio, 3),
                promise,
                ratio <= 0.40 if promise else None,
            )
        for side, promise in (("uid", ">= 1.5x"), ("tree", "")):
            ours, ref = [r["ops_per_s"] for r in four[side]], [r["ops_per_s"] for r in four["ref"]]
            ratio = median(a / b for a, b in zip(ours, ref, strict=True))
            self.row(
                f"read_4_{side}",
                f"the same, 4 readers, policy by {side}",
                f"{median(ours):.0f}/s",
                f"{median(ref):.0f}/s",
                round(ratio, 3),
                promise,
                ratio >= 1.5 if promise else None,
            )

    # --- idle

    @staticmethod
    def cpu_ns(pid):
        """What all threads have run; schedstat counts nanoseconds, where stat counts ticks of 10 ms."""
        total = 0
        for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError):
                total += int((task / "schedstat").read_text().split()[0])
        return total

    @staticmethod
    def stat(pid):
        return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()

    def cpu_ticks(self, pid):
        fields = self.stat(pid)
        return int(fields[11]) + int(fields[12])

    def idle(self):
        count, folder = 100, self.sub("idle")
        with vaults.server() as bao:
            vaults.fill(bao, {f"idle/{i:03}": {"value": "x" * 64} for i in range(count)})
            mounts = [
                {"path": self.sub(f"idle/m{i:03}"), "vault": "v", "secrets": [{"path": f"idle/{i:03}", "as": "s"}]}
                for i in range(count)
            ]
            config = {"vaults": {"v": vaults.config(bao)}, "mounts": mounts}
            with Daemon(self.bin / "cloudtaserd", config, folder / "daemon") as daemon:
                for m in mounts:
                    (m["path"] / "s/value").read_bytes()
                sleeper = subprocess.Popen(["sleep", "infinity"], preexec_fn=die_with_parent)
                comm = pathlib.Path(f"/proc/{sleeper.pid}/comm")
                wait_until(
                    lambda: comm.read_text() == "sleep\n" and self.stat(sleeper.pid)[0] == "S", 10, "sleep", sleeper
                )
                if self.cpu_ns(daemon.pid) == 0:
                    raise Failed("the daemon's processor time cannot be read")
                before, beside, ticks = self.cpu_ns(daemon.pid), self.cpu_ns(sleeper.pid), self.cpu_ticks(daemon.pid)
                started = time.monotonic()
                time.sleep(self.options.idle_seconds)
                elapsed = time.monotonic() - started
                # ns of a thread that ended meanwhile would be missed; its ticks would not
                used = max(
                    (self.cpu_ns(daemon.pid) - before) / 1e9,
                    (self.cpu_ticks(daemon.pid) - ticks - 1) / os.sysconf("SC_CLK_TCK"),
                )
                slept = (self.cpu_ns(sleeper.pid) - beside) / 1e9
                end(sleeper)
        share = used / elapsed
        self.details["idle"] = {"cpu_s": used, "elapsed_s": elapsed, "mounts": count, "refresh_s": 60}
        self.row(
            "idle_cpu",
            f"CPU of a daemon with {count} mounts, idle for {elapsed:.0f} s",
            f"{share:.3%} of a core",
            f"{slept / elapsed:.3%} (sleep)",
            None,
            "< 0.1 % of a core",
            share < 0.001,
        )

    # --- memory

    @staticmethod
    def memory(pid):
        """(resident, of it secret, secret as mapped) in bytes: secret pages that are resident are counted in both."""
        rollup = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        rss = next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Rss:")) * 1024
        resident = mapped = 0
        secret = False
        for line in pathlib.Path(f"/proc/{pid}/smaps").read_text().splitlines():
            key, *rest = line.split()
            if not key.endswith(":"):
                secret = "secretmem" in line
            elif secret and key == "Size:":
                mapped += int(rest[0]) * 1024
            elif secret and key == "Rss:":
                resident += int(rest[0]) * 1024
        return rss, resident, mapped

    def memory_row(self):
        count, templates, folder = 10000, 100, self.sub("memory")
        with vaults.server() as bao:
            names = [f"mem/{i:05}" for i in range(count)]
            vaults.fill(bao, {name: {"value": f"{i:064}"} for i, name in enumerate(names)})
            agent, rendered = vaults.agent(bao, names[:templates], self.sub("memory/agent"))
            mount = self.sub("memory/mount")
            config = {
                "vaults": {"v": {**vaults.config(bao), "refresh": "1h"}},
                "mounts": [{"path": mount, "vault": "v", "secrets": [{"path": "mem/", "as": ""}]}],
            }
            try:
                with Daemon(self.bin / "cloudtaserd", config, folder / "daemon") as daemon:
                    for i in range(count):
                        value = (mount / f"{i:05}/value").read_bytes()
                        if value != b"%064d" % i:
                            raise Failed(f"{i:05}/value holds something else")
                    rss, resident, mapped = self.memory(daemon.pid)
                    wait_until(lambda: len(list(rendered.iterdir())) == templates, 60, "templates", agent)
                    theirs = self.memory(agent.pid)[0]
            finally:
                end(agent)
        total = rss - resident + mapped
        self.details["memory"] = {
            "rss": rss,
            "secret_resident": resident,
            "secret_mapped": mapped,
            "agent_rss": theirs,
            "secrets": count,
            "templates": templates,
        }
        mib = 1 << 20
        self.row(
            "memory",
            f"memory for {count:,} cached secrets of 64 bytes",
            f"{total / mib:.1f} MiB ({(rss - resident) / mib:.1f} resident + {mapped / mib:.1f} secret)",
            f"{theirs / mib:.1f} MiB (bao agent, {templates} templates)",
            round(total / theirs, 3),
            "<= 24 MiB",
            total <= 24 * mib,
        )

    # --- cold mount

    @contextlib.contextmanager
    def far_away(self, port, delay_ms):
        """The port of a proxy that makes the server answer `delay_ms` later; its number of connections afterwards."""
        proxy = subprocess.Popen(
            [self.bench / "delayproxy", str(delay_ms), str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=die_with_parent,
        )
        try:
            yield int(proxy.stdout.readline())
        finally:
            proxy.stdin.close()
            self.connections = int(proxy.stdout.readline().split()[1])
            proxy.wait(10)

    def cold_once(self, bao, count, delay_ms, folder, prefix=()):
        """Seconds from the daemon's start until it is ready, and until the last of its secrets was read."""
        mount = self.sub("cold/mount")
        with self.far_away(bao.port, delay_ms) as port:
            config = {
                "vaults": {"v": vaults.config(bao, port)},
                "mounts": [{"path": mount, "vault": "v", "secrets": [f"cold/{i:03}" for i in range(count)]}],
            }
            started = time.monotonic()
            with Daemon(self.bin / "cloudtaserd", config, folder, prefix=prefix) as daemon:
                ready = time.monotonic() - started
                for i in range(count):
                    (mount / f"cold/{i:03}/value").read_bytes()
                took = time.monotonic() - started
                status = output([self.bin / "cloudtaser", "status", "-o", "json", "-c", daemon.config_file], folder)
                self.cap = json.loads(status)["daemons"][0]["vaults"][0]["connections"]
        return ready, took, self.connections

    def cold(self):
        count = 100
        with vaults.server() as bao:
            vaults.fill(bao, {f"cold/{i:03}": {"value": "x" * 64} for i in range(count)})
            runs, near, trips = [], [], []
            for i in range(self.options.rounds):
                with self.far_away(bao.port, DELAY_MS) as port:
                    trips.append(vaults.round_trip(bao, port))
                runs.append(self.cold_once(bao, count, DELAY_MS, self.folder / f"cold/far{i}"))
                near.append(self.cold_once(bao, count, 0, self.folder / f"cold/near{i}"))
            # a user's usual limit, which CAP_IPC_LOCK would lift
            bounded = ["prlimit", f"--memlock={8 << 20}"]
            if os.geteuid() == 0:
                bounded += ["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock", "--"]
            _, took_bounded, _ = self.cold_once(bao, count, DELAY_MS, self.folder / "cold/bounded", bounded)
            cap = self.cap
        ratio = median(took / trip for (_, took, _), trip in zip(runs, trips, strict=True))
        connections = median(n for _, _, n in runs)
        self.details["cold"] = {
            "runs": [{"ready_s": a, "last_readable_s": b, "connections": n} for a, b, n in runs],
            "without_delay": [{"ready_s": a, "last_readable_s": b, "connections": n} for a, b, n in near],
            "round_trip_s": trips,
        }
        self.row(
            "cold_mount",
            f"cold mount of {count} secrets, vault {DELAY_MS} ms away, until the last is readable",
            f"{median(took for _, took, _ in runs) * 1000:.0f} ms ({connections:.0f} connections; "
            f"{median(took for _, took, _ in near) * 1000:.0f} ms without the delay)",
            f"{median(trips) * 1000:.1f} ms (one round trip)",
            round(ratio, 2),
            "<= 6 round trips",
            ratio <= 6,
        )
        ratio = took_bounded / median(trips)
        self.details["cold"]["within_8_mib"] = {"last_readable_s": took_bounded, "connection_cap": cap}
        self.row(
            "cold_mount_8mib",
            "the same within 8 MiB of locked memory",
            f"{took_bounded * 1000:.0f} ms (at most {cap} connections)",
            f"{median(trips) * 1000:.1f} ms",
            round(ratio, 2),
            "",
            None,
        )

    # --- heap

    def heap(self):
        found = json.loads(output([self.bench / "heap", "-j", HERE / "heap.trace"], self.folder))
        self.details["heap"] = found
        self.row(
            "heap",
            f"secret heap ({found['memory']}), {found['threads']} threads, an operation",
            f"{found['secret_ns']:.1f} ns",
            f"{found['glibc_ns']:.1f} ns (glibc)",
            found["ratio"],
            "<= 2x",
            found["ratio"] <= 2,
        )


def machine():
    """What the numbers depend on."""
    cpuinfo = pathlib.Path("/proc/cpuinfo").read_text()
    model = next((line.split(":", 1)[1].strip() for line in cpuinfo.splitlines() if line.startswith("model name")), "")
    memory = int(pathlib.Path("/proc/meminfo").read_text().split()[1]) // 1024
    haltpoll = pathlib.Path("/sys/module/haltpoll/parameters/guest_halt_poll_ns")
    return {
        "cpu": model or platform.machine(),
        "cores": os.cpu_count(),
        "memory_mib": memory,
        "kernel": platform.release(),
        "virtual": " hypervisor " in cpuinfo.replace("\n", " "),
        "guest_halt_poll_ns": int(haltpoll.read_text()) if haltpoll.exists() else None,
        "load_before": os.getloadavg()[0],
    }


def version():
    git = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return git.stdout.strip() or (ROOT / "VERSION").read_text().strip()


def table(rows):
    head = ("what", "cloudtaser", "beside", "ratio", "promised", "met")
    lines = [head, tuple("-" * 3 for _ in head)]
    for r in rows:
        ratio = "" if r["ratio"] is None else f"{r['ratio']:.2f}"
        met = {True: "yes", False: "NO", None: ""}[r["met"]]
        lines.append((r["what"], r["ours"], r["against"], ratio, r["promise"], met))
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    padded = [[cell.ljust(w) for cell, w in zip(line, widths, strict=True)] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    rows = {"reads": "reads", "heap": "heap", "cold": "cold", "idle": "idle", "memory": "memory_row"}
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"which ({', '.join(rows)}); default: all")
    parser.add_argument("--rounds", type=int, help="how often the sides take turns (default 9)")
    parser.add_argument("--seconds", type=float, help="length of one run of readers (default 1)")
    parser.add_argument("--idle-seconds", type=float, help="how long to watch the idle daemon (default 65)")
    parser.add_argument("--patience", type=float, default=120, help="seconds to wait for a quiet machine (120)")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds")
    parser.add_argument("--json", metavar="FILE", help="write all that was measured; - prints it instead")
    parser.add_argument("--check", action="store_true", help="exit status 1 when a promise is not met")
    options = parser.parse_args()
    unknown = set(options.rows) - set(rows)
    if unknown:
        parser.error(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(rows)}")
    options.rounds = options.rounds or (3 if options.quick else 9)
    options.seconds = options.seconds or (0.5 if options.quick else 1)
    # a whole refresh interval of the vault, so that refreshing counts
    options.idle_seconds = options.idle_seconds or (20 if options.quick else 65)

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    found = {"version": version(), "machine": machine()}
    folder = pathlib.Path(tempfile.mkdtemp(prefix="ct-bench-"))
    bench, status = Bench(options, folder), 0
    try:
        for name, method in rows.items():
            if options.rows and name not in options.rows:
                continue
            print(f"bench: {name} ...", file=sys.stderr, flush=True)
            try:
                getattr(bench, method)()
            except (Failed, AssertionError, OSError, subprocess.SubprocessError) as e:
                print(f"bench: {name}: {e}", file=sys.stderr)
                bench.row(name, name, "not measured", "", None, "", False)
                status = 1
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    found.update(rows=bench.rows, details=bench.details, noisy=bench.noisy)
    if bench.noisy:
        print("bench: the machine was busy with something else: these numbers compare nothing", file=sys.stderr)
    if options.json == "-":
        print(json.dumps(found, indent=1))
    else:
        m = found["machine"]
        print(
            f"cloudtaser {found['version']} on {m['cpu']}, {m['cores']} cores{' (virtual)' if m['virtual'] else ''}, "
            f"Linux {m['kernel']}\n\n{table(bench.rows)}"
        )
        if options.json:
            pathlib.Path(options.json).write_text(json.dumps(found, indent=1) + "\n")
    if options.check and any(r["met"] is False for r in bench.rows):
        status = 1
    return status


if __name__ == "__main__":
    sys.exit(main())
