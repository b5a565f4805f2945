"""The page of methods says what the code does."""

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_of_methods_is_up_to_date() -> None:
    assert runpy.run_path(str(DOCS / "methods.py"))["table"]() == (DOCS / "methods.md").read_text()
