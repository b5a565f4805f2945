"""``PrismScheduler`` in diffusers' ``LLaDA2Pipeline`` around the real LLaDA2 and LLaDA2.1, saved, and loaded elsewhere.

    PRISM_HOST_DLLM=<checkout of ZHZisZZ/dllm> pytest -m real_host tests/integrations/test_diffusers_real.py

The models' code needs transformers 4.57, whose huggingface_hub diffusers 0.38 and 0.39 take.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed (extra: hosts)")
if not hasattr(diffusers, "LLaDA2Pipeline"):
    pytest.skip(f"diffusers {diffusers.__version__} has no LLaDA2Pipeline", allow_module_level=True)

import prism_plugin  # noqa: E402
from prism_plugin.integrations.block_causal import BlockCausalDenoiser  # noqa: E402
from prism_plugin.integrations.diffusers import PrismScheduler  # noqa: E402

from .dllm_checkpoints import MASK, SIZE, checkpoint, tokenizer_of  # noqa: E402

pytestmark = pytest.mark.real_host
CALL = {"gen_length": 16, "num_inference_steps": 4, "block_length": 4, "eos_early_stop": False}


@pytest.fixture(scope="module", params=["llada2", "llada21"])
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The folder of a small checkpoint with a head, and the library that has its class."""
    if "PRISM_HOST_DLLM" not in os.environ:
        pytest.skip("PRISM_HOST_DLLM names no checkout")
    sys.path.insert(0, os.environ["PRISM_HOST_DLLM"])
    try:
        yield checkpoint(request.param, tmp_path_factory.mktemp(request.param), BlockCausalDenoiser)
    finally:
        sys.path.remove(os.environ["PRISM_HOST_DLLM"])
        for name in [name for name in sys.modules if name.split(".")[0] == "dllm"]:
            del sys.modules[name]


@pytest.fixture
def pipe(saved: str) -> Any:
    """The pipeline with the stock scheduler, as its page makes it."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(saved, attn_implementation="eager").eval()
    scheduler = diffusers.BlockRefinementScheduler(block_length=4)
    made = diffusers.LLaDA2Pipeline(model=model, scheduler=scheduler, tokenizer=tokenizer_of("llada2"))
    made.set_progress_bar_config(disable=True)
    return made


def use(pipe: Any, **settings: Any) -> Any:
    pipe.scheduler = PrismScheduler.from_config(pipe.scheduler.config, **settings)
    return pipe


def prompts(rows: int = 2, length: int = 8) -> Tensor:
    return torch.randint(MASK + 1, SIZE, (rows, length), generator=torch.Generator().manual_seed(0))


def run(pipe: Any, ids: Tensor, **call: Any) -> Tensor:
    return pipe(input_ids=ids, use_chat_template=False, output_type="seq", **{**CALL, **call}).sequences


def test_the_stock_schedulers_tokens(pipe: Any) -> None:
    """Unattached, with the pipeline's own mask."""
    stock = run(pipe, prompts(), threshold=1.1, editing_threshold=None)
    assert torch.equal(run(use(pipe, sampler="confidence"), prompts()), stock)


@pytest.mark.parametrize("sampler", ["confidence", "prism-llada"])
def test_attached_it_writes_what_our_own_loop_writes_block_causally(pipe: Any, saved: str, sampler: str) -> None:
    learned = {} if sampler == "confidence" else {"head": f"{saved}/head", "num_remask": 1}
    plain = run(pipe, prompts(), threshold=1.1, editing_threshold=None)
    prism = prism_plugin.enable(
        BlockCausalDenoiser(pipe.model, MASK, block_length=4), learned.get("head"), sampler=sampler
    )
    settings = {name: value for name, value in learned.items() if name != "head"}
    masks = torch.full((2, 16), MASK)
    own = prism.generate(torch.cat([prompts(), masks], dim=1), steps=16, block_length=4, temperature=0.0, **settings)
    assert not learned or int(own.remasked.sum()) > 0
    use(pipe, sampler=sampler, **learned).scheduler.attach(pipe, block_length=4)
    found = run(pipe, prompts())
    assert torch.equal(found, own.tokens[:, 8:]) and not torch.equal(found, plain)


def test_saved_and_loaded_in_a_fresh_process(pipe: Any, saved: str, tmp_path: Path) -> None:
    use(pipe, sampler="prism", head=f"{saved}/head", num_remask=1, seed=3)
    pipe.save_pretrained(tmp_path / "pipe")
    pipe.scheduler.attach(pipe, block_length=4)
    here = run(pipe, prompts(), temperature=1.0)
    script = f"""
import sys
sys.path[:0] = [{os.environ["PRISM_HOST_DLLM"]!r}, {str(Path(__file__).parents[2])!r}]
import dllm
import torch
from diffusers import LLaDA2Pipeline
from transformers import AutoModel, AutoTokenizer
from prism_plugin.integrations.diffusers import PrismScheduler

model = AutoModel.from_pretrained({saved!r}, attn_implementation="eager").eval()
own = {{"model": model, "tokenizer": AutoTokenizer.from_pretrained({saved!r})}}
pipe = LLaDA2Pipeline.from_pretrained({str(tmp_path / "pipe")!r}, **own)
pipe.set_progress_bar_config(disable=True)
pipe.scheduler.attach(pipe, block_length=4)
ids = torch.tensor({prompts().tolist()})
print(pipe(input_ids=ids, use_chat_template=False, output_type="seq", temperature=1.0, **{CALL!r}).sequences.tolist())
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr[-2000:]
    assert found.stdout.splitlines()[-1] == str(here.tolist())


def test_enabled_as_a_pipeline_or_as_its_model(pipe: Any) -> None:
    """Its tokenizer comes with it; its model alone is found by its class."""
    prism = prism_plugin.enable(pipe, sampler="confidence", steps=4)
    written = prism.generate("a b c", max_new_tokens=4).texts[0]
    assert len(written.split()) == 4
    assert isinstance(prism_plugin.enable(pipe.model, mask_id=MASK, sampler="confidence").denoiser, BlockCausalDenoiser)
