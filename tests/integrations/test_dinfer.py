"""dInfer: the decoder in the engine's own loop; on a stand-in of it, or on its own classes.

    PRISM_HOST_DINFER=<checkout of inclusionAI/dInfer> pytest -m real_host tests/integrations/test_dinfer.py

Of a checkout ``decoding.parallel_strategy``, ``.utils`` and ``.generate_uniform`` are imported, by path.
"""

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from prism_plugin.errors import ConfigError
from prism_plugin.integrations.llada import LLaDADenoiser
from prism_plugin.quality.head import attach_head, save_head
from prism_plugin.sampling.config import SamplerConfig
from prism_plugin.sampling.drive import generate
from tests.hosts.llada_like import modeling

from .engines import imported
from .laws import few_symbols, same_law

MASK, EOS = 59, 2
REAL = ["dinfer.decoding.parallel_strategy", "dinfer.decoding.utils", "dinfer.decoding.generate_uniform"]
OURS = ("prism_plugin.integrations.dinfer", "prism_plugin.integrations.dinfer.decoder")


@pytest.fixture(scope="module", params=["stand-in", pytest.param("real", marks=pytest.mark.real_host)])
def host(request: pytest.FixtureRequest) -> Iterator[SimpleNamespace]:
    """The engine's decoders and loop, and ours on its base class."""
    folder = Path(__file__).parents[1] / "hosts/dinfer_like/dinfer"
    if request.param == "real":
        if "PRISM_HOST_DINFER" not in os.environ:
            pytest.skip("PRISM_HOST_DINFER names no checkout")
        folder = Path(os.environ["PRISM_HOST_DINFER"]) / "python/dinfer"
    compiler = torch.compile
    torch.compile = lambda *given, **named: given[0] if given else (lambda function: function)  # needs no compiler
    try:
        with imported(folder, REAL, {}, forget=OURS):
            decoders, loops, utils = (importlib.import_module(f"dinfer.decoding.{name}")
                                      for name in ("parallel_strategy", "generate_uniform", "utils"))  # fmt: skip
            ours = importlib.import_module("prism_plugin.integrations.dinfer.decoder").PrismDecoder
            yield SimpleNamespace(decoders=decoders, loops=loops, utils=utils, ours=ours)
    finally:
        torch.compile = compiler


@pytest.fixture(scope="module")
def model() -> Any:
    small = {"vocab_size": 60, "embedding_size": 60, "mask_token_id": MASK, "eos_token_id": EOS}
    made = modeling.build(seed=2, **small)  # no two confidences within the 1e-5 that the engine takes for equal
    made.model.transformer["ff_out"].register_forward_hook(  # a trained model gives the mask no weight
        lambda layer, states, logits: logits.index_fill(-1, torch.tensor([MASK]), -1e4)
    )
    return made


def prompts(rows: int = 1) -> Tensor:
    return torch.randint(3, 59, (rows, 5), generator=torch.Generator().manual_seed(0))


def run(host: SimpleNamespace, model: Any, decoder: Any, rows: int = 1, early_stop: bool = False) -> tuple[Tensor, int]:
    loop = host.loops.BlockWiseDiffusionLLM(model, decoder, host.utils.BlockIteratorFactory(), early_stop=early_stop)
    return loop.generate(prompts(rows), gen_length=24, block_length=12), loop.num_forwards


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("bound", [0.9, 0.3])
def test_the_engines_own_tokens_by_a_threshold(host: SimpleNamespace, model: Any, bound: float, rows: int) -> None:
    own = host.decoders.ThresholdParallelDecoder(temperature=0, threshold=bound, mask_id=MASK, eos_id=EOS)
    ours = host.ours("threshold", mask_id=MASK, eos_id=EOS, fill_bound=bound)
    expected, passes = run(host, model, own, rows)
    found, spent = run(host, model, ours, rows)
    assert torch.equal(found, expected) and spent == passes


def test_the_engines_own_tokens_by_runs_of_masks(host: SimpleNamespace, model: Any) -> None:
    if not hasattr(host.decoders, "HierarchyDecoder"):
        assert host.decoders.__file__.count("dinfer_like"), "a checkout has it"
        return
    own = host.decoders.HierarchyDecoder(temperature=0, mask_id=MASK, eos_id=EOS, threshold=0.6, low_threshold=0.2)
    ours = host.ours("threshold", mask_id=MASK, eos_id=EOS, order="hierarchy", fill_bound=0.6, tau=0.2)
    for each, other in zip(run(host, model, own), run(host, model, ours), strict=True):
        assert torch.equal(torch.as_tensor(each), torch.as_tensor(other))


@pytest.mark.parametrize("host", [pytest.param("real", marks=pytest.mark.real_host)], indirect=True, scope="module")
@pytest.mark.parametrize("rule", ["threshold", "hierarchy"])
def test_the_engines_own_law(host: SimpleNamespace, model: Any, rule: str) -> None:
    """Above temperature 0; equal prompts in a batch get texts of their own. HierarchyDecoder takes one text."""
    rows, at_once = (3000, 3000) if rule == "threshold" else (1500, 1)
    same: dict[str, Any] = {"temperature": 0.8, "mask_id": MASK, "eos_id": EOS}
    if rule == "threshold":
        own = host.decoders.ThresholdParallelDecoder(threshold=0.5, **same)
        rules: dict[str, Any] = {"fill_bound": 0.5}
    else:
        own = host.decoders.HierarchyDecoder(threshold=0.6, low_threshold=0.3, **same)
        rules = {"order": "hierarchy", "fill_bound": 0.6, "tau": 0.3}
    torch.manual_seed(0)
    with few_symbols(model):
        theirs = [few(host, model, own, at_once) for _ in range(rows // at_once)]
        ours = [few(host, model, host.ours(seed=n, **same, **rules), at_once) for n in range(rows // at_once)]
    same_law(torch.cat(theirs), torch.cat(ours))


def few(host: SimpleNamespace, model: Any, decoder: Any, rows: int) -> Tensor:
    """Two blocks of two tokens (N, 4) behind one prompt."""
    loop = host.loops.BlockWiseDiffusionLLM(model, decoder, host.utils.BlockIteratorFactory(), early_stop=False)
    return loop.generate(prompts().repeat(rows, 1), gen_length=4, block_length=2)[:, -4:]


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("sampler", ["remdm-conf", "remdm-llada", "saber", "t2t", "hierarchy-remask", "random-remask"])
def test_presets_that_revise(host: SimpleNamespace, model: Any, sampler: str, rows: int) -> None:
    revised: list[int] = []

    class Counted(host.ours):  # type: ignore[misc,name-defined]
        def block_init(self, block_x: Tensor, block_id: int) -> None:
            revised.append(0 if self.state is None else int(self.state.remasks.sum()))
            super().block_init(block_x, block_id)

    decoder = Counted(sampler, mask_id=MASK, eos_id=EOS, steps=12)
    found, _ = run(host, model, decoder, rows)
    assert not (found == MASK).any()
    decoder.block_init(found, 2)
    assert sum(revised) > 0
    alone, _ = run(host, model, host.ours(sampler, mask_id=MASK, eos_id=EOS, steps=12))
    assert torch.equal(found[:1][found[:1] != EOS], alone[alone != EOS]), "a text does not depend on its neighbours"


def test_the_same_text_as_our_own_loop(host: SimpleNamespace, model: Any) -> None:
    """While masks are left the engine asks for a step, as our loop takes it."""
    config = SamplerConfig("confidence", steps=24, block_length=12, temperature=0.0, confidence_of="untempered")
    denoiser = LLaDADenoiser(model, MASK)
    expected = generate(denoiser, torch.nn.functional.pad(prompts(2), (0, 24), value=MASK), config).tokens
    found, passes = run(host, model, host.ours("confidence", mask_id=MASK, eos_id=EOS, steps=12), rows=2)
    assert torch.equal(found, expected) and passes == 24


def test_a_head_reads_what_enters_the_output_layer(host: SimpleNamespace, model: Any, tmp_path: Path) -> None:
    denoiser = LLaDADenoiser(model, MASK)
    torch.manual_seed(0)
    attach_head(denoiser, "mlp")
    save_head(denoiser, tmp_path)
    asked = {"head": str(tmp_path), "mask_id": MASK, "eos_id": EOS, "steps": 12, "num_remask": 1}
    decoder = host.ours("prism-llada", **asked).watch(model.model.transformer["ff_out"])
    found, _ = run(host, model, decoder, rows=2)
    assert not (found == MASK).any() and int(decoder.state.remasks.sum()) > 0
    with pytest.raises(ConfigError, match="gave none with this forward pass"):
        run(host, model, host.ours("prism-llada", **asked))
    text = torch.nn.functional.pad(prompts(1), (0, 24), value=MASK)
    seen = {}
    for name, window in {"all": slice(0, 29), "prefix": slice(5, 29), "block": slice(5, 17)}.items():
        decoder.block_init(text, 0)
        tokens = text.clone()
        with torch.no_grad():
            states = denoiser(tokens).hidden
            logits = denoiser.logits(states[:, 5:17])
        for _ in range(4):  # as the loops with a cache show it: states of other columns, the same logits
            decoder._hidden = states[:, window]
            decoder.decode(logits, 5, 17, tokens)
        seen[name] = tokens
    assert torch.equal(seen["all"], seen["prefix"]) and torch.equal(seen["all"], seen["block"])
    decoder._hidden = states[:, :7]
    with pytest.raises(ConfigError, match="states of 7 columns for a text of 29"):
        decoder.decode(logits, 5, 17, text.clone())


@pytest.mark.parametrize(
    ("sampler", "changes", "message"),
    [("wino", {}, "shadow"), ("gibbs", {}, "second forward"), ("t2t", {"reach": "text"}, "reach = text"),
     ("thershold", {}, "Nearest: threshold"), ("threshold", {"block_length": 4}, "block_length = 4")],
)  # fmt: skip
def test_what_cannot_run_is_refused_when_it_is_made(
    host: SimpleNamespace, sampler: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        host.ours(sampler, mask_id=MASK, **changes)


def test_a_threshold_that_moves_is_refused(host: SimpleNamespace) -> None:
    with pytest.raises(ConfigError, match="iter_threshold"):
        host.ours(mask_id=MASK).decode(torch.zeros(1, 4, 60), 0, 4, torch.full((1, 4), MASK), 0.8)
