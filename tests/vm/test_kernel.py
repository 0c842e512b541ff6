"""The machine that this tier runs on."""

from __future__ import annotations

import os


def test_the_kernel_is_debians() -> None:
    assert os.uname().release.startswith("6.1.")
