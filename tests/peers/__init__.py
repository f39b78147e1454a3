# SPDX-License-Identifier: Apache-2.0
"""Real servers to test against. Each binds to loopback on a free port, lives in a folder of its own, is ready when
its constructor returns, dies with the test process, and leaves nothing behind once closed."""
