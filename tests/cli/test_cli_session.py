# SPDX-License-Identifier: Apache-2.0
"""shell and run: who sees the secrets, how signals and exit codes pass, how it ends."""

import errno
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest
from cli_people import SECONDS, Person, read_line, says
from harness import leftovers

pytestmark = pytest.mark.usefixtures("fuse_device")

SECRET = b"the value in the session"
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
FIELD = "/secrets/app/db/password"


@pytest.fixture
def filled(anybody):
    anybody.put("app/db", username=b"joe", password=SECRET)
    return anybody


@pytest.fixture
def rooted(person):
    if os.geteuid() != 0:
        pytest.skip("the tests do not run as root")
    person.put("app/db", username=b"joe", password=SECRET)
    return person


@pytest.fixture
def unprivileged(build, user):
    one = Person(build, None, user).init()
    one.put("app/db", username=b"joe", password=SECRET)
    yield one
    one.close()


def python(script):
    return [PYTHON, "-c", script]


def waiting(person, *options):
    """A session whose command has read the secret once and waits for its standard input to end."""
    process = person.start(
        "run", *options, "--", "sh", "-c", f"cat {FIELD} >/dev/null && echo $$; cat >/dev/null; exit 3"
    )
    return process, int(read_line(process.stdout))


def end(process):
    process.stdin.close()
    assert process.wait(SECONDS) == 3
    assert process.stderr.read() == b""


def session_of(process):
    """The session process between ours and the command."""
    children = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(children) == 1, children
    return int(children[0])


# --- what is there


def test_the_secrets_are_there(filled):
    assert filled.ok("run", "--", "cat", FIELD) == SECRET
    assert filled.ok("run", "--", "ls", "/secrets/app/db") == b"password\nusername\n"


def test_everything_else_is_as_it_was(filled):
    """The root shows what it showed; the working directory, identity and descriptors are the same."""
    script = 'pwd; id -u; id -g; echo "$CLOUDTASER_MOUNT"; ls /; ls -ld /secrets | cut -c1-10'
    here, uid, gid, mount, *names, mode = filled.ok("run", "--", "sh", "-c", script).decode().splitlines()
    assert (here, int(uid)) == (str(filled.home), filled.uid)
    assert int(gid) == (filled.user.gid if filled.user else os.getegid())
    assert mount == "/secrets"
    assert sorted(names) == sorted([n for n in os.listdir("/") if not n.startswith(".")] + ["secrets"])
    assert mode == "dr-x------"


def test_the_root_itself_is_read_only(filled):
    done = filled.run("run", "--", "touch", "/new")
    assert done.returncode == 1
    assert b"Read-only" in done.stderr


def test_outside_there_is_nothing(filled):
    process, _ = waiting(filled)
    assert not os.path.exists("/secrets")
    assert "/secrets" not in leftovers.mounts()
    end(process)
    assert not os.path.exists("/secrets")


def test_the_same_user_who_finds_a_way_in_is_refused(filled):
    """Through /proc/PID/root and by entering the namespaces: it is the process tree that counts."""
    process, pid = waiting(filled)
    as_person = filled.user.argv if filled.user else lambda *argv: argv
    ways = [["cat", f"/proc/{pid}/root{FIELD}"], ["ls", f"/proc/{pid}/root/secrets"]]
    if shutil.which("nsenter"):
        users = ["--user", "--preserve-credentials"] if filled.user else []
        ways.append(["nsenter", "--mount", *users, f"--target={pid}", "cat", FIELD])
    for way in ways:
        done = subprocess.run(as_person(*way), capture_output=True, timeout=SECONDS)
        assert done.returncode != 0, way
        assert done.stdout == b""
        assert b"Permission denied" in done.stderr, (way, done.stderr)
    end(process)


def test_root_by_number_is_refused_a_users_session(unprivileged):
    """Without the guard this is the kernel's word alone (no allow_other), and no protection from root; but it holds."""
    if os.geteuid() != 0:
        pytest.skip("the tests do not run as root")
    process, pid = waiting(unprivileged)
    done = subprocess.run(["cat", f"/proc/{pid}/root{FIELD}"], capture_output=True, timeout=SECONDS)
    assert done.returncode != 0
    assert SECRET not in done.stdout
    end(process)


def test_set_uid_programs_lose_the_right(rooted, tmp_path):
    """A program that changes its user on exec is refused, though it descends from the session."""
    cat = tmp_path / "cat"
    shutil.copy("/bin/cat", cat)
    os.chown(cat, 5, 5)
    cat.chmod(0o6755)
    for folder in [tmp_path, *tmp_path.parents]:
        if folder != pathlib.Path("/tmp") and folder.is_relative_to("/tmp"):
            folder.chmod(0o755)
    done = rooted.run("run", "--", "sh", "-c", f"cat {FIELD} && {cat} {FIELD}")
    assert done.stdout == SECRET
    assert done.returncode != 0
    assert b"Permission denied" in done.stderr


def test_nested_is_refused(filled):
    inner = " ".join(map(str, filled.argv("run", "--passphrase-file", filled.passphrase, "--", "true")[-6:]))
    done = filled.run("run", "--", "sh", "-c", f"{inner}; echo $?")
    assert done.stdout == b"75\n"
    assert b"this is a cloudtaser shell already, with its secrets at /secrets: leave it first" in done.stderr


def test_a_daemonised_grandchild_still_reads(filled):
    """It is not below the command any more, but below the session, which takes it up."""
    script = f"""
import os, sys
r, w = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    while os.getppid() == os.getsid(0):   # until the first child is gone, and we are an orphan
        pass
    os.write(w, b"%d " % (os.getppid() != {os.getpid()}) + open({FIELD!r}, "rb").read())
    os._exit(0)
os.close(w)
os.wait()
sys.stdout.buffer.write(os.read(r, 100))
"""
    assert filled.ok("run", "--", *python(script)) == b"1 " + SECRET


def test_the_mount_ends_with_the_command(filled):
    """Who is left behind finds no server: an error, and nothing hangs."""
    go, out = filled.home / "go", filled.home / "out"
    os.mkfifo(go)
    filled.user and filled.user.own(go)
    script = f"""
import os
if os.fork() == 0:
    os.setsid()
    for fd in (0, 1, 2):
        os.close(fd)
    open({str(go)!r}).read()
    try:
        open({FIELD!r}).read()
        word = "read it"
    except OSError as e:
        word = str(e.errno)
    open({str(out) + ".new"!r}, "w").write(word)
    os.rename({str(out) + ".new"!r}, {str(out)!r})
    os._exit(0)
"""
    filled.ok("run", "--", *python(script))
    # The one left behind opens the other end; when it is gone, it has closed its copies of everything.
    with open(go, "w"):
        pass
    deadline = time.monotonic() + SECONDS
    while not out.exists():
        assert time.monotonic() < deadline, "the one left behind hangs"
        time.sleep(0.01)
    assert int(out.read_text()) == errno.ENOTCONN


def test_a_killed_server_hangs_nobody(filled):
    script = f"""
import sys
open({FIELD!r}).read()
print("ready", flush=True)
sys.stdin.read(1)
try:
    open({FIELD!r}).read()
    print("read it", flush=True)
except OSError as e:
    print(e.errno, flush=True)
"""
    process = filled.start("run", "--", *python(script))
    assert read_line(process.stdout) == b"ready"
    process.kill()
    process.wait()
    process.stdin.write(b"x")
    process.stdin.flush()
    assert int(read_line(process.stdout)) in (errno.ENOTCONN, errno.ECONNABORTED)


# --- exit codes and signals


@pytest.mark.parametrize("code", [0, 1, 7, 64, 255])
def test_exit_code(filled, code):
    assert filled.run("run", "--", "sh", "-c", f"exit {code}").returncode == code


@pytest.mark.parametrize("sig", ["KILL", "TERM", "SEGV"])
def test_command_ended_by_a_signal(filled, sig):
    assert filled.run("run", "--", "sh", "-c", f"kill -{sig} $$").returncode == 128 + getattr(signal, f"SIG{sig}")


def test_no_such_command(filled):
    # A folder on the PATH that may not be searched would make it "cannot be run".
    done = filled.run("run", "--", "nosuchprogram", env={"PATH": "/usr/bin:/bin:/usr/sbin:/sbin"})
    says(done, 127, "nosuchprogram")
    says(filled.run("run", "--", "/etc/passwd"), 126, "/etc/passwd")


COUNT = """
import os, signal, sys
names = ["HUP", "INT", "QUIT", "USR1", "USR2", "ALRM", "TERM"]
for name in names:
    signal.signal(getattr(signal, "SIG" + name), lambda s, f: os.write(1, signal.Signals(s).name.encode() + b"\\n"))
os.write(1, b"ready\\n")
for line in sys.stdin:
    pass
sys.exit(9)
"""


def test_signals_pass_once(filled):
    process = filled.start("run", "--", *python(COUNT))
    assert read_line(process.stdout) == b"ready"
    for name in ("HUP", "INT", "QUIT", "USR1", "USR2", "ALRM", "TERM"):
        process.send_signal(getattr(signal, f"SIG{name}"))
        assert read_line(process.stdout) == f"SIG{name}".encode()
    process.stdin.close()
    assert process.wait(SECONDS) == 9
    assert process.stdout.read() == b""


def test_sigterm_ends_a_plain_command(filled):
    process = filled.start("run", "--", "sh", "-c", "echo ready; exec sleep 1000")
    assert read_line(process.stdout) == b"ready"
    process.terminate()
    assert process.wait(SECONDS) == 128 + signal.SIGTERM


def test_ctrl_c_reaches_the_command_once(filled, terminal):
    t = terminal(filled, "run", "--passphrase-file", filled.passphrase, "--", *python(COUNT))
    t.wait_for("ready\r\n")
    t.type("\x03")
    t.wait_for("SIGINT\r\n")
    # One that comes by number is passed on behind it, so a second SIGINT would be seen before it.
    t.process.send_signal(signal.SIGUSR1)
    assert b"SIGINT" not in t.wait_for("SIGUSR1\r\n")
    t.type("\x04")
    assert t.wait() == 9


def test_started_with_sigchld_ignored(filled):
    """Whoever ignores its children's ends hands that down; the exit code passes all the same."""
    argv = filled.argv(*filled.with_passphrase(["run", "--", "sh", "-c", "exit 6"]))
    script = (
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execvp(sys.argv[1], sys.argv[1:])"
    )
    env = {"HOME": str(filled.home), "PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(filled.home)}
    assert subprocess.run([*python(script), *argv], env=env, timeout=60).returncode == 6


# --- --env and --fd


def test_env(filled):
    assert filled.ok("run", "--env", "PW=app/db/password", "--", "printenv", "PW") == SECRET + b"\n"
    assert filled.ok("run", "-e", "PW=app/db/password", "--", "printenv", "PW", env={"PW": "old"}) == SECRET + b"\n"


def test_fd_by_name(filled):
    script = 'case $PW in /dev/fd/*) cat "$PW";; esac'
    assert filled.ok("run", "--fd", "PW=app/db/password", "--", "sh", "-c", script) == SECRET


def test_fd_by_number(filled):
    script = "cat <&9; cat <&3; ( echo x >&9 ) 2>/dev/null && echo writable"
    arguments = ["--fd", "U=app/db/username", "--fd", "9=app/db/password", "--fd", "3=app/db/username"]
    done = filled.run("run", *arguments, "--", "sh", "-c", script)
    assert done.stdout == SECRET + b"joe"


@pytest.mark.parametrize(
    "options, code, sentence",
    [
        (["--env", "PW"], 64, "NAME=SECRET/FIELD"),
        (["--env", "P-W=app/db/password"], 64, "NAME=SECRET/FIELD"),
        (["--env", "1=app/db/password"], 64, "NAME=SECRET/FIELD"),
        (["--env", "PW=password"], 64, "SECRET/FIELD"),
        (["--env", "PW=/etc/passwd"], 64, "SECRET/FIELD"),
        (["--env", "PW=app/../../etc/passwd"], 64, "SECRET/FIELD"),
        (["--env", "PW=app/db/"], 64, "SECRET/FIELD"),
        (["--fd", "0=app/db/password"], 64, "from 3 to 255"),
        (["--fd", "256=app/db/password"], 64, "from 3 to 255"),
        (["--fd", "99999999999999999999=app/db/password"], 64, "from 3 to 255"),
        (["--env", "PW=app/db/none"], 66, "app/db/none"),
        (["--fd", "PW=none/none"], 66, "none/none"),
        (["--env", "PW=app/db"], 66, "is no field"),
    ],
)
def test_env_and_fd_that_cannot_be(filled, options, code, sentence):
    done = filled.run("run", *options, "--", "echo", "it ran")
    says(done, code, sentence)


@pytest.mark.parametrize("value, sentence", [(b"a\0b", "NUL"), (b"v" * 200000, "too long")])
def test_env_values_that_cannot_be(filled, value, sentence):
    filled.put("odd", field=value)
    done = filled.run("run", "--env", "V=odd/field", "--", "echo", "it ran")
    says(done, 65, sentence)
    assert b"vvvv" not in done.stderr


def test_nothing_of_ours_shows_a_secret(filled):
    """With --env the value is in the command's environment, and in nobody else's; never in an argument list."""
    process, pid = waiting(filled, "--env", "PW=app/db/password")
    shown = {}
    for who in (process.pid, session_of(process), pid):
        shown[who] = pathlib.Path(f"/proc/{who}/cmdline").read_bytes()
        if os.geteuid() == 0 or who == pid:
            shown[who] += pathlib.Path(f"/proc/{who}/environ").read_bytes()
    assert SECRET in shown.pop(pid)
    for who, text in shown.items():
        assert b"run\0" in text
        assert SECRET not in text, who
        assert b"correct horse" not in text, who
    end(process)


# --- mount points


def test_another_mount_point(filled):
    assert filled.ok("run", "--mount-point", "/mine", "--", "cat", "/mine/app/db/password") == SECRET
    assert not os.path.exists("/mine")


def test_a_folder_that_is_there(filled):
    """The root stays as it is then; the folder is covered for the session alone."""
    place = filled.folder("here")
    filled.write(place / "under", b"")
    assert filled.ok("run", "--mount-point", place, "--", "ls", place) == b"app\n"
    assert os.listdir(place) == ["under"]


def test_only_a_folder_of_the_vault(filled):
    filled.put("web/tls", key=b"x")
    assert filled.ok("run", "--path", "web/", "--", "find", "/secrets", "-name", "key") == b"/secrets/tls/key\n"


def test_mount_points_that_cannot_be(filled):
    deep = filled.home / "none"
    says(filled.run("run", "--mount-point", deep, "--", "true"), 66, "mkdir -p", str(deep))
    file = filled.write(filled.home / "file", b"")
    says(filled.run("run", "--mount-point", file, "--", "true"), 66, "not a folder")
    link = filled.home / "link"
    link.symlink_to("/tmp")
    says(filled.run("run", "--mount-point", link, "--", "true"), 66, "symbolic link")


# --- what stands in the way


def test_wrong_passphrase(filled):
    filled.write(filled.passphrase, b"wrong\n", 0o600)
    says(filled.run("run", "--", "echo", "it ran"), 77, "wrong passphrase")


def test_no_vault(filled):
    filled.vault.unlink()
    says(filled.run("run", "--", "echo", "it ran"), 66, "cloudtaser vault init")


def test_ctrl_c_at_the_prompt(filled, terminal):
    t = terminal(filled, "run", "--", "echo", "it ran")
    t.wait_for("Passphrase of the vault")
    t.type("\x03")
    assert t.wait() == -signal.SIGINT
    assert t.echoes()
    assert b"it ran" not in t.rest()


def test_closed_user_namespaces(unprivileged):
    """The sentence names the switch that is set."""
    if os.geteuid() != 0:
        pytest.skip("the tests do not run as root")
    # A user namespace around everything, in which no further one may be made.
    script = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
ready, go = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    if libc.unshare(0x10000000) != 0:
        os._exit(99)
    os.write(ready[1], b"x")
    os.read(go[0], 1)
    with open("/proc/sys/user/max_user_namespaces", "w") as f:
        f.write("0")
    os.execvp(sys.argv[1], sys.argv[1:])
os.read(ready[0], 1)
for name in ("uid_map", "gid_map"):
    with open(f"/proc/{child}/{name}", "w") as f:
        f.write("0 0 65536")
os.write(go[1], b"x")
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    argv = unprivileged.argv(*unprivileged.with_passphrase(["run", "--", "echo", "it ran"]))
    done = subprocess.run(
        [*python(script), *argv],
        capture_output=True,
        env={"HOME": str(unprivileged.home), "PATH": os.environ["PATH"]},
        timeout=60,
    )
    says(done, 77, "user.max_user_namespaces is 0", "sysctl user.max_user_namespaces=")


# --- shell


def test_shell(filled, terminal):
    t = terminal(filled, "shell", "--passphrase-file", filled.passphrase, env={"SHELL": "/bin/sh", "PS1": "> "})
    t.wait_for("cloudtaser: your secrets are at /secrets until you leave this shell\r\n")
    t.type(f"cat {FIELD}; echo; echo $CLOUDTASER_MOUNT; exit 4\n")
    t.wait_for(SECRET + b"\r\n/secrets\r\n")
    assert t.wait() == 4


@pytest.mark.skipif(not os.path.exists("/bin/bash"), reason="there is no bash here")
def test_shell_has_job_control(filled, terminal):
    """^C and ^Z are for what the shell runs, not for the shell, and not for us."""
    t = terminal(filled, "shell", "--passphrase-file", filled.passphrase, env={"SHELL": "/bin/bash"})
    t.wait_for("until you leave this shell\r\n")
    # At each prompt the shell has the terminal again: what is typed before that may be thrown away with the ^C.
    t.type("stty -echo; PS1=prompt-$((1+1))-\n")
    t.wait_for("prompt-2-")
    t.type("sh -c 'echo running-$((2+1)); exec sleep 1000'\n")
    t.wait_for("running-3\r\n")
    t.type("\x03")
    t.wait_for("prompt-2-")
    t.type("echo code-$?\n")
    t.wait_for("code-130\r\nprompt-2-")
    t.type("sh -c 'echo running-$((3+1)); exec sleep 1000'\n")
    t.wait_for("running-4\r\n")
    t.type("\x1a")
    t.wait_for("Stopped")
    t.wait_for("prompt-2-")
    t.type(f'cat {FIELD}; echo; kill -9 $(jobs -p); until test -z "$(jobs -s)"; do :; done; exit 5\n')
    t.wait_for(SECRET)
    assert t.wait() == 5


def test_a_session_shows_in_status(filled):
    process, _ = waiting(filled)
    daemons = json.loads(filled.ok("status", "-o", "json", open_vault=False))["daemons"]
    (daemon,) = [d for d in daemons if d["pid"] == process.pid]
    assert [m["path"] for m in daemon["mounts"]] == ["/secrets"]
    says(filled.run("umount", "/secrets", open_vault=False), 75, "belongs to a shell or command")
    end(process)
