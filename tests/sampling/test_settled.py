"""Parts that ask whether a text has come to rest or is good enough: guard=converged, end=confident, order=commit,
score=verifier, method=go_back and policy, each against its rule."""

import itertools
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prism_plugin.errors import ConfigError
from prism_plugin.models.denoiser import View
from prism_plugin.sampling.config import SamplerConfig, resolve
from prism_plugin.sampling.drive import generate
from prism_plugin.sampling.methods import check
from prism_plugin.sampling.scores import resolved
from prism_plugin.sampling.state import State
from tests.sampling.test_rules import MASK, record, state_of
from tests.table_model import TableModel, chain


def sharp(power: float, length: int = 5) -> TableModel:
    """A chain whose probabilities are taken to a power: the larger, the surer."""
    return TableModel(chain(length, seed=2).probability.view([3] * length) ** power)


@pytest.mark.parametrize("passes", [1, 2])
def test_a_position_that_has_settled_is_left_alone_for_good(passes: int) -> None:
    """With a pass's likeliest tokens and probabilities restated from the table."""
    model, steps, moves = chain(6, seed=3), 24, 0.05
    seen: list[tuple[Tensor, Tensor]] = []

    def look(state: State, view: View | None) -> None:
        seen.append((state.tokens.clone(), state.settled.clone()))

    config = SamplerConfig(
        "random-remask", guard="converged", refill="wait", num_remask=2, steps=steps, fill_share=0.3, calm=passes,
        moves=moves,
    )  # fmt: skip
    generate(model, torch.full((6, 6), MASK), config, callback=look)
    calm, guess, prob = torch.zeros(6, 6), torch.full((6, 6), -1), torch.zeros(6, 6)
    settled = torch.zeros(6, 6, dtype=torch.bool)
    for (text, _), (after, found) in itertools.pairwise(seen):
        best, token = model.leave_one_out(text).float().max(dim=-1)
        calm = torch.where(token == guess, calm + 1, 0)
        still = (calm >= passes) & ((best - prob).abs() <= moves) & (token == text)
        guess, prob = token, best
        assert not (settled & (after != text)).any()  # what had settled before this step stays
        settled |= still
        assert torch.equal(found, settled)
    assert settled.any() and not settled.all()


def test_a_block_ends_when_its_likeliest_tokens_stay_and_are_sure() -> None:
    """As transformers' stopping rule for DiffusionGemma has it; the entropies are the table's."""
    config = SamplerConfig("prism-evidence", steps=40, fill_share=0.2, end="confident", entropy_below=0.05)
    sure, unsure = sharp(8.0), chain(5, seed=2)
    for model in (sure, unsure):
        result, texts = record(model, torch.full((1, 5), MASK), config)
        guesses = [model.leave_one_out(text).argmax(dim=-1) for text in texts[:-1]]
        entropies = [torch.special.entr(model.leave_one_out(text)).sum(-1).mean() for text in texts[:-1]]
        full = [bool((after != MASK).all()) for after in texts[1:]]
        ends = [
            step for step in range(1, len(guesses))
            if full[step] and torch.equal(guesses[step], guesses[step - 1]) and entropies[step] < 0.05
        ]  # fmt: skip
        assert int(result.forwards) == (ends[0] + 1 if ends else 40)
        assert bool(ends) == (model is sure)


@pytest.mark.parametrize("step", [0, 4, 8])
def test_all_masks_are_filled_once_their_gap_is_large(step: int) -> None:
    """The mean over masks of log p1 - log p2 against the bound of the third of the steps."""
    filled = []
    for power in (1.0, 2.0, 4.0, 6.0, 9.0):
        model = sharp(power)
        tokens = torch.tensor([[MASK, 0, MASK, MASK, MASK]])
        state = state_of(tokens.clone(), "prophet", step=step, steps=12)
        state.parts.order(View(model, model(tokens)), state, state.masked, torch.tensor([1]))
        top = model.leave_one_out(tokens)[0, [0, 2, 3, 4]].topk(2, dim=-1).values
        gap = (top[:, 0].log() - top[:, 1].log()).mean()
        everything = bool(gap >= {0: 7.5, 4: 5.0, 8: 2.5}[step])
        assert int(state.filled.sum()) == (4 if everything else 1)
        filled.append(everything)
    assert not all(filled) and any(filled)


def test_a_function_may_lie_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "judge_of_mine.py").write_text("def all_pass(tokens):\n    return tokens[:, 0] * 0.0 + 1\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert resolved("judge_of_mine:all_pass", "score.verifier")(torch.ones(2, 3)).tolist() == [1, 1]
    assert sys.path == before
    sys.modules.pop("judge_of_mine")


def even(tokens: Tensor) -> Tensor:
    return (tokens.sum(dim=1) % 2 == 0).float()


def test_a_text_that_passes_is_left_alone_and_the_unlikely_tokens_of_others_go() -> None:
    model, rows, steps = chain(5, seed=1), 200, 30
    config = SamplerConfig(
        "random", score="verifier", verifier=f"{__name__}:even", select="below", tau=0.5, guard="share", steps=steps,
        fill_share=0.2, remask_share=0.4,
    )  # fmt: skip
    result, texts = record(model, torch.full((rows, 5), MASK), config)
    for before, after in itertools.pairwise(texts):
        whole = (before != MASK).all(dim=1)
        passed = whole & (even(before) == 1)
        assert torch.equal(after[passed], before[passed])
    likelihood = model.leave_one_out(texts[8]).gather(-1, texts[8].clamp(max=2)[..., None])[..., 0]
    failing = (texts[8] != MASK).all(dim=1) & (even(texts[8]) == 0)
    gone = (texts[9] == MASK)[failing]
    expected = (likelihood[failing] < 0.5).sum(dim=1).clamp(max=2)
    assert failing.any() and torch.equal(gone.sum(dim=1), expected)
    first = texts[int(0.2 * steps)]
    assert even(result.tokens).mean() > even(first).mean() + 0.1
    assert result.settings["verifier"] == f"{__name__}:even"
    own = SamplerConfig(**{**config.settings(), "verifier": even})
    assert torch.equal(generate(model, torch.full((rows, 5), MASK), own).tokens, result.tokens)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "sampler.score.verifier is not set"),
        ({"verifier": "nowhere:at_all"}, "sampler.score.verifier = nowhere:at_all: no such function"),
        ({"verifier": even, "select": "fixed"}, "select = fixed would take all the same: choose select=below"),
    ],
)
def test_a_verifier_that_cannot_be_used_is_refused(changes: dict, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check(resolve(SamplerConfig(**{"name": "random", "score": "verifier", "select": "below", **changes})), True,
              frozenset())  # fmt: skip


def test_a_block_that_has_stalled_takes_the_text_back() -> None:
    """Temperature 0, blocks of two, restated from the table: when it goes back, what is masked, what is filled."""
    model, stalled, keep, bound = chain(8, seed=4), 0.75, 0.8, 0.9
    tokens = torch.full((9, 8), MASK)
    tokens[:, 0] = torch.arange(9) % 3
    tokens[:, 4] = torch.arange(9) // 3
    config = SamplerConfig("rdd", block_length=2, steps=40, stalled_below=stalled, keep_from=keep, fill_bound=bound)
    result, texts = record(model, tokens, config)
    free = tokens == MASK
    block_of = torch.stack([_blocks(row) for row in free])
    block, times, written = torch.zeros(9).long(), torch.zeros(9, 8), torch.ones(9, 8)
    returns = 0
    for before, after in itertools.pairwise(texts):
        best, token = model.leave_one_out(before).float().max(dim=-1)
        for row in range(9):
            expected = before[row].clone()
            here, earlier = block_of[row] == block[row], block_of[row] == block[row] - 1
            masks = here & (before[row] == MASK)
            if not masks.any():
                assert torch.equal(after[row], before[row])  # this row has ended
                continue
            out = (here | earlier) & free[row] & (before[row] != MASK) & (written[row] < keep) & (times[row] < 1)
            if block[row] > 0 and float(best[row][masks].max()) < stalled and (out & earlier).any():
                expected[out] = MASK
                times[row][out] += 1
                block[row] -= 1
                returns += 1
            else:
                fill = masks & (best[row] >= bound)
                if not fill.any():
                    fill = masks & (best[row] == best[row][masks].max())
                expected[fill], written[row][fill] = token[row][fill], best[row][fill]
                while (
                    block[row] < block_of[row].max() + 1
                    and not ((block_of[row] == block[row]) & (expected == MASK)).any()
                ):
                    block[row] += 1
            assert torch.equal(after[row], expected)
    assert returns > 3 and not (result.tokens == MASK).any()
    assert int(result.remasked.sum()) == int(times.sum()) and result.remasked.max() <= 8
    with pytest.raises(ConfigError, match="may go back for ever: choose max_remasks=1"):
        generate(model, tokens, SamplerConfig("rdd", max_remasks=0))


def _blocks(free: Tensor) -> Tensor:
    """Blocks of two positions from the first that is free; a stretch without any is none."""
    first = int(free.long().argmax())
    raw = (torch.arange(len(free)) - first).div(2, rounding_mode="floor")
    kept = sorted({int(block) for block in raw[free]})
    return torch.tensor([kept.index(int(b)) if f else -1 for b, f in zip(raw, free, strict=True)])


def surest(confidence: Tensor, masked: Tensor, progress: Tensor) -> Tensor:
    """Unmasks above .8 at first and above .6 later; of visible tokens those below .5 go."""
    bound = torch.where(progress < 0.5, 0.8, 0.6)[:, None]
    return torch.where(masked, (confidence > bound).long(), 2 * (confidence < 0.5).long())


def test_a_policy_says_of_every_position_what_happens() -> None:
    model, steps = chain(6, seed=3), 8
    config = SamplerConfig("random", method="policy", policy=f"{__name__}:surest", steps=steps, temperature=0.0)
    result, texts = record(model, torch.full((1, 6), MASK), config)
    gone = 0
    for step, (before, after) in enumerate(itertools.pairwise(texts)):
        best, token = model.leave_one_out(before).float().max(dim=-1)
        masked = before == MASK
        said = surest(best, masked, torch.tensor([step / steps]))
        last = step == steps - 1
        fill = masked & ((said == 1) | last)
        if masked.any() and not fill.any():
            fill = masked & (best == best[masked].max())
        out = ~masked & (said == 2) & (not last)
        gone += int(out.sum())
        assert torch.equal(after, torch.where(fill, token, before.masked_fill(out, MASK)))
    assert gone and int(result.remasked) == gone and int(result.forwards) == steps
    own = SamplerConfig(**{**config.settings(), "policy": surest, "end": "filled"})
    assert int(generate(model, torch.full((1, 6), MASK), own).forwards) <= steps
    for wrong, said in (
        ({"policy": None}, "method.policy is not set"),
        ({"policy": "a:b"}, "policy = a:b: no such func"),
    ):
        with pytest.raises(ConfigError, match=said):
            resolve(SamplerConfig(**{**config.settings(), **wrong}))
    shapeless = SamplerConfig(**{**config.settings(), "policy": lambda confidence, masked, progress: progress})
    with pytest.raises(ConfigError, match=r"policy gave \(1,\): wanted \(1, 6\)"):
        generate(model, torch.full((1, 6), MASK), shapeless)
