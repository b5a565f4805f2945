"""``benchmarks/sharpness.py`` measures what it says: by scores whose distance from the posterior is known."""

import json
from pathlib import Path

import pytest
import torch

from benchmarks import sharpness
from prism_plugin.models.backbone import BackboneConfig
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.quality.head import attach_head


def small_model() -> PrismModel:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "cond_size": 8}
    model = PrismModel(BackboneConfig(vocab_size=5, mask_id=0, length=16, grid=2, **shape), "sudoku4")
    torch.nn.init.normal_(model.backbone.unembed.weight)
    attach_head(model, "linear")
    return model.eval()


def test_a_score_is_held_against_the_posterior_with_each_token_hidden_alone() -> None:
    model = small_model()
    states = sharpness.sampler_states(model, 18, 8)
    assert [int(state.step[0]) for state in states] == [2, 4, 6, 2, 4, 6]
    assert torch.cat([state.request for state in states]).tolist() == list(range(18))
    judged = sharpness.Judged.of(model, states)
    state, text = states[0], states[0].tokens
    place = state.open[0].nonzero()[1, 0]
    hidden = text[:1].clone()
    hidden[0, place] = model.mask_id
    logits = model.project(model(hidden), place[None])[0][0].detach().log_softmax(0)
    assert judged.exact[1] == pytest.approx(float(logits[text[0, place]]), abs=1e-4)
    assert judged.entropy[1] == pytest.approx(float(-(logits.exp() * logits)[1:].sum()), abs=1e-4)
    assert judged.written[1] == pytest.approx(float(state.written[0, place].log()), abs=1e-6)
    same = sharpness.measure(judged, judged.exact, again=5)
    assert same["corr_logit"] == pytest.approx(1) and same["kl"] == pytest.approx(0, abs=1e-6) and same["off"] == 0
    assert same["recall_03"] in (1, None) and same["precision_03"] in (1, None)


def test_recall_and_precision_of_low_evidence() -> None:
    exact = torch.tensor([0.1, 0.2, 0.5, 0.04]).double().log()
    said = torch.tensor([0.2, 0.5, 0.2, 0.01]).double().log()
    found = sharpness.figures(said, exact, torch.zeros(4).double())
    assert found["recall_03"] == pytest.approx(2 / 3) and found["precision_03"] == pytest.approx(2 / 3)
    assert found["recall_01"] == 1 and found["precision_01"] == 1
    assert sharpness.figures(said, said * 0, said)["recall_03"] is None  # there is nothing to find


def test_recall_at_a_precision() -> None:
    evidence, low = torch.tensor([0.1, 0.5, 0.2, 0.4, 0.3]).log(), torch.tensor([True, False, False, True, True])
    found = sharpness.at_precision(evidence, low)  # in order: right, wrong, right, right, wrong
    assert found == {"recall_at_06": 1.0, "says_at_06": pytest.approx(0.5)}
    assert sharpness.at_precision(evidence, low, 0.75) == {"recall_at_06": 1.0, "says_at_06": pytest.approx(0.4)}
    assert sharpness.at_precision(evidence, low, 0.9) == {
        "recall_at_06": pytest.approx(1 / 3),
        "says_at_06": pytest.approx(0.1),
    }
    assert sharpness.at_precision(evidence, evidence > 0)["recall_at_06"] is None  # there is nothing to find


def test_the_page_of_a_tiny_model(tmp_path: Path) -> None:
    small_model().save_pretrained(tmp_path / "tiny")
    sharpness.main(["--heads", str(tmp_path / "tiny"), "--quick", "--steps", "8", "--out", str(tmp_path)])
    rows = json.loads((tmp_path / "sharpness.json").read_text())["rows"]
    assert {row["states"] for row in rows} == set(sharpness.STATES)
    keys = {"head", "model", "states", *sharpness.FIGURES, "by_entropy", "reliability", "passes"}
    assert all(keys <= set(row) for row in rows)
    by_groups = [row["kl"] for row in rows if row["head"].startswith("hidden") and row["states"] == "sampler"]
    assert by_groups[-1] < by_groups[0]  # the more groups, the nearer
    assert "## By entropy" in (tmp_path / "sharpness.md").read_text() and (tmp_path / "sharpness.png").exists()
