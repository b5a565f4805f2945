"""What only compiled ops have: schemas, fake kernels, torch.compile, and one result for every instruction set."""

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor

from prism_plugin.ops import ORDER, compiled, fill_scatter_, lm_head_sample, remask_scatter_, sample_rows, uniform

pytestmark = pytest.mark.skipif(not compiled(), reason="the extension prism_plugin._C is not built")


def samples() -> list[tuple[str, tuple[Any, ...]]]:
    scores, eligible = torch.rand(2, 5), torch.tensor([[True, True, False, True, True]] * 2)
    counts, tokens, n = torch.tensor([1, 9]), torch.arange(10).view(2, 5), torch.arange(3)
    logits = torch.randn(4, 300)
    settings = (7, 0.7, 0.9, 40, 0.01)
    plain = (None, None, None, None, None, 1.0)
    changed = (n, n[:2], torch.ones(2), n[None], torch.zeros_like(n), 1.2)
    return [
        ("philox_uniform", (3, n[:, None], n, n[:, None], 1, 0)),
        ("select_lowest", (scores, eligible, counts)),
        ("select_highest", (scores.bfloat16().t().contiguous().t(), eligible, counts)),
        ("remask_scatter_", (tokens, scores, eligible, counts, 77)),
        ("fill_scatter_", (tokens.int(), tokens.int() + 1, scores.double(), eligible, counts)),
        ("sample_rows", (logits, n - 1, n, n, n, *settings, *plain, True, False, None, False, False, 0)),
        (
            "lm_head_sample",
            (
                logits[:, :8],
                logits.view(-1, 8)[:20],
                None,
                2.0,
                n - 1,
                n,
                n,
                n,
                *settings,
                *plain,
                True,
                False,
                None,
                True,
                False,
                0,
            ),
        ),
        ("sample_rows", (logits.half()[:, :9], n, n, n, n, *settings, *changed, False, True, n, True, True, 0)),
    ]


@pytest.mark.parametrize("name, arguments", samples(), ids=lambda value: value if isinstance(value, str) else "")
def test_opcheck(name: str, arguments: tuple[Any, ...]) -> None:
    torch.library.opcheck(getattr(torch.ops.prism, name).default, arguments)


def step(tokens: Tensor, logits: Tensor, quality: Tensor, counts: Tensor, fills: Tensor) -> Tensor:
    """Sample, revise and fill, the model apart: one step as a sampler composes it."""
    batch, length = tokens.shape
    request, position = torch.arange(batch)[:, None], torch.arange(length)
    index = torch.where(tokens == 0, torch.arange(batch * length).view(batch, length), -1).flatten()
    key = [part.expand(batch, length).flatten() for part in (request, position, torch.zeros_like(request))]
    drawn = sample_rows(logits.flatten(0, 1), index, *key, seed=5, temperature=0.7, top_p=0.9, margin=True)
    masked = tokens == 0
    remask_scatter_(tokens, quality, ~masked, counts, 0)
    order = uniform(5, request, position, torch.zeros_like(request), ORDER)
    return fill_scatter_(tokens, drawn.token.view(batch, length), order, masked, fills)


def test_a_whole_step_compiles_without_a_graph_break() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 2, (3, 8), generator=generator) * 5
    logits, quality = torch.randn(3, 8, 400, generator=generator), torch.rand(3, 8, generator=generator)
    counts, fills = torch.tensor([1, 0, 2]), torch.tensor([2, 1, 9])
    eager, traced = tokens.clone(), tokens.clone()
    expected = step(eager, logits, quality, counts, fills)
    chosen = torch.compile(step, fullgraph=True, backend="aot_eager")(traced, logits, quality, counts, fills)
    assert torch.equal(chosen, expected) and torch.equal(traced, eager) and not torch.equal(traced, tokens)


def test_the_fused_head_holds_one_block_of_logits_whatever_the_number_of_rows() -> None:
    """Even blocks of at most 48 MiB share one buffer; all logits of the rows would take 160 MB."""
    hidden, weight = torch.randn(670, 4), torch.randn(60000, 4)
    largest = {}
    for count in (335, 670):
        n = torch.arange(count)
        with torch.profiler.profile(profile_memory=True) as profile:
            lm_head_sample(hidden, weight, None, n, n, n, n, seed=0)
        taken = [event.self_cpu_memory_usage for event in profile.events() if event.name != "[memory]"]
        largest[count] = max(taken)
        assert sum(size for size in taken if size > 2**20) <= 49 * 2**20  # one buffer, nothing beside it
    assert largest[335] == largest[670] == 168 * 60000 * 4


@pytest.mark.parametrize("instruction_set", ["portable", "avx2"])
def test_other_instruction_sets_pass_the_same_tests(instruction_set: str) -> None:
    """The tests of sampling once more in a process that is limited to an older instruction set."""
    available = torch.ops.prism.instruction_set()
    if available == "portable" or "PRISM_ISA" in os.environ:
        pytest.skip(f"this process runs {available} already")
    chosen = "large_vocabularies or figures or rules or hopeless or huge or rare"
    tests = f"{os.path.dirname(__file__)}/test_sample.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", tests, "-k", chosen]
    environment = {**os.environ, "PRISM_ISA": instruction_set}
    found = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert found.returncode == 0, found.stdout + found.stderr
