"""A few fixed examples for every reader; `python -m tests.faults.fuzz` goes on with new ones."""

import pytest

from tests.faults import fuzz


@pytest.mark.parametrize("name", fuzz.READERS)
def test_readers_raise_input_errors_only(name):
    assert fuzz.fuzz(name, 40) >= 20
