"""The LLaDA adapter against a small host with the interface of the remote code."""

import pytest
import torch

from prism_plugin.errors import ConfigError
from prism_plugin.integrations.llada.adapter import LLaDADenoiser
from tests.hosts.llada_like import modeling

MASK = 126336


def ragged() -> tuple[torch.Tensor, torch.Tensor]:
    """Three texts of 6, 9 and 12 tokens, left-padded, with masks."""
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(1000, (3, 12), generator=generator)
    tokens[:, -3:] = MASK
    padding = torch.arange(12) >= torch.tensor([[6], [3], [0]])
    return tokens.masked_fill(~padding, 126081), padding


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_states_and_chosen_logits_are_the_hosts(tied: bool, scaled: bool) -> None:
    host = modeling.build(weight_tying=tied, scale_logits=scaled)
    tokens, padding = ragged()
    with torch.no_grad():
        expected = host(tokens, attention_mask=padding.long(), output_hidden_states=True)
        denoiser = LLaDADenoiser(host)
        output = denoiser(tokens, padding)
        index = torch.tensor([9, 35, -1, 22])
        logits, rows = denoiser.project(output, index)
    torch.testing.assert_close(output.hidden, expected.hidden_states[-1], rtol=0, atol=0)
    assert rows.tolist() == [0, 1, -1, 3]
    kept = rows >= 0
    torch.testing.assert_close(logits[rows[kept]], expected.logits.flatten(0, 1)[index[kept]])


def test_a_forward_computes_no_logits_and_leaves_no_hook() -> None:
    host = modeling.build()
    tokens, padding = ragged()
    denoiser = LLaDADenoiser(host)
    probed = host.model.logit_rows
    with torch.no_grad():
        denoiser(tokens, padding)
        denoiser(tokens, padding)
    assert host.model.logit_rows == probed
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in host.modules())


def test_padding_does_not_change_a_text() -> None:
    denoiser = LLaDADenoiser(modeling.build())
    tokens, padding = ragged()
    with torch.no_grad():
        together = denoiser(tokens, padding).hidden
        alone = denoiser(tokens[:1, 6:]).hidden
    torch.testing.assert_close(together[:1, 6:], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "kept"), [(torch.float32, False), (torch.bfloat16, True)])
def test_what_half_precision_rounds_is_no_text_that_moved(kind: torch.dtype, kept: bool) -> None:
    """Real layers in bf16 differ by some hundredths between two columns; in f32 that is no rounding."""
    host = modeling.build().to(kind)
    host.model.transformer["ln_f"].register_forward_hook(
        lambda layer, x, y: y * (1 + 0.05 * torch.arange(y.shape[1]).sin()[:, None]).to(y.dtype)
    )
    assert ("padding" in LLaDADenoiser(host).gives) == kept


def test_guidance_mixes_with_the_pass_that_sees_no_prompt() -> None:
    host = modeling.build()
    tokens, padding = ragged()
    blind = tokens.clone()
    blind[:, :9] = MASK
    denoiser = LLaDADenoiser(host)
    denoiser.guide(0.5, torch.arange(12)[None] < 9)
    with torch.no_grad():
        seen, unguided = (host(x, attention_mask=padding.long()).logits.flatten(0, 1) for x in (tokens, blind))
        output = denoiser(tokens, padding)
        logits, _ = denoiser.project(output, torch.tensor([9, 35]))
        later, _ = denoiser.project(output._replace(share=2.0), torch.tensor([9, 35]))
    assert output.hidden.shape == (3, 12, 32)
    assert output.share == 2 and LLaDADenoiser(host)(tokens, padding).share == 1, "two passes, and counted as two"
    torch.testing.assert_close(logits, (unguided + 1.5 * (seen - unguided))[[9, 35]])
    assert torch.equal(later, logits), "what a head costs is put on the output: it stays guided"


def test_under_peft_the_tuned_weights_are_the_ones_used() -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed (extra: train)")
    host = modeling.build()
    tokens, padding = ragged()
    with torch.no_grad():
        before = LLaDADenoiser(host)(tokens, padding).hidden
    lora = peft.LoraConfig(r=2, target_modules=["qkv"], init_lora_weights=False)
    tuned = peft.get_peft_model(host, lora)
    with torch.no_grad():
        expected = tuned(tokens, attention_mask=padding.long(), output_hidden_states=True).hidden_states[-1]
        hidden = LLaDADenoiser(tuned)(tokens, padding).hidden
    torch.testing.assert_close(hidden, expected, rtol=0, atol=0)
    assert not torch.allclose(hidden, before)


def test_what_is_no_llada_or_out_of_range_is_refused() -> None:
    assert not LLaDADenoiser.matches(torch.nn.Linear(2, 2))
    assert not LLaDADenoiser.matches("llada")
    assert LLaDADenoiser.matches(modeling.build())
    with pytest.raises(ConfigError, match="Linear is no model for LLaDADenoiser"):
        LLaDADenoiser(torch.nn.Linear(2, 2))
    with pytest.raises(ConfigError, match=r"mask_id = 126464 .* 0 to 126463"):
        LLaDADenoiser(modeling.build(), mask_id=126464)
    with pytest.raises(ConfigError, match="cfg_scale = -1"):
        LLaDADenoiser(modeling.build()).guide(-1.0, torch.zeros(1, 4, dtype=torch.bool))
