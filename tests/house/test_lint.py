# SPDX-License-Identifier: Apache-2.0
"""tools/lint.sh finds what it says it finds: a small tree with one offence each."""

import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SPDX = "/* SPDX-License-Identifier: Apache-2.0 */\n"


@pytest.fixture
def lint(tmp_path):
    for folder in ("base", "vault", "fs", "cli", "tests", "tools", "examples", ".ci"):
        (tmp_path / folder).mkdir()
    shutil.copy(ROOT / "tools" / "lint.sh", tmp_path / "tools")
    (tmp_path / "Makefile").write_text("# SPDX-License-Identifier: Apache-2.0\n")

    def run(files):
        for name, text in files.items():
            (tmp_path / name).write_text(text)
        done = subprocess.run([tmp_path / "tools" / "lint.sh"], capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    return run


def test_a_clean_tree_passes(lint):
    status, said = lint(
        {
            "base/json.c": SPDX + '#include "base/json.h"\n#include <cjson/cJSON.h>\n/* never popen(3) */\n',
            "base/json.h": SPDX + "int json_system(void);\n",
            "base/http.c": SPDX + "#include <curl/curl.h>\n",
            "base/yaml.c": SPDX + "#include <yaml.h>\n",
            "vault/a.c": SPDX + '#include "base/json.h"\n',
            "fs/a.c": SPDX + '#include "vault/a.h"\n#include "base/http.h"\n#include <fuse_lowlevel.h>\n',
            "cli/a.c": SPDX + '#include "fs/daemon.h"\nint f(void)\n{\n\treturn !getenv("VAULT_TOKEN");\n}\n',
            "tests/a.py": "# SPDX-License-Identifier: Apache-2.0\n",
        }
    )
    assert (status, said) == (0, "")


@pytest.mark.parametrize(
    "name, text",
    [
        ("base/x.c", '#include "vault/secret.h"\n'),
        ("base/x.h", '#include "fs/access.h"\n'),
        ("vault/x.c", '#include "fs/access.h"\n'),
        ("fs/x.c", '#include "cli/cli.h"\n'),
        ("cli/x.c", '#include "tests/unit/check.h"\n'),
        ("cli/x.c", '#include "cli.h"\n'),
        ("vault/x.c", "#include <curl/curl.h>\n"),
        ("base/json2.c", "#include <cjson/cJSON.h>\n"),
        ("base/json2.c", "#  include <cJSON.h>\n"),
        ("base/config.c", "#include <yaml.h>\n"),
        ("vault/x.c", "#include <fuse_lowlevel.h>\n"),
        ("cli/x.c", "#include <linux/fuse.h>\n"),
        ("fs/x.c", "struct http_client *c;\n"),
        ("cli/x.c", 'int r = system("true");\n'),
        ("cli/x.c", 'FILE *f = popen ("true", "r");\n'),
        ("fs/x.c", "void f(char *p) { strcpy(p, q); }\n"),
        ("tests/x.c", 'int r = system("true");\n'),
        ("base/x.c", 'void f(char *p) { sprintf(p, "x"); }\n'),
        ("cli/x.c", 'char *t = getenv("VAULT_TOKEN");\n'),
        ("base/x.c", 'char *f(void) { return getenv("BAO_TOKEN"); }\n'),
        ("vault/x.c", 'int r = use(getenv("VAULT_TOKEN"));\n'),
    ],
)
def test_an_offence_is_named_with_its_line(lint, name, text):
    status, said = lint({name: SPDX + "/* two\n * lines */\n" + text})
    assert status == 1
    assert said.startswith(f"{name}:4: ")
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("name", ["base/x.c", "fs/x.h", "tests/x.py", "tools/x.sh", ".ci/run", "tests/rules.mk"])
def test_a_file_without_its_licence_line(lint, name):
    status, said = lint({name: "#!/bin/true\n\n"})
    assert status == 1
    assert said.startswith(f"{name}:1: ")


def test_long_files(lint):
    status, said = lint({"base/x.c": SPDX + "int x;\n" * 601})
    assert status == 0
    assert said == "note: base/x.c has 602 lines; above 600 it wants to be two\n"
    status, said = lint({"base/x.c": SPDX + "int x;\n" * 900})
    assert status == 1
    assert said == "base/x.c:901: more than 900 lines: make it two\n"
