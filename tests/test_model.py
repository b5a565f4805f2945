"""The small trained model: it knows Sudoku, and its head knows which tokens are wrong."""

import torch

from prism_plugin import enable
from prism_plugin.model import PrismModel
from prism_plugin.quality.calibration import auroc
from prism_plugin.tasks import HELD_OUT, get_task


def test_the_trained_model_solves_puzzles_and_its_head_finds_the_wrong_cell(sudoku4_model: PrismModel) -> None:
    task = get_task("sudoku4")
    prism = enable(sudoku4_model)
    prompts = task.prompts(40, clues=8)
    solved = task.accuracy(prism.generate(prompts, "confidence", steps=8).tokens, prompts)[0]
    assert solved.float().mean() > 0.5
    texts = task.texts(0, 64, HELD_OUT)
    wrong = torch.zeros_like(texts, dtype=torch.bool)
    wrong[torch.arange(64), torch.arange(64) % 16] = True
    spoilt = torch.where(wrong, texts % 4 + 1, texts)
    assert auroc(prism.score(spoilt).flatten(), ~wrong.flatten()) > 0.8
