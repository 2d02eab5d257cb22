from pathlib import Path

import pytest

from tamnas.pipeline import runner
from tamnas.pipeline.deadline import set_deadline
from tests.helpers.tiny import quick_params, write_params


@pytest.fixture(autouse=True)
def no_deadline(monkeypatch):
    monkeypatch.setenv("TAMNAS_CHECKPOINTS", "")
    monkeypatch.delenv("DVC_ROOT", raising=False)
    yield
    set_deadline(None)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> Path:
    """A whole run of `quick_params`."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("TAMNAS_CHECKPOINTS", "")
        patch.delenv("DVC_ROOT", raising=False)
        write_params(folder, quick_params())
        assert runner.run() == []
    return folder
