# SPDX-License-Identifier: Apache-2.0
"""Commands on a terminal: nothing that is typed in secret is shown, and the terminal is as before at the end."""

import signal

import pytest
from cli_people import PASSPHRASE

PROMPT = "Passphrase of the vault"


def answer(terminal, text, *prompts):
    """Types it at each prompt; echo must be off there."""
    for prompt in prompts:
        terminal.wait_for(prompt)
        assert not terminal.echoes()
        terminal.type(text)


def test_init_asks_twice(nobody_yet, terminal):
    t = terminal(nobody_yet, "vault", "init", "--kdf-memory", "8", "--kdf-ops", "1")
    answer(t, PASSPHRASE + b"\n", "New passphrase for", "The same again: ")
    assert t.wait() == 0
    assert PASSPHRASE not in t.rest()
    assert t.echoes()
    assert nobody_yet.ok("ls") == b""


def test_init_two_that_differ(nobody_yet, terminal):
    t = terminal(nobody_yet, "vault", "init")
    answer(t, "one\n", "New passphrase for")
    answer(t, "two\n", "The same again: ")
    assert t.wait() == 77
    assert b"not the same; nothing was made" in t.rest()
    assert not nobody_yet.vault.exists()


@pytest.mark.parametrize("typed, code", [("\n", 64), ("\x04", 66)])
def test_init_nothing_typed(nobody_yet, terminal, typed, code):
    t = terminal(nobody_yet, "vault", "init")
    answer(t, typed, "New passphrase for")
    assert t.wait() == code
    assert t.echoes()
    assert not nobody_yet.vault.exists()


def test_open_asks_once(person, terminal):
    person.put("app/db", password=b"from the vault")
    t = terminal(person, "get", "app/db/password")
    answer(t, PASSPHRASE + b"\n", PROMPT)
    # A newline of its own, so that the next prompt does not stick to it.
    t.wait_for("from the vault\r\n")
    assert t.wait() == 0


def test_line_editing_is_the_terminals(person, terminal):
    t = terminal(person, "ls")
    answer(t, b"wrong\x15" + PASSPHRASE + b"x\x7f\n", PROMPT)
    assert t.wait() == 0, t.rest()


def test_wrong_passphrase(person, terminal):
    t = terminal(person, "ls")
    answer(t, "wrong\n", PROMPT)
    assert t.wait() == 77
    assert b"wrong passphrase" in t.rest()


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_signal_at_the_prompt(person, terminal, sig):
    """It ends the program as it ends any other, and the terminal echoes again."""
    t = terminal(person, "ls")
    t.wait_for(PROMPT)
    assert not t.echoes()
    if sig == signal.SIGINT:
        t.type("half a passphr\x03")
    else:
        t.type("half a passphr")
        t.process.send_signal(sig)
    assert t.wait() == -sig
    assert t.echoes()
    assert b"passphr" not in t.rest()


def test_stopped_at_the_prompt(person, terminal):
    """Stopped, the terminal echoes (it is the shell's then); going on, the question is asked again."""
    # A shell with job control above it: a process group that nobody waits for cannot be stopped from the terminal.
    script = 'set -m; "$0" ls; echo "stopped, $(stty -a | grep -ow -- "-*echo")"; fg'
    t = terminal(person, argv=["bash", "-c", script, person.build / "cloudtaser"])
    t.wait_for(PROMPT)
    t.type("half a passphr\x1a")
    t.wait_for("stopped, echo\r\n")
    answer(t, PASSPHRASE + b"\n", PROMPT)
    assert t.wait() == 0
    assert b"passphr" not in t.rest()


def test_value_typed_on_the_terminal(person, terminal):
    """`NAME=-` where standard input is a terminal asks for one line without echo."""
    t = terminal(person, "put", "app/db", "password=-", "--passphrase-file", person.passphrase)
    answer(t, "typed value\n", "password: ")
    t.wait_for("app/db: version 1")
    assert t.wait() == 0
    assert b"typed" not in t.rest()
    assert person.ok("get", "app/db/password") == b"typed value"
