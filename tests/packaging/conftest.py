"""A copy of the sources, so that a build never touches the checkout."""

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LEFT_OUT = shutil.ignore_patterns(".*", "build", "dist", "tests", "*.so", "__pycache__", "*.egg-info", "outputs")


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    copy = tmp_path / "sources"
    shutil.copytree(ROOT, copy, symlinks=True, ignore=LEFT_OUT)
    return copy
