"""Every code block of the documentation runs, and prints what the page says it prints."""

import subprocess
from pathlib import Path

import pytest

from tests.docs_pages import Page, blocks

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]


@pytest.mark.parametrize("file", PAGES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_page_does_what_it_shows(file, tmp_path):
    """A reader who copies a page's blocks, from the first to the last, gets what the page promises."""
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
def test_a_page_that_is_wrong_fails(text, tmp_path):
    """What the test of a page cannot run, or finds otherwise than shown, it reports."""
    with pytest.raises((AssertionError, ValueError, subprocess.CalledProcessError)):
        run(text, tmp_path)


def test_blocks_of_a_page_build_on_each_other(tmp_path):
    """A page is one story: names, files, variables and servers stay until its end."""
    run(
        "```python\n# web/site.py\ntext = 'hello'\n```\n"
        "```console\n$ export PLACE=web\n$ cd $PLACE\n```\n"
        "```console\n$ python -m http.server 5000\nServing on http://127.0.0.1:5000/\n"
        "$ curl --silent http://127.0.0.1:5000/site.py\n# web/site.py\ntext = ...\n```\n"
        "```python\nfrom web import site\nprint(site.text, text)\n```\n"
        "```output\nhello ...\n```",
        tmp_path,
    )


def test_every_page_is_found():
    """The list of pages is not empty by mistake."""
    assert {"README.md", "index.md"} <= {file.name for file in PAGES}
    assert [block.language for block in blocks(PAGES[0].read_text())]
