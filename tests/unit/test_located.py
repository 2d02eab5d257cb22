"""Where a `path` of the parameters leads."""

import numpy as np
import pytest

from tamnas.config.images import DataParams
from tamnas.files import located
from tests.helpers import archives
from tests.helpers.preparing import prepared


@pytest.mark.parametrize("path", ["~/sets/own.npz", "$HOME/sets/own.npz", "${HOME}/$KIND/own.npz"])
def test_home_and_variables(tmp_path, out, monkeypatch, path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("KIND", "sets")
    (tmp_path / "sets").mkdir()
    arrays = archives.npz(tmp_path / "sets" / "own.npz")
    _, splits = prepared(DataParams(source="npz", path=path, size=8, classes=3, validation=12), out)
    np.testing.assert_array_equal(splits["test"][0], arrays["x_test"])


def test_an_unknown_variable_stays_to_be_seen(monkeypatch):
    monkeypatch.delenv("NO_SUCH", raising=False)
    assert str(located("$NO_SUCH/sets")) == "$NO_SUCH/sets"


def test_relative_paths_are_here_or_in_the_repository(tmp_path, monkeypatch):
    """A workspace of `dvc exp run --temp`: what it has itself comes first, an experiment may have changed it."""
    repository, workspace = tmp_path / "repository", tmp_path / "workspace"
    for folder in (repository / "data" / "both", repository / "data" / "raw", workspace / "data" / "both"):
        folder.mkdir(parents=True)
    monkeypatch.chdir(workspace)
    monkeypatch.setenv("DVC_ROOT", str(repository))
    assert located("data/both").resolve() == workspace / "data" / "both"
    assert located("data/raw") == repository / "data" / "raw"
    assert located("data/new") == repository / "data" / "new"
    assert located(str(tmp_path / "absolute")) == tmp_path / "absolute"
