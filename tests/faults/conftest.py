import pytest

from tamnas.pipeline.deadline import set_deadline
from tests.helpers.small_results import leave_unwritten


@pytest.fixture(autouse=True)
def no_deadline(monkeypatch):
    monkeypatch.setenv("TAMNAS_CHECKPOINTS", "")
    yield
    set_deadline(None)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """test_report.py compares the bytes of figures."""
    leave_unwritten(monkeypatch)
