"""Loading without the remarks of `transformers`."""

from __future__ import annotations

import pytest
from transformers.utils import logging

from wellread.nn.quiet import quietly


def test_bars_and_remarks_are_off_inside_and_as_before_after_it():
    before = logging.get_verbosity()
    assert logging.is_progress_bar_enabled()

    def fails() -> None:
        with quietly():
            assert not logging.is_progress_bar_enabled()
            assert logging.get_verbosity() == logging.ERROR
            raise RuntimeError("an error is told")

    with pytest.raises(RuntimeError, match="an error is told"):
        fails()
    assert logging.is_progress_bar_enabled()
    assert logging.get_verbosity() == before
