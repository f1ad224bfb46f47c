"""Every code block of the documentation runs and prints the output that the page shows."""

import subprocess
from pathlib import Path

import pytest

from tests.docs_pages import Page, blocks

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]


@pytest.mark.parametrize("file", PAGES, ids=lambda file: str(file.relative_to(ROOT)))
def test_the_blocks_of_a_page_run(file, tmp_path):
    """All blocks of a page, run in order, give the output that the page shows."""
    page = Page(file, tmp_path / "reader")

    page.run()


def run(text, tmp_path):
    """Run *text* as a page."""
    file = tmp_path / "page.md"
    file.write_text(text)
    Page(file, tmp_path / "reader").run()


@pytest.mark.parametrize(
    "text",
    [
        "```python\nassert 1 == 2\n```",
        "```python\nprint(1)\n```\n```output\n2\n```",
        "```pycon\n>>> 1 + 1\n3\n```",
        "```pycon\nno prompt\n```",
        "```console\n$ false\n```",
        "```console\n$ echo one\ntwo\n```",
        "```console\n$ false\nRunning on http://127.0.0.1:5000\n```",
        "```json\n{,}\n```",
        "```toml\na =\n```",
        "```sh\nif\n```",
        "```\nwhat is this?\n```",
        "- a list\n\n  ```python\n  assert 1 == 2\n  ```",
        "```{note}\n~~~python\nassert 1 == 2\n~~~\n```",
        "```{code-block} python\n:caption: app.py\n\nassert 1 == 2\n```",
        "<!-- run\nassert 1 == 2\n-->",
    ],
)
def test_a_wrong_page_fails(text, tmp_path):
    """A block that cannot run, or that gives another output than shown, is an error."""
    with pytest.raises((AssertionError, ValueError, subprocess.CalledProcessError)):
        run(text, tmp_path)


def test_the_blocks_of_a_page_share_their_state(tmp_path):
    """Python names, files, shell variables and servers stay until the end of the page."""
    run(
        "```python\n# web/site.py\ntext = 'hello'\n```\n"
        "```console\n$ export DIRECTORY=web\n$ cd $DIRECTORY\n```\n"
        "```console\n$ python -m http.server 5000\nServing on http://127.0.0.1:5000/\n"
        "$ curl -s http://127.0.0.1:5000/site.py\n# web/site.py\ntext = ...\n```\n"
        "```python\nfrom web import site\nprint(site.text, text)\n```\n"
        "```output\nhello ...\n```",
        tmp_path,
    )


def test_every_page_is_found():
    """The list of pages has the README and the index, with blocks."""
    assert {"README.md", "index.md"} <= {file.name for file in PAGES}
    assert [block.language for block in blocks(PAGES[0].read_text())]
