"""A few fixed examples for every reader; `python tests/fuzz.py` goes on with new ones."""

import fuzz
import pytest


@pytest.mark.parametrize("name", fuzz.READERS)
def test_readers_raise_input_errors_only(name):
    assert fuzz.fuzz(name, 40) >= 20
