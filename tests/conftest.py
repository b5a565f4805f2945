"""What every test may ask for: a small model with a quality head, made by the project's own trainer."""

from pathlib import Path

import pytest
from hypothesis import settings

from prism_plugin.config import load
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.training.train import train

settings.register_profile("prism", deadline=None)  # a test never measures speed
settings.load_profile("prism")

SIZE = ("backbone.hidden_size=64", "backbone.num_layers=2", "backbone.num_heads=4")
TINY = (
    "task=sudoku4",
    "train.batch_size=64", "train.warmup=20", "train.ema=0.97", "train.eval_every=0", "train.eval_texts=64",
    "train.save_every=0", "train.threads=1", "train.bf16=false",
)  # fmt: skip


@pytest.fixture(scope="session")
def sudoku4_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a 4x4 Sudoku model with a quality head, as ``prism train mdm`` and ``prism train quality`` leave it."""
    folder = tmp_path_factory.mktemp("sudoku4")
    plain = train("mdm", load([*TINY, *SIZE, f"out={folder}/mdm", "train.steps=160", "train.lr=4e-3"]))
    return train(
        "quality",
        load([*TINY, f"model={plain}", f"out={folder}/quality", "train.steps=100", "train.lr=2e-3"]),
    )


@pytest.fixture(scope="session")
def sudoku4_model(sudoku4_folder: Path) -> PrismModel:
    """That model, one for all tests: a test that changes it loads ``sudoku4_folder`` for itself."""
    return PrismModel.from_pretrained(sudoku4_folder)
