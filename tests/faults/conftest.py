import pytest

from tamnas.pipeline.deadline import set_deadline
from tamnas.report.figures import style


@pytest.fixture(autouse=True)
def no_deadline(monkeypatch):
    monkeypatch.setenv("TAMNAS_CHECKPOINTS", "")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    yield
    set_deadline(None)


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    """Figures are drawn and not written, which is the slow part: test_report.py compares their bytes."""
    monkeypatch.setattr(style, "_render", lambda figure, form: b"")
