"""``score=cavity``: the backbone's own g in the sampler, the passes that it takes, and what it does not go with."""

import pytest
import torch

from prism_plugin.errors import ConfigError
from prism_plugin.sampling.config import SamplerConfig, resolve
from prism_plugin.sampling.drive import generate, generate_many
from prism_plugin.sampling.methods import check
from prism_plugin.sampling.simulate import SYMBOLS, Stub

from ..table_model import chain


@pytest.mark.parametrize("preset", ["prism-evidence", "prism"])
def test_every_token_alone_does_what_a_perfect_head_does(preset: str) -> None:
    """The table's head is the exact quality: the same texts come of it, from more passes."""
    model = chain()
    masks = torch.full((24, 5), model.mask_id)
    score = {"prism": "cavity", "prism-evidence": "cavity_evidence"}[preset]
    settings = {"steps": 8, "num_remask": 1} if preset == "prism" else {"steps": 8, "tau": 0.7}
    head = generate(model, masks, SamplerConfig(preset, **settings))
    own = generate(model, masks, SamplerConfig(preset, score=score, cavity_groups=0, **settings))
    assert torch.equal(own.tokens, head.tokens) and torch.equal(own.remasked, head.remasked)
    assert head.remasked.sum() > 0 and (own.forwards > head.forwards).all()


def test_a_shadow_that_sees_the_text_alone_does_it_in_one_pass() -> None:
    """In a table, which has no layers, a shadow is blind to its token: the same texts as by a perfect head."""
    model = chain()
    masks = torch.full((24, 5), model.mask_id)
    head = generate(model, masks, SamplerConfig("prism-evidence", steps=8, tau=0.7))
    own = generate(model, masks, SamplerConfig("shadow-evidence", steps=8, tau=0.7))
    assert torch.equal(own.tokens, head.tokens) and torch.equal(own.remasked, head.remasked)
    assert head.remasked.sum() > 0 and torch.equal(own.forwards, head.forwards)
    assert torch.equal(own.cost, 2.0 * own.forwards)


@pytest.mark.parametrize("groups", [0, 1, 2, 3])
def test_every_visible_token_is_hidden_once_a_step_and_every_pass_counted(groups: int) -> None:
    model, seen = chain(), []
    plain = model.forward
    model.forward = lambda tokens, padding=None: seen.append(tokens.clone()) or plain(tokens, padding)  # type: ignore[method-assign]
    tokens = torch.full((1, 5), model.mask_id)
    tokens[0, 1] = 2  # a prompt: seen, never hidden
    config = SamplerConfig("cavity-evidence", steps=6, tau=0.5, cavity_groups=groups)
    result = generate(model, tokens, config)
    assert len(seen) == int(result.forwards) == int(result.cost)
    for step in range(6):
        text = seen.pop(0)
        visible = ((text != model.mask_id) & (tokens == model.mask_id))[0].nonzero().squeeze(1).tolist()
        number = groups or len(visible)
        for group in range(min(number, len(visible)) if step < 5 else 0):  # nobody would fill what the last remasks
            hidden = (seen.pop(0) != text)[0].nonzero().squeeze(1).tolist()
            assert hidden == visible[group::number]
    assert not seen


def test_a_text_comes_out_the_same_beside_others_and_padded() -> None:
    texts = [torch.full((length,), SYMBOLS) for length in (24, 9, 17)]
    config = SamplerConfig("cavity-evidence", score="cavity", steps=6, tau=0.3, cavity_groups=3)
    together = generate_many(Stub(24), texts, config, slots=2)
    for number, text in enumerate(texts):
        alone = generate(Stub(24), text[None], config, request=torch.tensor([number]))
        assert torch.equal(together.tokens[number, -len(text) :], alone.tokens[0])
        assert together.forwards[number] == alone.forwards[0] and together.remasked[number] == alone.remasked[0]
    assert together.remasked.sum() > 0


def test_outside_the_window_of_revision_no_pass_is_spent() -> None:
    model = chain()
    config = SamplerConfig("cavity-evidence", steps=8, step_on=1.0 - 1e-9, cavity_groups=2)
    assert (generate(model, torch.full((2, 5), model.mask_id), config).forwards == 8).all()


@pytest.mark.parametrize("changes", [{"method": "two_pass"}, {"refill": "fresh"}])
def test_it_goes_with_one_method(changes: dict) -> None:
    config = resolve(SamplerConfig("cavity-evidence", **changes))
    with pytest.raises(ConfigError, match="choose method=revise_and_fill"):
        check(config, False, frozenset({"second_forward", "probe"}))


def test_a_host_that_runs_no_pass_of_its_own_is_told() -> None:
    with pytest.raises(ConfigError, match="further forward passes within a step"):
        check(resolve(SamplerConfig("cavity-evidence")), False, frozenset({"padding", "second_forward"}))
