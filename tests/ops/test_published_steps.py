"""The step functions of benchmarks/step_overhead.py draw the very tokens of the repositories they stand for.

PRISM_HOST_LLADA, PRISM_HOST_FAST_DLLM, PRISM_HOST_DLLM, PRISM_HOST_REMDM and PRISM_HOST_PRISM name checkouts; only the
functions compared are taken out of them, so none of their requirements is needed.
"""

import ast
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.step_overhead import llada_step, nucleus, posterior, prism_release_step, remdm_step

pytestmark = pytest.mark.real_host
V, MASK = 40, 39


def functions(host: str, path: str) -> dict[str, Any]:
    """The functions of a checkout's file, and the methods of its classes, without running the rest of it."""
    folder = os.environ.get(f"PRISM_HOST_{host}")
    if folder is None:
        pytest.skip(f"PRISM_HOST_{host} names no checkout")
    found = [node for node in ast.walk(ast.parse(Path(folder, path).read_text())) if isinstance(node, ast.FunctionDef)]
    for node in found:
        node.decorator_list, node.returns = [], None
        for argument in node.args.args + node.args.kwonlyargs:
            argument.annotation = None
    names = {"torch": torch, "np": numpy, "numpy": numpy, "F": functional, "Tensor": Tensor}
    exec(compile(ast.Module(found, []), path, "exec"), names)
    return names


@contextmanager
def seeded() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        yield


def problem() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 12, V, generator=generator) * 2
    tokens = torch.randint(0, MASK, (2, 12), generator=generator)
    tokens[:, ::2] = MASK
    return logits, tokens, tokens == MASK


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_llada(temperature: float) -> None:
    host = functions("LLADA", "generate.py")
    prompt, length = torch.tensor([[1, 2, 3]]), 8
    logits = torch.randn(1, 3 + length, V, generator=torch.Generator().manual_seed(1)) * 2
    logits[..., MASK] = -1e4  # its model never proposes the mask
    with seeded(), torch.no_grad():
        theirs = host["generate"](
            Model(logits), prompt, steps=2,
            gen_length=length, block_length=length, temperature=temperature, mask_id=MASK,
        )  # fmt: skip
    tokens = torch.cat([prompt, torch.full((1, length), MASK)], 1)
    with seeded():
        for _ in range(2):
            tokens = llada_step(logits, tokens, tokens == MASK, torch.tensor([4]), temperature)
    assert torch.equal(tokens, theirs)


class Model:
    """A table in place of LLaDA's model."""

    device = torch.device("cpu")

    def __init__(self, logits: Tensor):
        self.logits = logits

    def __call__(self, tokens: Tensor, **_: object) -> SimpleNamespace:
        return SimpleNamespace(logits=self.logits.clone())


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_fast_dllm(temperature: float) -> None:
    host = functions("FAST_DLLM", "llada/generate.py")
    logits, tokens, masked = problem()
    counts = torch.tensor([2, 5])
    with seeded():
        x0, chosen = host["get_transfer_index"](logits, temperature, "low_confidence", masked, tokens, counts)
    with seeded():
        ours = llada_step(logits, tokens, masked, counts, temperature, torch.float64)
    assert torch.equal(ours, torch.where(chosen, x0, tokens))


def test_dllm_draws_as_llada() -> None:
    host = functions("DLLM", "dllm/core/samplers/utils.py")
    logits, tokens, masked = problem()
    with seeded():
        theirs = host["add_gumbel_noise"](logits, 0.7).argmax(-1)
    with seeded():
        ours = llada_step(logits, tokens, masked, masked.sum(-1), 0.7)
    assert torch.equal(ours, torch.where(masked, theirs, tokens))


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_remdm(top_p: float) -> None:
    host = functions("REMDM", "diffusion.py")
    logits, tokens, masked = problem()
    sampling = SimpleNamespace(sampler="remdm-cap", nucleus_p=top_p, eta=0.2)
    model = SimpleNamespace(
        config=SimpleNamespace(noise=SimpleNamespace(type="loglinear"), sampling=sampling),
        noise=lambda t: (t, t),
        forward=lambda x, sigma: posterior(logits, tokens, masked, MASK).log(),
        mask_index=MASK,
        time_conditioning=False,
    )
    with seeded():
        _, theirs, _ = host["_ddpm_caching_update"](model, tokens, torch.tensor([0.5, 0.5]), 0.25)
    with seeded():
        ours = remdm_step(logits, tokens, masked, MASK, top_p, 0.5, 0.25, 0.2)
    assert torch.equal(ours, theirs)
    assert not torch.equal(ours == MASK, masked)


@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_prism_release(top_p: float) -> None:
    host = functions("PRISM", "prob_path.py")
    logits, tokens, masked = problem()
    quality = torch.rand(2, 12, generator=torch.Generator().manual_seed(2))
    sampling = SimpleNamespace(
        nucleus_p=top_p, step_on=0, step_off=9, loop_step_on=99, loop_steps=0, num_initial_masks=12
    )
    model = SimpleNamespace(
        config=SimpleNamespace(sampling=sampling),
        noise=lambda t: (t, t),
        mask_index=MASK,
        time_conditioning=False,
        sampling_strategy="prism",
        _get_remasking_k=lambda generated: 2,
        _compute_model_outputs=lambda x, sigma, mode: (posterior(logits, x, masked, MASK), quality.clone(), logits),
    )
    for method in ("_score_tokens", "_select_k_tokens"):
        setattr(model, method, lambda *a, method=method, **k: host[method](model, *a, **k))
    with seeded():
        theirs, _ = host["_topk_static_update"](model, tokens, torch.ones(2), k=8, step=3)
    with seeded():
        ours = prism_release_step(logits, tokens, masked, MASK, top_p, quality, 2, 8)
    assert torch.equal(ours, theirs)


def test_the_nucleus_is_the_exclusive_one() -> None:
    p = torch.tensor([0.3, 0.5, 0.05, 0.15])
    assert torch.equal(nucleus(p, 0.9, renormalise=False), torch.tensor([0.3, 0.5, 0.0, 0.0]))
    torch.testing.assert_close(nucleus(p, 0.4, renormalise=True), torch.tensor([0.0, 1.0, 0.0, 0.0]))
