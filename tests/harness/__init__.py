# SPDX-License-Identifier: Apache-2.0
"""What every test stands on: deadlines, what is left behind, skips, programs of ours. tests/conftest.py loads it."""
