"""The page of lm-eval says what the schema says."""

import runpy
from pathlib import Path

import pytest

pytest.importorskip("lm_eval", reason="lm_eval is not installed (extra: lm-eval)")

DOCS = Path(__file__).parents[2] / "docs"


def test_the_page_of_lm_eval_is_up_to_date() -> None:
    assert runpy.run_path(str(DOCS / "lm_eval.py"))["page"]() == (DOCS / "lm_eval.md").read_text()
