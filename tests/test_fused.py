"""Output layer and drawing in one op: the same tokens, no logits kept, and only where a matrix is the host's layer."""

import logging
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from prism_plugin.models import denoiser as denoiser_module
from prism_plugin.models.backbone import BackboneConfig
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.quality.head import attach_head
from prism_plugin.sampling.config import SamplerConfig
from prism_plugin.sampling.drive import generate

LENGTH, VOCABULARY = 24, 700
MASKS = torch.full((3, LENGTH), VOCABULARY - 1)


class Counted(PrismModel):
    """Our backbone, and how many rows ``project`` was asked for."""

    projected = 0

    def project(self, output: Any, index: Tensor) -> tuple[Tensor, Tensor]:
        self.projected += index.numel()
        return super().project(output, index)


def small() -> Counted:
    torch.manual_seed(0)
    config = BackboneConfig(
        vocab_size=VOCABULARY, mask_id=VOCABULARY - 1, length=LENGTH, hidden_size=32, num_layers=1, num_heads=2
    )
    model = Counted(config, "none").eval()
    nn.init.normal_(model.backbone.unembed.weight, std=0.5)
    nn.init.normal_(model.backbone.unembed.bias)
    attach_head(model)
    return model


@pytest.mark.parametrize(
    "sampler",
    [
        SamplerConfig("prism", steps=8, num_remask=2),
        SamplerConfig("confidence", steps=6, temperature=0.7, top_p=0.9),
        SamplerConfig("self-likelihood", steps=8, num_remask=2, block_length=8),
    ],
    ids=lambda config: config.name,
)
def test_tokens_are_the_same_and_no_logits_are_made(sampler: SamplerConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    plain = generate(model, MASKS, sampler)
    assert model.projected > 100
    model.projected = 0
    monkeypatch.setattr(denoiser_module, "FUSED_FROM", 0)
    fused = generate(model, MASKS, sampler)
    assert model.projected <= 8, "the rows of the comparison alone"
    assert torch.equal(plain.tokens, fused.tokens) and torch.equal(plain.remasked, fused.remasked)
    assert not (fused.tokens == VOCABULARY - 1).any()


def test_it_is_used_where_the_logits_would_not_fit_in_a_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    monkeypatch.setattr(denoiser_module, "FUSED_FROM", 4 * VOCABULARY * LENGTH)
    generate(model, MASKS[:1], SamplerConfig("confidence", steps=1))
    assert model.projected == LENGTH
    generate(model, MASKS, SamplerConfig("confidence", steps=1))
    assert model.projected == LENGTH + 8


@pytest.mark.parametrize("change", ["capped", "low rank", "half"])
def test_another_output_layer_is_left_to_the_host(
    change: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Logits that are no plain matrix product: one warning, the host's layer, the right tokens; then it is undone."""
    model, sampler = small(), SamplerConfig("confidence", steps=4)
    layer = model.backbone.unembed
    if change == "half":
        layer.weight.data = layer.weight.data.double()
        layer.forward = lambda x: nn.functional.linear(x, layer.weight.float(), layer.bias)  # type: ignore[method-assign]
    else:
        factor = torch.randn(VOCABULARY, 1) * 0.1
        after = {"capped": lambda x, y: 5 * (y / 5).tanh(), "low rank": lambda x, y: y + x[..., :1] @ factor.T}[change]
        hook = layer.register_forward_hook(lambda module, given, result: after(given[0], result))
    plain = generate(model, MASKS, sampler)
    monkeypatch.setattr(denoiser_module, "FUSED_FROM", 0)
    with caplog.at_level(logging.WARNING):
        found = [generate(model, MASKS, sampler).tokens for _ in range(2)]
    assert all(torch.equal(tokens, plain.tokens) for tokens in found)
    assert len(caplog.records) == 1 and "Counted" in caplog.text and "own output layer" in caplog.text
    assert ("float64" if change == "half" else "differs from the logits by") in caplog.text
    if change != "half":
        hook.remove()
        model.projected = 0
        generate(model, MASKS, sampler)
        assert model.projected <= 8, "the next generation looks again"
