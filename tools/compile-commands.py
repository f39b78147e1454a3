# SPDX-License-Identifier: Apache-2.0
"""compile-commands.py FILE.c... -- COMPILER FLAGS...: a compilation database on standard output."""

import json
import os
import sys

split = sys.argv.index("--")
files, command = sys.argv[1:split], sys.argv[split + 1 :]
entries = [{"directory": os.getcwd(), "file": name, "arguments": [*command, "-c", name]} for name in files]
json.dump(entries, sys.stdout, indent=1)
print()
