# SPDX-License-Identifier: Apache-2.0
"""Every test that docs/threat-model.md names is there, and every claim of it names one."""

import pathlib
import re

TESTS = pathlib.Path(__file__).parent.parent
PAGE = (TESTS.parent / "docs" / "threat-model.md").read_text()
NAMED = re.compile(r"`([a-z0-9_/]+\.(?:py|c))::(\w+)`")
CLAIMS = (
    "Memory, against who looks from outside",
    "Reading, against other users and programs",
    "On the way and at rest",
)


def section(title):
    found = re.search(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def test_every_test_that_is_named_exists():
    named = NAMED.findall(PAGE)
    assert len(named) > 50
    missing = []
    for file, name in named:
        path = TESTS / file
        defined = rf"^def {name}\(" if file.endswith(".py") else rf"^static void {name}\("
        if not path.exists() or not re.search(defined, path.read_text(), re.MULTILINE):
            missing.append(f"{file}::{name}")
    assert not missing


def test_every_claim_names_a_test():
    for title in CLAIMS:
        claims = re.split(r"^- ", section(title), flags=re.MULTILINE)[1:]
        assert claims
        for claim in claims:
            assert NAMED.search(claim), f"{title}: {claim.splitlines()[0]}"


def test_every_memory_test_is_on_the_page():
    """A test here that the page does not name is a claim that nobody reads."""
    unnamed = []
    for path in sorted(TESTS.glob("memory/test_*.py")):
        if path.name in ("test_scan.py", pathlib.Path(__file__).name):
            continue  # how we look, and this
        for name in re.findall(r"^def (test_\w+)\(", path.read_text(), re.MULTILINE):
            if f"`memory/{path.name}::{name}`" not in PAGE:
                unnamed.append(name)
    assert not unnamed
