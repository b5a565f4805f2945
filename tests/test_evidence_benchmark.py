"""benchmarks/evidence.py: shares of a gain, and the variants of the rule that it tries."""

from itertools import pairwise
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from benchmarks import evidence
from prism_plugin.files import load_json, save_json
from prism_plugin.models.backbone import BackboneConfig
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.quality.head import attach_head, head_hash
from prism_plugin.sampling.config import SamplerConfig, resolve
from prism_plugin.sampling.drive import generate
from prism_plugin.sampling.parts import acts, bind, patterns
from prism_plugin.sampling.state import State


def test_a_share_of_a_gain_and_its_interval() -> None:
    assert evidence.share((2.6, 0.0), (2.3, 0.0), (2.2, 0.0)) == (pytest.approx(0.75), 0)
    _, half = evidence.share((2.6, 0.03), (2.3, 0.04), (2.2, 0.0))
    assert half == pytest.approx(((0.25 * 0.03) ** 2 + 0.04**2) ** 0.5 / 0.4)
    drawn = torch.randn(3, 100_000, generator=torch.Generator().manual_seed(0)) * torch.tensor([[0.03], [0.04], [0.0]])
    plain, run, exact = drawn + torch.tensor([[2.6], [2.3], [2.2]])
    assert float(((plain - run) / (plain - exact)).std()) == pytest.approx(half, rel=0.05)


def small_model() -> PrismModel:
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_layers": 2, "num_heads": 2, "cond_size": 8}
    model = PrismModel(BackboneConfig(vocab_size=5, mask_id=0, length=16, grid=2, **shape), "sudoku4")
    torch.nn.init.normal_(model.backbone.unembed.weight)
    return model.eval()


@pytest.fixture(autouse=True)
def variants(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts that the benchmark tries, for as long as a test runs."""
    monkeypatch.setitem(patterns._known, "apart", evidence.apart)
    monkeypatch.setitem(acts._known, "draw_again", evidence.draw_again)


def test_of_doubted_neighbours_only_the_lowest_is_doubted() -> None:
    config = resolve(SamplerConfig("cavity-evidence", pattern="apart", pattern_size=3))
    state = State(
        torch.ones(1, 6, dtype=torch.long), torch.ones(1, 6, dtype=torch.bool), 0, config, torch.zeros(1).long()
    )
    scores = torch.tensor([[0.2, 0.1, 0.3, 0.5, 0.4, 0.45]])
    found = bind(config).pattern(scores, state)
    assert torch.equal(found.isfinite(), torch.tensor([[False, True, False, False, True, False]]))
    assert torch.equal(found[found.isfinite()], scores[found.isfinite()])


def test_a_doubted_token_is_drawn_from_its_posterior_and_no_mask_comes_back() -> None:
    model = small_model()
    attach_head(model, "two_stream")
    start = torch.zeros(4, 16, dtype=torch.long)
    seen: list[torch.Tensor] = []
    config = SamplerConfig("prism-evidence", act="draw_again", steps=8, tau=1.0)
    result = generate(model, start, config, callback=lambda state, view: seen.append(state.tokens == model.mask_id))
    assert bool((result.tokens != model.mask_id).all())
    assert int(result.overwritten.sum()) > 0 and torch.equal(result.overwritten, result.remasked)
    assert all(bool((after <= before).all()) for before, after in pairwise(seen))


def test_runs_of_heads_that_are_no_longer_asked_for_are_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evidence, "Judge", Mock())
    monkeypatch.setattr(evidence, "look", lambda *given: {"bits": [1.7, 1.9]})
    now, file = head_hash(PrismModel.from_pretrained("code").head), tmp_path / "code.json"  # type: ignore[arg-type]
    save_json(file, {"runs": [{"head_sha256": key} for key in (now, "", "another")]})
    kept = evidence.Bench(["code"], 2, False, file).runs
    assert [run["head_sha256"] for run in kept] == [now, ""]


@pytest.mark.parametrize(
    "page",
    sorted((Path(__file__).parents[1] / "docs/results").glob("evidence*/*.json")),
    ids=lambda p: f"{p.parent.name}/{p.stem}",
)
def test_pages_are_what_their_files_make_and_files_hold_what_made_them(page: Path) -> None:
    result = load_json(page)
    made = evidence.tried if "tuned_logits" in result else evidence.markdown
    assert page.with_suffix(".md").read_text(encoding="utf-8") == made(result)
    heads = {head["sha256"] for head in result["heads"].values()}
    assert {run["head_sha256"] for run in result["runs"]} == {"", *heads}


def test_the_page_of_the_variants_has_a_line_for_each() -> None:
    run = {"forward": "f32", **dict.fromkeys(("bits", "entropy", "sound", "cost", "remasks", "wasted"), (1.0, 0.1))}
    figures = {"corr_logit": 0.5, "corr_log_evidence": 0.25, "recall_03": None, "precision_03": 0.1}
    tuned = {"before": figures, "after": figures, "kl_at_masks": 0.1, "steps": 5, "texts_a_step": 2}
    heads, truth = {"code": {"sha256": "abc"}}, {"bits": (1.7, 0.1), "entropy": (3.8, 0.1)}
    page = evidence.tried({
        "model": "code", "command": "c", "texts": 4, "date": "d", "machine": "m", "heads": heads, "truth": truth,
        "found": {"one a step": run}, "tuned_logits": tuned,
    })  # fmt: skip
    assert "| one a step | 1.00 ± 0.10 | 1.00 | 100.0 ± 10.0 | 1.0 | 1.0 | 1.0 | f32 |" in page
    assert "| after | 0.50 | 0.25 | - | 0.10 |" in page
