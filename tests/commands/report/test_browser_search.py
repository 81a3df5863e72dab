"""Search of the documentation site in pages opened from a folder: ``docs/iframe-worker.js`` takes a Worker's place."""

import shutil
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "docs" / "iframe-worker.js"

pytestmark = pytest.mark.browser


@pytest.fixture
def address(tmp_path):
    shutil.copy(SCRIPT, tmp_path)
    (tmp_path / "double.js").write_text('addEventListener("message", (event) => postMessage(2 * event.data));')
    page = tmp_path / "page.html"
    page.write_text("""<!doctype html><head><script src="iframe-worker.js"></script></head><body><script>
        const worker = new Worker("double.js"), answers = [];
        worker.addEventListener("message", (event) => answers.push(event.data));
        for (const number of [1, 20, 300]) worker.postMessage(number);
    </script></body>""")
    return page.as_uri()


def test_a_worker_answers_in_a_page_from_a_folder(visit):
    page = visit()
    page.wait_for_function("answers.length === 3", timeout=5000)
    assert page.evaluate("answers") == [2, 40, 600]
