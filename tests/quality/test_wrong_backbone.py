"""What heads learn of a backbone that is wrong: by labels of the truth, and by posteriors of the backbone itself."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from benchmarks import wrong_backbone
from benchmarks.theory import markov_chain, spoiled
from prism_plugin.models.denoiser import Denoiser, Output
from prism_plugin.quality import cavity
from prism_plugin.quality.loss import QualityConfig
from prism_plugin.training.objectives import QualityObjective


class Said(nn.Module):
    """A head that says the backbone's own quality, and one number more."""

    reads_text = True

    def __init__(self) -> None:
        super().__init__()
        self.more = nn.Parameter(torch.zeros(1, 4))

    def judge(self, denoiser: Denoiser, output: Output, tokens: Tensor, padding: Tensor | None = None) -> Tensor:
        own = wrong_backbone.own_quality(denoiser.posterior, tokens, denoiser.mask_id)
        return own.logit(eps=1e-9).float() + self.more


def test_the_backbones_own_quality_is_the_cavity_with_each_token_alone() -> None:
    data = markov_chain(4)
    model = wrong_backbone.Backbone(data, spoiled(data))
    y = data.texts[:20].clone()
    y[:, 2] = data.symbols
    found = cavity.posterior(model, y, y != data.symbols, 0)
    own = wrong_backbone.own_quality(model.posterior, y, data.symbols)
    assert torch.allclose(found[y != data.symbols], own.float()[y != data.symbols], atol=1e-6)


@pytest.mark.parametrize(("labels", "level"), [("posterior", 1e-6), ("truth", None)])
def test_at_k_1_labels_of_the_posterior_are_minimised_by_the_backbones_own_quality(labels: str, level: float) -> None:
    """There the gradient is 0, text by text; with labels of the truth it is not, since the backbone is wrong."""
    data = markov_chain(4)
    model = wrong_backbone.Backbone(data, spoiled(data))
    model.head = Said()
    built = QualityObjective(model, 0, QualityConfig(k=1, labels=labels, mdm_weight=0)).train()
    built(data.texts, torch.arange(len(data.texts)))["loss"].backward()
    slope = float(model.head.more.grad.abs().max())
    assert slope < level if level else slope > 1e-3


def test_the_page_says_where_each_recipe_ends(tmp_path: Path) -> None:
    wrong_backbone.main(["--seeds", "0", "--steps", "20", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "wrong_backbone.json").read_text())["rows"]
    assert {row["backbone"] for row in rows} == {"wrong", "right"} and len({row["recipe"] for row in rows}) == 8
    assert all(row["between"] == pytest.approx(0, abs=1e-9) for row in rows if row["backbone"] == "right")
    page = (tmp_path / "wrong_backbone.md").read_text()
    assert "## A backbone that is wrong" in page and "| cavity, then prism, 1,280 labels |" in page
