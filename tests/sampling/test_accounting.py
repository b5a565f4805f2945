"""A result says what it cost and what revision did; a text may end early, and a part of it may be kept."""

import pytest
import torch

from prism_plugin.errors import ConfigError
from prism_plugin.models.backbone import BackboneConfig
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.quality.head import attach_head
from prism_plugin.sampling.config import SamplerConfig
from prism_plugin.sampling.drive import generate, stream
from prism_plugin.sampling.methods import Parts
from prism_plugin.sampling.simulate import SYMBOLS, Stub

from ..table_model import chain


def test_right_and_wrong_revisions_are_told_apart_by_the_truth() -> None:
    model, truth = chain(), torch.randint(3, (64, 5), generator=torch.Generator().manual_seed(0))
    tokens = torch.full_like(truth, model.mask_id)
    frames: list[torch.Tensor] = []
    former = []

    def keep(state, view) -> None:
        frames.append(state.tokens.clone())
        former.append(state.former.clone())

    config = SamplerConfig("prism", steps=12, num_remask=2, guard="none", refill="wait")
    result = generate(model, tokens, config, truth=truth, callback=keep)
    better = worse = torch.zeros(64, dtype=torch.long)
    for waiting, after in zip(former, frames[1:], strict=False):
        redone = (waiting >= 0) & (after != model.mask_id)
        better = better + (redone & (waiting != truth) & (after == truth)).sum(1)
        worse = worse + (redone & (waiting == truth) & (after != truth)).sum(1)
    assert result.wrong_to_right.sum() > 0 and result.right_to_wrong.sum() > 0
    # a token that is filled and doubted again in one step is seen by the state alone
    assert (result.wrong_to_right >= better).all() and (result.right_to_wrong >= worse).all()
    assert (result.wasted + result.wrong_to_right + result.right_to_wrong <= result.remasked).all()
    assert generate(model, tokens, config).wrong_to_right is None


def test_overwritten_tokens_are_counted_apart() -> None:
    model = chain()
    tokens = torch.randint(3, (16, 5), generator=torch.Generator().manual_seed(0))
    over = generate(
        model, tokens, SamplerConfig("t2t", steps=20, tau=0.9), editable=torch.ones_like(tokens, dtype=torch.bool)
    )
    assert over.overwritten.sum() > 0 and torch.equal(over.overwritten, over.remasked)
    assert not generate(model, tokens, SamplerConfig("prism", steps=20)).overwritten.any()


def test_cost_is_forwards_where_every_pass_goes_over_the_whole_text() -> None:
    result = generate(Stub(24), torch.full((3, 24), SYMBOLS), SamplerConfig("prism", steps=8))
    assert torch.equal(result.cost, result.forwards.double())


@pytest.mark.parametrize(
    ("method", "last", "passes"),
    [("revise_and_fill", 0, 24), ("fill_and_revise", 0, 24), ("revise_then_loop", 0, 24), ("fill_and_judge", 0, 9),
     ("two_pass", 1, 24)],
)  # fmt: skip
def test_a_head_is_asked_and_counted_only_where_a_row_may_revise(
    method: str, last: int, passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape, asked = BackboneConfig(vocab_size=11, mask_id=0, length=64, hidden_size=16, num_layers=1, num_heads=2), []
    model = PrismModel(shape, "none").eval()
    attach_head(model).share = 0.5
    judge = PrismModel.judge
    monkeypatch.setattr(PrismModel, "judge", lambda *given: asked.append(1) or judge(*given))
    tokens = torch.zeros(3, 24, dtype=torch.long)
    tokens[1, 5:9] = 3
    window = {"every": 2, "step_on": 1}
    config = SamplerConfig("prism", method=method, steps=24, block_length=8, num_remask=1, **window)
    seldom = generate(model, tokens, config)
    due = [0, 1, 0, 1, 0, 1, 0, last] * 3  # every second step of a block; not the last where masks would stay
    assert len(asked) == sum(due)
    assert torch.equal(seldom.cost, seldom.forwards + 0.5 * sum(due)) and seldom.remasked.all()
    monkeypatch.setattr(Parts, "idle", lambda self, refilled=False: False)
    always = generate(model, tokens, config)
    assert torch.equal(always.tokens, seldom.tokens) and len(asked) == sum(due) + passes


def test_a_result_names_its_head_versions_and_numerics() -> None:
    first, second = (
        generate(chain(), torch.full((1, 5), 3), SamplerConfig("prism", steps=5)).settings for _ in range(2)
    )
    assert first == second and first["versions"]["torch"] == torch.__version__ and first["numerics"] == "exact"
    assert first["head_sha256"] is not None


@pytest.mark.parametrize("block_length", [4, 8])
def test_a_text_ends_with_the_block_that_holds_a_stop_sequence(block_length: int) -> None:
    tokens = torch.full((64, 24), SYMBOLS)
    tokens[:, :2] = 5  # a stop in the prompt does not count
    stop, pad = [[5], [1, 2]], 0
    config = SamplerConfig("random", steps=22, block_length=block_length)
    free = generate(Stub(24), tokens, config).tokens
    result = generate(Stub(24), tokens, config, stop=stop, pad_id=pad)
    ended = 0
    for row in range(64):
        kept, full = result.tokens[row].tolist(), free[row].tolist()
        ends = [i for i in range(2, 24) if full[i] == 5 or (i > 2 and full[i - 1 : i + 1] == [1, 2])]
        if not ends:
            assert kept == full
            continue
        ended += 1
        assert kept[: ends[0] + 1] == full[: ends[0] + 1]
        assert kept[ends[0] + 1 :] == [pad] * (23 - ends[0])
        passes = -(-(ends[0] - 1) // block_length) * block_length  # its blocks, a token a step
        assert result.forwards[row] <= passes
    assert ended > 10


def test_what_is_not_editable_stays_and_may_not_be_masked() -> None:
    tokens = torch.arange(24).repeat(2, 1) % 4
    editable = torch.zeros_like(tokens, dtype=torch.bool)
    editable[:, 4:9] = True
    tokens[:, 6] = SYMBOLS
    config = SamplerConfig("prism-2pass", steps=6, num_remask=2, fill="all")
    result = generate(Stub(24), tokens, config, editable=editable)
    assert torch.equal(result.tokens[~editable], tokens[~editable])
    assert (result.tokens != SYMBOLS).all() and result.remasked.sum() > 0
    with pytest.raises(ConfigError, match="a mask stands where"):
        generate(Stub(24), tokens, config, editable=torch.zeros_like(editable))


def test_a_stream_shows_every_step_and_ends_with_the_result() -> None:
    tokens = torch.full((2, 24), SYMBOLS)
    seen = [(int((s.tokens == SYMBOLS).sum()), r) for s, _, r in stream(Stub(24), tokens, SamplerConfig("random"))]
    masks = [count for count, _ in seen]
    assert masks[0] == 48 and masks[-1] == 0 and masks == sorted(masks, reverse=True)
    assert all(r is None for _, r in seen[:-1]) and torch.equal(
        seen[-1][1].tokens, generate(Stub(24), tokens, SamplerConfig("random")).tokens
    )
