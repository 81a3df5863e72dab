"""The notebook of the examples runs from its first cell to its last, and shows pictures."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

import attention_guidance

NOTEBOOK = Path(__file__).parents[1] / "examples" / "first-steps.ipynb"


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    folder = tmp_path_factory.mktemp("notebook")
    source = Path(attention_guidance.__file__).parents[1]
    paths = os.pathsep.join([str(source), *(str(Path(path).resolve()) for path in _python_path())])
    with pytest.MonkeyPatch.context() as patch:
        # The kernel's process has another working directory, and must not read or write the user's profile.
        patch.setenv("PYTHONPATH", paths)
        for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
            patch.setenv(name, str(folder / name.lower()))
        notebook = nbformat.read(NOTEBOOK, as_version=4)
        nbformat.validate(notebook)
        client = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}})
        client.execute()  # raises the error of a cell
    return notebook, folder


def _python_path() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def test_the_notebook_runs_and_shows_looks(executed):
    notebook, folder = executed
    outputs = {cell["id"]: cell["outputs"] for cell in notebook.cells if cell["cell_type"] == "code"}
    for name in ("look", "masked"):
        (shown,) = outputs[name]
        assert re.match(r"<iframe srcdoc=.*Layer \d, head \d", shown["data"]["text/html"], re.DOTALL)
        assert shown["data"]["text/plain"].startswith("<Look of BertForMaskedLM: the ")
    assert outputs["training"][0]["text"].startswith("6 of 8 heads of BertForMaskedLM guided")
    for name in ("look.html", "look.svg"):
        assert (folder / name).stat().st_size > 1000


def test_the_notebook_is_kept_without_outputs():
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert re.findall(r'"(outputs|execution_count)": (?!\[\]|null)', text) == []
    assert '"outputs": []' in text
