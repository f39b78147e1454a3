# SPDX-License-Identifier: Apache-2.0
"""The unit tests in C, and the fuzz targets on their corpora: a test each.

The lists are made from the sources, so that a program that was not built is a failure and not an absence.
"""

import pathlib
import re
import subprocess

import pytest
from harness.programs import environment

TESTS = pathlib.Path(__file__).parent
UNIT = sorted(p.stem for p in (TESTS / "unit").glob("test_*.c"))
FUZZ = sorted(p.stem for p in (TESTS / "fuzz").glob("fuzz_*.c"))
SKIPPED = 77  # exit status of a program that cannot be tried here; its last line says why


def run(program, source, tmp_path, *arguments):
    assert program.exists(), f"{program} is not built: make test-programs"
    assert program.stat().st_mtime >= source.stat().st_mtime, f"{program} is older than {source}: make test-programs"
    done = subprocess.run(
        [program, *arguments],
        cwd=TESTS.parent,  # examples/ are opened from here
        env=environment(tmp_path, {"TMPDIR": str(tmp_path)}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        errors="replace",
    )
    print(done.stdout)
    if done.returncode == SKIPPED:
        pytest.skip((done.stdout.strip().splitlines() or ["no reason given"])[-1])
    assert done.returncode == 0, f"{program.name} ended with status {done.returncode}:\n{done.stdout[-4000:]}"
    return done.stdout


@pytest.mark.deadline(300)
@pytest.mark.parametrize("name", UNIT)
def test_unit(name, build_folder, tmp_path):
    run(build_folder / "unit" / name, TESTS / "unit" / f"{name}.c", tmp_path)


@pytest.mark.parametrize("name", FUZZ)
def test_corpus(name, build_folder, tmp_path):
    corpus = TESTS / "fuzz" / "corpus" / name.removeprefix("fuzz_")
    seeds = [p for p in corpus.iterdir() if not p.name.startswith(".")]
    assert seeds, f"no seeds in {corpus}"
    said = run(build_folder / "replay" / name, TESTS / "fuzz" / f"{name}.c", tmp_path, corpus)
    assert re.search(rf"^{len(seeds)} inputs$", said, re.MULTILINE), f"not all of {len(seeds)} seeds were replayed"


def test_every_unit_source_is_a_test():
    """A file of another name would be compiled by nobody, or linked with nothing."""
    sources = [p.name for p in (TESTS / "unit").glob("*.c")]
    assert sources
    assert not [name for name in sources if not re.fullmatch(r"test_(base|vault|fs|cli)_[a-z0-9_]+\.c", name)]
