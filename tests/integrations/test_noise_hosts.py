"""Duo, GIDD, SCDD, DiffusionGemma: the suite, and one law of a step with the host, on stand-ins and, unedited,

    PRISM_HOST_DUO=<checkout of s-sahoo/duo> PRISM_HOST_GIDD=<dvruette/gidd> \
    PRISM_HOST_SCDD=<laaaarrywang/Self-Correcting-Discrete-Diffusion> \
        pytest -m real_host tests/integrations/test_noise_hosts.py
"""

import copy
import os
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import transformers
from torch import Tensor

from prism_plugin.api import enable
from prism_plugin.errors import ConfigError
from prism_plugin.integrations.diffusion_gemma import DiffusionGemmaDenoiser, in_generate
from prism_plugin.integrations.duo import DuoDenoiser
from prism_plugin.integrations.gidd import GIDDDenoiser
from prism_plugin.integrations.mdlm.adapter import MDLMDenoiser
from prism_plugin.integrations.scdd import SCDDDenoiser
from prism_plugin.models.denoiser import View
from prism_plugin.models.hooked import base_model
from prism_plugin.quality.head import attach_head, save_head
from prism_plugin.sampling.config import SamplerConfig, resolve
from prism_plugin.sampling.drive import generate
from prism_plugin.sampling.state import State
from prism_plugin.testing import CHECKS, Case
from tests.hosts.noise_like import restated
from tests.hosts.noise_like.real import LENGTH, MAKE, V, checkout, duo, namespace
from tests.sampling.test_rules import chi_square, chi_square_bound

ADAPTER: dict[str, Any] = {"duo": DuoDenoiser, "gidd": GIDDDenoiser, "scdd": SCDDDenoiser}
KINDS = ["stand-in", pytest.param("real", marks=pytest.mark.real_host)]
_made: dict[tuple[str, str], Any] = {}


def host(name: str, kind: str) -> Any:
    """One of each, built once."""
    if kind == "real" and f"PRISM_HOST_{name.upper()}" not in os.environ:
        pytest.skip(f"PRISM_HOST_{name.upper()} names no checkout")
    if (name, kind) not in _made:
        _made[name, kind] = MAKE[name](kind)
    return _made[name, kind]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MAKE)
def test_the_suite(name: str, kind: str, check: str) -> None:
    print(name, kind, check, Case(ADAPTER[name], host(name, kind), length=LENGTH).run(check))


def own(name: str, model: Any, x: Tensor, alpha: Tensor) -> Tensor:
    """x_theta (B, L, V) of the host's own forward at alpha (B,), as its sampler asks for it."""
    if name == "gidd":
        logits = model(x, (1 - alpha).float())
        logits[..., -1] = -1e6
        return logits.softmax(dim=-1).double()
    sigma = -alpha.log().float()
    return model(x, sigma[:, None] if name == "duo" else sigma).exp().double()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", MAKE)
@torch.no_grad()
def test_the_host_is_told_the_level(name: str, kind: str) -> None:
    model = host(name, kind)
    denoiser = ADAPTER[name](model)
    x = torch.randint(V - 1, (3, LENGTH), generator=torch.Generator().manual_seed(1))
    level = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    found = denoiser.project(denoiser(x, None, **denoiser.told(level)), torch.arange(x.numel()))[0].softmax(dim=-1)
    expected = own(name, model, x, level)
    found = found.view(*x.shape, -1).double()[..., : expected.shape[-1]]
    assert torch.allclose(found, expected, atol=1e-5)
    assert not torch.allclose(found[:1], own(name, model, x[:1], level[1:2]), atol=1e-3)
    assert prism_of(model) is ADAPTER[name] and not MDLMDenoiser.matches(model)


def prism_of(model: Any) -> type:
    """The adapter that ``enable`` takes."""
    return type(enable(model, sampler="uniform").denoiser)


def law(name: str, kind: str, x: Tensor, alpha_t: float, alpha_s: float) -> Tensor:
    """The host's own q(x_s | x_t) (L, V) of one text x (1, L)."""
    model, t, s = host(name, kind), torch.tensor([[1 - alpha_t]]), torch.tensor([[1 - alpha_s]])
    p = own(name, model, x, torch.tensor([alpha_t], dtype=torch.float64))[0]
    if kind == "stand-in":
        if name == "duo":
            return torch.stack([restated.duo(p[i], int(x[0, i]), alpha_t, alpha_s) for i in range(LENGTH)])
        most, mask = 0.2, p.shape[1] - 1
        step = getattr(restated, name)
        return torch.stack([step(p[i], int(x[0, i]), 1 - alpha_t, 1 - alpha_s, most, mask) for i in range(LENGTH)])
    if name == "duo":
        levels = (torch.tensor([[alpha]], dtype=torch.float64) for alpha in (alpha_s, alpha_t))
        return model._get_ancestral_posterior(x, -torch.tensor([[alpha_t]]).log(), None, *levels, None)[1][0].double()
    seen: list[Tensor] = []

    def keep(probs: Tensor) -> Tensor:
        seen.append(probs[0].double())
        return probs.argmax(dim=-1)

    if name == "gidd":
        with checkout("gidd", "gidd.sampling", "gidd.diffusion_process") as (sampling, process):
            schedule = process.HybridDiffusion(Ids(), p_uniform=0.2)
            with mock.patch.object(sampling, "sample_categorical", keep):
                sampling.GiddSampler.DenoisingStep(model, schedule, Ids())(x, t[0], s[0])
    else:
        grid = [alpha_of / 0.999 for alpha_of in (1 - alpha_t, 1 - alpha_s)]  # its t, of which alpha is 1 - .999 t
        update = type(model)._scdd_update
        with mock.patch.dict(update.__globals__, {"_sample_categorical": keep}):
            model._scdd_update(x, torch.tensor([grid[0]]), torch.tensor(grid[0] - grid[1]))
    return seen[0]


class Ids:
    """A tokenizer as GIDD asks for one."""

    mask_token_id = V - 1

    def __len__(self) -> int:
        return V


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("step", [1, 5])
@pytest.mark.parametrize("name", MAKE)
@torch.no_grad()
def test_a_step_has_the_hosts_own_law(name: str, step: int, kind: str) -> None:
    """Symbol by symbol at every position of a text, 3000 draws."""
    denoiser, rows, steps = ADAPTER[name](host(name, kind)), 3000, 8
    masks = torch.tensor([1, 4, 5, 8]) if name != "duo" else torch.tensor([], dtype=torch.long)
    x = torch.randint(V - 1, (1, LENGTH), generator=torch.Generator().manual_seed(step))
    x[0, masks] = denoiser.mask_id
    config = resolve(SamplerConfig("duo", steps=steps, seed=3))
    state = State(
        x.repeat(rows, 1), torch.ones(rows, LENGTH).bool(), denoiser.mask_id, config, torch.arange(rows),
        suppress=torch.tensor([denoiser.mask_id]), vocab_size=denoiser.vocab_size, noise=denoiser.noise,
    )  # fmt: skip
    state.step += step
    state.block_step += step
    output = denoiser(state.tokens, None, **denoiser.told(state.levels[0]))
    state.parts.act(View(denoiser, output), state, torch.zeros(rows, LENGTH), torch.full((rows,), LENGTH))
    alpha_t, alpha_s = (1 - 0.999 * (1 - i / (steps - 1)) for i in (step, step + 1))
    theirs = law(name, kind, x, alpha_t, alpha_s)
    assert torch.allclose(theirs.sum(dim=1), torch.ones(LENGTH).double(), atol=1e-5)
    total, kinds = 0.0, 0
    for i in range(LENGTH):
        counts = torch.bincount(state.tokens[:, i], minlength=denoiser.vocab_size)[: theirs.shape[1]]
        expected = theirs[i] / theirs[i].sum() * rows
        there = expected > 5
        lumped = [torch.cat([table[there], table[~there].sum()[None]]) for table in (counts.double(), expected)]
        kept = lumped[1] > 1
        assert lumped[0][~kept].sum() <= 8
        total += float(chi_square(lumped[0][kept], lumped[1][kept]))
        kinds += int(kept.sum()) - 1
    assert kinds > LENGTH and total < chi_square_bound(kinds)


def same(one: Tensor, other: Tensor) -> None:
    """Two samples of texts (N, L) of one law: by their symbols at each position, two-sample chi-square."""
    total, kinds = 0.0, 0
    for i in range(one.shape[1]):
        most = int(torch.stack([one, other]).max()) + 1
        counts = torch.stack([torch.bincount(table[:, i], minlength=most) for table in (one, other)]).double()
        counts = counts[:, counts.sum(dim=0) > 20]
        expected = counts.sum(dim=0) * (counts.sum(dim=1) / counts.sum())[:, None]
        total += float(((counts - expected) ** 2 / expected).sum())
        kinds += counts.shape[1] - 1
    assert kinds > 4 and total < chi_square_bound(kinds)


@pytest.mark.real_host
@pytest.mark.parametrize("predictor", ["ancestral", "psi"])
@torch.no_grad()
def test_duo_writes_as_the_host(predictor: str) -> None:
    """Whole runs of 4 steps of its ancestral and of its psi sampler (whose last pass draws what is left)."""
    host("duo", "real")
    model, rows = duo("real", predictor=predictor, noise_removal="ancestral"), 3000
    torch.manual_seed(0)
    theirs = model.generate_samples(rows, num_steps=4)
    denoiser = DuoDenoiser(model)
    start = torch.full((rows, LENGTH), denoiser.mask_id)
    sampler = {"name": "psi", "eta": 0.3} if predictor == "psi" else {"name": "uniform"}
    same(theirs, generate(denoiser, start, SamplerConfig(**sampler, alpha="loglinear", steps=4)).tokens)


@pytest.mark.real_host
@torch.no_grad()
def test_scdd_writes_as_the_host() -> None:
    model, rows = copy.copy(host("scdd", "real")), 4000
    model.config = namespace(**{**model.config, "loader": {"eval_batch_size": rows}})
    torch.manual_seed(0)
    theirs = model._sample(num_steps=4)
    denoiser = SCDDDenoiser(model)
    ours = generate(denoiser, torch.full((rows, LENGTH), denoiser.mask_id), SamplerConfig("duo", steps=5))
    same(theirs, ours.tokens)


@pytest.mark.real_host
@torch.no_grad()
def test_gidd_corrects_as_the_host() -> None:
    """Two steps of its self-correction at a temperature at which something is drawn."""
    model, rows = host("gidd", "real"), 4000
    x = torch.randint(V - 1, (1, LENGTH), generator=torch.Generator().manual_seed(2)).repeat(rows, 1)
    with checkout("gidd", "gidd.pipeline") as (pipeline,):
        theirs = corrected(pipeline, model, x)
    config = SamplerConfig("gidd-correct", steps=2, temperature=2.0)
    same(theirs, generate(GIDDDenoiser(model), x, config, editable=torch.ones_like(x).bool()).tokens)


def corrected(pipeline: Any, model: Any, x: Tensor) -> Tensor:
    """``GiddPipeline.self_correction`` of each text, ids in and out; a step changes the one token of highest score."""
    host = mock.MagicMock(model=model, config=mock.MagicMock(max_seq_len=LENGTH))
    host.tokenizer = mock.MagicMock(mask_token_id=V - 1, return_value={"input_ids": x})
    found = []
    for row in x:
        host.tokenizer.return_value = {"input_ids": row[None]}
        host.tokenizer.batch_decode = lambda ids, skip_special_tokens: found.append(ids)
        pipeline.GiddPipeline.self_correction(
            host, [""], num_inference_steps=2, temperature=2.0, early_stopping=False, show_progress=False,
            dtype=torch.float32,
        )  # fmt: skip
    return torch.cat(found)


def gemma() -> Any:
    """A small one of transformers' own class, random weights."""
    torch.manual_seed(0)
    text = transformers.DiffusionGemmaTextConfig(
        vocab_size=40, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16, global_head_dim=16, max_position_embeddings=64, sliding_window=16,
        num_experts=2, top_k_experts=1, moe_intermediate_size=16, layer_types=["sliding_attention", "full_attention"],
    )  # fmt: skip
    eyes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1,
            "num_key_value_heads": 1, "head_dim": 16}  # fmt: skip
    config = transformers.DiffusionGemmaConfig(text_config=text, vision_config=eyes, canvas_length=8)
    model = transformers.DiffusionGemmaForBlockDiffusion(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    return model


def gemma_logits(model: Any, tokens: Tensor, padding: Tensor | None) -> Tensor:
    """The host's own of the canvas; its matrix and cap on the encoder's states before it."""
    tokens = tokens.masked_fill(tokens == 40, 0)
    base = base_model(model)
    made = model(input_ids=tokens[:, :-8], decoder_input_ids=tokens[:, -8:])
    prompt = torch.tanh(base.lm_head(made.encoder_last_hidden_state).float() / 30) * 30
    return torch.nn.functional.pad(torch.cat([prompt, made.logits], dim=1), (0, 1), value=-torch.inf)


@pytest.mark.parametrize("check", CHECKS)
def test_diffusion_gemma(check: str) -> None:
    if ("diffusion_gemma", "") not in _made:
        _made["diffusion_gemma", ""] = gemma()
    model = _made["diffusion_gemma", ""]
    print(check, Case(DiffusionGemmaDenoiser, model, gemma_logits, range(3, 40), length=16).run(check))


def generated(model: Any, prompt: Tensor, steps: int, **more: Any) -> tuple[Tensor, list[Tensor]]:
    """The host's own ``generate``: what it wrote, and the canvases that its passes read."""
    shown: list[Tensor] = []
    own = model.forward
    model.forward = lambda **named: shown.append(named["decoder_input_ids"]) or own(**named)
    torch.manual_seed(0)
    try:
        text = model.generate(
            prompt, max_denoising_steps=steps, stability_threshold=0, confidence_threshold=1e-9,
            return_dict_in_generate=False, **more,
        )  # fmt: skip
    finally:
        del model.forward
    return text[:, prompt.shape[1] :], shown


def test_diffusion_gemmas_own_rule_in_its_own_generate() -> None:
    """By position, the canvases of every pass: its EntropyBoundSampler against the rule in our parts."""
    model = gemma()
    with torch.no_grad():
        model.lm_head.weight[:34] = 0  # it writes the last six of its symbols, at entropies around the bound
        model.lm_head.weight[34:] *= 3
    prompt = torch.randint(3, 40, (1, 6), generator=torch.Generator().manual_seed(1)).repeat(600, 1)
    config = transformers.models.diffusion_gemma.EntropyBoundSamplerConfig(entropy_bound=2.0)
    bound: dict[str, Any] = {"sampler_config": config, "max_new_tokens": 8}
    _, theirs = generated(model, prompt, steps=3, **bound)
    with in_generate(model, fill_bound=2.0):
        _, ours = generated(model, prompt, steps=3, **bound)
    assert len(theirs) == len(ours) == 3 and "_denoising_step" not in vars(model)
    for one, other in zip(theirs[1:3], ours[1:3], strict=True):
        same(one, other)
    assert 0.05 < float((theirs[2] == theirs[1]).float().mean()) < 0.9, "some were accepted, some were not"


@pytest.mark.parametrize("sampler", ["confidence", "random-remask", "prism"])
def test_our_samplers_in_its_own_generate(sampler: str, tmp_path: Path) -> None:
    model, prompt = gemma(), torch.randint(3, 40, (2, 6), generator=torch.Generator().manual_seed(1))
    given: dict[str, Any] = {} if sampler == "confidence" else {"num_remask": 1}
    if sampler == "prism":
        denoiser = DiffusionGemmaDenoiser(model)
        attach_head(denoiser, "mlp")
        save_head(denoiser, tmp_path)
        given["head"] = str(tmp_path)
    with in_generate(model, sampler, steps=8, **given):
        text, shown = generated(model, prompt, steps=8, max_new_tokens=16)
    assert text.shape == (2, 16) and int(text.max()) < 40 and len(shown) == 16
    later = [(one != other).float().mean() for one, other in pairwise(shown[:8])]
    assert later[-1] < later[0], "what is written stays, all else is noise"
    with pytest.raises(ConfigError, match="cannot run here"), in_generate(model, "wino"):
        pass
    with pytest.raises(ConfigError, match="no DiffusionGemmaForBlockDiffusion"), in_generate(torch.nn.Linear(2, 2)):
        pass


def test_what_is_not_read_is_refused() -> None:
    model = copy.copy(host("scdd", "stand-in"))
    model.config = namespace(**{**model.config, "noise": {"type": "cosine"}})
    with pytest.raises(ConfigError, match="noise=cosine clashes with PRISM"):
        SCDDDenoiser(model)
    with pytest.raises(ConfigError, match="the id behind it, 11, marks what is to be written"):
        DuoDenoiser(host("duo", "stand-in"), 3)
    classes = copy.copy(host("duo", "stand-in"))
    classes.class_conditional = True
    with pytest.raises(ConfigError, match="classes are not passed on"):
        DuoDenoiser(classes)
    plain = copy.copy(host("gidd", "stand-in"))
    plain.config = namespace(p_uniform=0.0, max_seq_len=LENGTH)
    masks = GIDDDenoiser(plain)
    assert not masks.noise.uniform and enable(masks, sampler="confidence", steps=4)
