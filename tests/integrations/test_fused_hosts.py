"""The output layers of the hosts as one matrix: the logits that ``project`` gives, for the rows asked for."""

import pytest
import torch
import torch.nn.functional as F

from prism_plugin.integrations.llada.adapter import LLaDADenoiser
from prism_plugin.integrations.mdlm.adapter import MDLMDenoiser
from prism_plugin.models import denoiser as denoiser_module
from prism_plugin.models.denoiser import Denoiser
from prism_plugin.sampling.config import SamplerConfig
from prism_plugin.sampling.drive import generate
from tests.hosts.llada_like import modeling
from tests.integrations.test_mdlm import built


def agrees(denoiser: Denoiser, tokens: torch.Tensor) -> None:
    """The matrix gives the host's logits, and texts written through it are those written without."""
    index = torch.tensor([3, 0, 17])
    with torch.no_grad():
        output = denoiser(tokens)
        embedding = denoiser.output_embedding()
        assert embedding is not None
        logits, rows = denoiser.project(output, index)
        found = F.linear(embedding.rows(output, index), embedding.weight, embedding.bias) * embedding.scale
    found = found if embedding.never is None else found.index_fill(1, embedding.never, -torch.inf)
    torch.testing.assert_close(found, logits[rows].float())
    masks = torch.full_like(tokens, denoiser.mask_id)
    config = SamplerConfig("confidence", steps=3)
    plain = generate(denoiser, masks, config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(denoiser_module, "FUSED_FROM", 0)
        asked: list[int] = []
        project = denoiser.project
        patch.setattr(denoiser, "project", lambda output, index: asked.append(len(index)) or project(output, index))
        fused = generate(denoiser, masks, config)
    assert asked == [8] and torch.equal(plain.tokens, fused.tokens)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("scaled", [False, True])
def test_llada(tied: bool, scaled: bool) -> None:
    denoiser = LLaDADenoiser(modeling.build(weight_tying=tied, scale_logits=scaled))
    agrees(denoiser, torch.randint(100, (2, 10)))
    denoiser.guide(1.0, torch.ones(1, 10, dtype=torch.bool))
    assert denoiser.output_embedding() is None


@pytest.mark.parametrize("time_conditioning", [False, True])
def test_mdlm(mdlm_like, time_conditioning: bool) -> None:
    denoiser = MDLMDenoiser(built(mdlm_like, f"time_conditioning={time_conditioning}"))
    agrees(denoiser, torch.randint(10, (2, 12)))
