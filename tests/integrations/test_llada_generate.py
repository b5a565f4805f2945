"""The drop-in ``generate``: the host's rule token for token, its keywords, and our samplers behind them."""

import inspect

import pytest
import torch

from prism_plugin import enable
from prism_plugin.errors import ConfigError
from prism_plugin.integrations.llada import LLaDADenoiser, generate
from prism_plugin.quality.head import attach_head, save_head
from tests.hosts.llada_like import modeling, restated

MASK, EOS, EOT = 126336, 126081, 126348


@pytest.fixture(scope="module")
def host() -> torch.nn.Module:
    return modeling.build()


def prompts(rows: int = 2, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Prompts of several lengths, left-padded with EOS, and their attention mask."""
    generator = torch.Generator().manual_seed(seed)
    attended = (torch.arange(6) >= torch.randint(4, (rows, 1), generator=generator)).long()
    return torch.randint(1000, (rows, 6), generator=generator).masked_fill(attended == 0, EOS), attended


def test_the_first_arguments_are_the_hosts() -> None:
    names = list(inspect.signature(generate).parameters)
    assert names[:12] == [
        "model", "prompt", "attention_mask", "steps", "gen_length", "block_length", "temperature", "cfg_scale",
        "remasking", "mask_id", "logits_eos_inf", "confidence_eos_eot_inf",
    ]  # fmt: skip


@pytest.mark.parametrize("numerics", ["exact", "host"])
@pytest.mark.parametrize(
    ("steps", "length", "block", "options"),
    [
        (8, 8, 8, {}),
        (3, 8, 8, {}),
        (1, 8, 8, {}),
        (12, 8, 8, {}),
        (4, 12, 6, {}),
        (6, 12, 4, {"cfg_scale": 1.5}),
        (5, 8, 8, {"logits_eos_inf": True}),
        (5, 8, 8, {"confidence_eos_eot_inf": True}),
        (5, 8, 8, {"confidence_eos_eot_inf": True, "logits_eos_inf": True}),
    ],
)
def test_at_temperature_0_the_tokens_are_the_hosts(
    host: torch.nn.Module, steps: int, length: int, block: int, options: dict, numerics: str
) -> None:
    prompt, attended = prompts(seed=steps + block)
    call = {"steps": steps, "gen_length": length, "block_length": block, **options}
    expected = restated.generate(host, prompt, attended, **call)
    assert torch.equal(generate(host, prompt, attended, **call, numerics=numerics), expected)
    assert not (expected == MASK).any()


def test_eos_options_change_what_is_written() -> None:
    """The two options matter in the test above: a model that likes EOS writes it, and early, without them.

    Where only EOS is left all confidences are 0: the restated rule and ours take the first position.
    """
    host = modeling.build(seed=3)
    prompt, attended = prompts(rows=4, seed=3)
    with torch.no_grad():
        masks = torch.full((1, 8), MASK)
        usual = host(masks, output_hidden_states=True).hidden_states[-1].mean(dim=(0, 1))
        host.model.transformer["ff_out"].weight[EOS] = 7 * usual / usual.norm()
    call = {"steps": 8, "gen_length": 8, "block_length": 8}
    plain = restated.generate(host, prompt, attended, **call)
    assert (plain[:, 6:] == EOS).any()
    for options in ({"logits_eos_inf": True}, {"confidence_eos_eot_inf": True}):
        expected = restated.generate(host, prompt, attended, **call, **options)
        assert not torch.equal(expected, plain)
        assert torch.equal(generate(host, prompt, attended, **call, **options), expected)


def test_no_attention_mask_means_all_tokens_are_real(host: torch.nn.Module) -> None:
    prompt, _ = prompts()
    call = {"steps": 4, "gen_length": 8, "block_length": 8, "cfg_scale": 0.5}
    assert torch.equal(generate(host, prompt, **call), restated.generate(host, prompt, **call))


def test_a_text_depends_on_its_seed_not_on_its_neighbours(host: torch.nn.Module) -> None:
    prompt, attended = prompts(rows=3)
    call = {"steps": 4, "gen_length": 8, "block_length": 4, "temperature": 1.0}
    together = generate(host, prompt, attended, **call)
    assert torch.equal(together[:1], generate(host, prompt[:1], attended[:1], **call))
    assert torch.equal(together, generate(host, prompt, attended, **call))
    assert not torch.equal(together, generate(host, prompt, attended, **call, seed=1))
    assert not torch.equal(together, generate(host, prompt, attended, **call, remasking="random"))


def test_a_head_from_a_folder_makes_it_prism(host: torch.nn.Module, tmp_path) -> None:
    denoiser = LLaDADenoiser(host)
    attach_head(denoiser, "mlp")
    save_head(denoiser, tmp_path / "head")
    prompt, attended = prompts()
    call = {"steps": 6, "gen_length": 8, "block_length": 8, "return_result": True}
    before = host.model.logit_rows
    result = generate(host, prompt, attended, **call, head=tmp_path / "head", num_remask=1)
    assert result.settings["score"] == "quality"
    assert result.forwards.tolist() == [6, 6]
    assert result.remasked.tolist() == [4, 4]  # none to doubt in the first step, none to refill after the last
    assert (
        host.model.logit_rows - before == 0
    )  # the head needs no logits, and the masks' are made without the host's forward
    assert not (result.tokens == MASK).any()
    again = generate(denoiser, prompt, attended, **call, num_remask=1)
    assert torch.equal(again.tokens, result.tokens)
    enabled = enable(host, head=tmp_path / "head", sampler="prism-llada", num_remask=1)
    assert torch.equal(generate(enabled, prompt, attended, **call).tokens, result.tokens)
    by_likelihood = generate(
        host, prompt, attended, **call, sampler="prism-llada", score="self_likelihood", num_remask=1
    )
    assert by_likelihood.remasked.tolist() == [4, 4]


def test_without_a_head_enable_falls_back_to_self_likelihood_and_warns_once(
    host: torch.nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    prompt, attended = prompts()
    prism = enable(host, num_remask=1)
    result = generate(prism, prompt, attended, steps=6, gen_length=8, block_length=8, return_result=True)
    assert (result.settings["name"], result.settings["score"]) == ("self-likelihood", "self_likelihood")
    assert (result.settings["order"], result.settings["num_remask"]) == ("confidence", 1)
    assert bool((result.remasked > 0).all())
    assert [r.levelname for r in caplog.records if "head" in r.getMessage()] == ["WARNING"]


def test_a_learned_sampler_without_a_head_falls_back_as_enable_does(
    host: torch.nn.Module, caplog: pytest.LogCaptureFixture
) -> None:
    prompt, attended = prompts()
    call = {"steps": 6, "gen_length": 8, "block_length": 8, "sampler": "prism-llada", "return_result": True}
    result = generate(host, prompt, attended, **call)
    assert (result.settings["name"], result.settings["score"]) == ("prism-llada", "self_likelihood")
    assert len(caplog.records) == 1 and "self-likelihood" in caplog.text
    assert torch.equal(result.tokens, generate(host, prompt, attended, **call, score="self_likelihood").tokens)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps = 0 cannot be shared evenly by 2 blocks"),
        ({"steps": 5}, "steps = 5 cannot be shared evenly by 2 blocks"),
        ({"block_length": 5}, "gen_length = 8 is not a multiple of block_length = 5"),
        ({"remasking": "low_confidnce"}, "Nearest: low_confidence"),
        ({"mask_id": 126464}, "mask_id = 126464 is outside"),
        ({"cfg_scale": -1.0}, "cfg_scale = -1"),
        ({"numerics": "hots"}, "Nearest: host"),
        ({"sampler": "pirsm"}, "Nearest: prism"),
        ({"score": "quality"}, "needs a trained quality head"),
        ({"num_remsak": 2}, "Nearest: sampler.num_remask"),
        ({"eta": 1.4}, "sampler.eta: 'confidence' has no part with it"),
        ({"gen_length": 400, "block_length": 200}, "longer than the model's 128"),
        ({"attention_mask": torch.ones(2, 5)}, r"both must be \(B, P\)"),
        ({"prompt": torch.full((2, 6), MASK)}, "prompt holds the mask"),
    ],
)
def test_what_cannot_be_done_is_said_before_any_forward(host: torch.nn.Module, changes: dict, message: str) -> None:
    prompt, attended = prompts()
    call = {"prompt": prompt, "attention_mask": attended, "steps": 4, "gen_length": 8, "block_length": 4, **changes}
    before = host.model.logit_rows
    with pytest.raises(ConfigError, match=message):
        generate(host, **call)
    assert host.model.logit_rows == before


def test_a_copy_that_ignores_the_attention_mask_gets_prompts_of_one_length(caplog: pytest.LogCaptureFixture) -> None:
    deaf = modeling.build()
    inner = deaf.model.forward
    deaf.model.forward = lambda tokens, attention_mask=None, **given: inner(tokens, None, **given)
    prompt, attended = prompts(rows=4, seed=2)
    call = {"steps": 4, "gen_length": 8, "block_length": 8, "temperature": 1.0, "cfg_scale": 0.5}
    together = generate(deaf, prompt, attended, **call)
    assert "it ignores the attention mask" in caplog.text
    assert torch.equal(together[:, :6], prompt)
    for row, real in enumerate(attended.bool()):
        alone = generate(deaf, prompt[row : row + 1, real], request=torch.tensor([row]), **call)
        assert torch.equal(together[row, 6:], alone[0, -8:])
    with pytest.raises(ConfigError, match=r"request is \(1,\): one key a text, \(4,\)"):
        generate(deaf, prompt, request=torch.tensor([0]), **call)
