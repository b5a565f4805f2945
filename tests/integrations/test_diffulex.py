"""Diffulex: our sampler in the place of a model's own, on a stand-in of its classes, or on a checkout.

    PRISM_HOST_DIFFULEX=… pytest -m real_host tests/integrations/test_diffulex.py

names a checkout; its requests, blocks, scheduler and samplers are driven, with a table model where its runner is.
"""

import importlib
import os
import random
from collections import deque
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from prism_plugin.errors import ConfigError
from prism_plugin.integrations import blocks
from prism_plugin.models.denoiser import Denoiser, Output
from prism_plugin.quality.head import attach_head, save_head
from prism_plugin.sampling.config import SamplerConfig, fitting
from prism_plugin.sampling.drive import generate

from .engines import imported

OURS = "prism_plugin.integrations.diffulex"
BLOCK, LENGTH, MASK = 4, 16, 8
HERE = ["mdlm", "confidence", "threshold", "remdm-conf", "remdm-cap", "p2-self", "rcr", "t2t", "saber", "prism",
        "self-likelihood", "self-likelihood-mean"]  # fmt: skip
NOT_HERE = {"wino": "shadow", "gibbs": "second forward", "tolerator": "before a pass", "uniform": "noise of symbols"}


class Neighbours(Denoiser):
    """Logits of a position from the tokens beside it; a row more than there are symbols, as hosts pad theirs."""

    vocab_size, mask_id, hidden_size, max_length, hidden_at = 10, MASK, 3, LENGTH, "post_norm"

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.left, self.right, self.at = (torch.randn(n, 10, generator=draw) * 2 for n in (10, 10, LENGTH))

    def forward(self, tokens, padding=None):
        given = tokens.shape[1]
        tokens = torch.nn.functional.pad(tokens, (0, LENGTH - given), value=MASK)  # what comes later is masks
        logits = self.left[tokens.roll(1, 1)] + self.right[tokens.roll(-1, 1)] + self.at
        logits = logits.index_fill(2, torch.tensor([9]), 9.0)
        return Output(logits[:, :given, :3].contiguous(), None, logits[:, :given])


@pytest.fixture(scope="module", params=["stand-in", pytest.param("real", marks=pytest.mark.real_host)])
def host(request):
    """What the tests take of Diffulex."""
    folder = Path(__file__).parents[1] / "hosts/diffulex_like"
    if request.param == "real":
        if not os.environ.get("PRISM_HOST_DIFFULEX"):
            pytest.skip("PRISM_HOST_DIFFULEX names no checkout")
        pytest.importorskip("easydict", reason="Diffulex needs easydict")
        folder = Path(os.environ["PRISM_HOST_DIFFULEX"])
    names = ["diffulex.engine.request", "diffulex.engine.scheduler", "diffulex.sampler.auto_sampler"]
    with imported(folder / "diffulex", ["diffulex"], forget=[OURS]), pytest.MonkeyPatch.context() as patched:
        patched.syspath_prepend(str(folder))
        requests, scheduler, samplers = map(importlib.import_module, names)
        yield SimpleNamespace(
            DllmReq=requests.DllmReq, SchedulerBase=scheduler.SchedulerBase, AutoSampler=samplers.AutoSampler,
            ours=importlib.import_module(OURS),
        )  # fmt: skip


CONFIG = SimpleNamespace(
    model_name="llada2_mini", block_size=BLOCK, buffer_size=1, mask_token_id=MASK, tokenizer_vocab_size=9, eos=-1,
    max_model_len=8 * LENGTH, enforce_eager=True,
    decoding_thresholds=SimpleNamespace(
        add_block_threshold=1.0, semi_complete_threshold=1.0, accept_threshold=0.9, token_stability_threshold=0.0
    ),
)  # fmt: skip


class Engine:
    """Requests of Diffulex through its scheduler, passes by a table model."""

    def __init__(self, host, model, **settings):
        host.ours.register("llada2_mini", **settings)
        self.sampler, self.model, self.host = host.AutoSampler.from_config(CONFIG), model, host
        self.runner = SimpleNamespace(compute_logits=lambda hidden: self.logits)
        self.sampler.bind_model(self.runner)
        self.sampler.fetch_attn_metadata = lambda: self.metadata
        self.scheduler = type("Scheduler", (host.SchedulerBase,), {"__init__": lambda _: None})()
        self.scheduler.kv_cache_manager = SimpleNamespace(free=lambda req: None)

    def asked(self, prompts):
        """Requests for more than ``LENGTH``: Diffulex ends one when its last blocks are laid out, written or not."""
        made = []
        for number, prompt in enumerate(prompts):
            params = SimpleNamespace(temperature=1.0, max_tokens=LENGTH + 2 * BLOCK, max_nfe=1000,
                                     max_repetition_run=None, ignore_eos=True)  # fmt: skip
            made.append(self.host.DllmReq(prompt, params))
            made[-1].req_id = number
            made[-1].init_multi_block(CONFIG)
            made[-1].make_pending()
        self.scheduler.running_reqs = deque(made)
        return made

    def serve(self, reqs, choose):
        """Texts, when all have ended."""
        for _ in range(400):
            waiting = [req for req in reqs if not (req.is_completed or getattr(req, "is_finished", False))]
            if not waiting:
                return [req.token_ids[:LENGTH] for req in reqs]
            some, tables, hidden = choose(waiting), [], []
            for req in some:
                req.step()
                where = list(req.running_position_ids)
                text = (req.token_ids + [MASK] * LENGTH)[:LENGTH]
                seen = self.model(torch.tensor([text]))
                within = [min(place, LENGTH - 1) for place in where]  # what lies behind is of no interest
                tables.append(seen.logits[0, within])
                hidden.append(seen.hidden[0, within])
            ends = torch.tensor([0, *map(len, tables)]).cumsum(0)
            self.metadata = SimpleNamespace(is_prefill=[req.is_prefilling for req in some], cu_seqlens_q=ends)
            self.logits = torch.cat(tables)
            logits = self.runner.compute_logits(torch.cat(hidden))
            self.scheduler.postprocess(some, self.sampler(some, logits, torch.ones(len(some))))
        raise AssertionError("not done after 400 passes")


def lively(name):
    """Settings with which a sampler revises in so small a block, where it revises at all."""
    wanted = {"name": name, "seed": 3, "steps": 6, "num_remask": 1, "eta": 0.5}
    return fitting(wanted, name) | {"sampler": name}


PROMPTS = [[], [1, 2], [0, 1, 2, 3, 4]]


def some_of(seed):
    draw = random.Random(seed)
    return lambda waiting: draw.sample(waiting, draw.randint(1, len(waiting)))


@pytest.mark.parametrize("name", HERE)
def test_blocks_come_out_as_by_our_own_loop_whatever_the_batch(host, name):
    model, given = Neighbours(), lively(name)
    prompts = PROMPTS[1:]  # one of Diffulex's has a token at least
    engine = Engine(host, model, **given)
    found = engine.serve(engine.asked(prompts), some_of(4))
    config = {key: value for key, value in given.items() if key not in ("sampler", "name")}
    score = engine.sampler.sampler.score
    for number, prompt in enumerate(prompts):
        tokens = torch.tensor([prompt + [MASK] * (LENGTH - len(prompt))])
        for end in range(BLOCK, LENGTH + 1, BLOCK):  # block by block, as an engine shows them
            if (tokens[:, :end] == MASK).any():
                tokens[:, :end] = generate(
                    model, tokens[:, :end], SamplerConfig(name, **config, score=score),
                    suppress_ids=torch.tensor([9]), request=torch.tensor([blocks.key(str(number))]),
                ).tokens  # fmt: skip
        assert found[number] == tokens[0].tolist()
        assert MASK not in found[number] and 9 not in found[number] and found[number][: len(prompt)] == prompt


def test_ended_requests_are_forgotten(host):
    engine = Engine(host, Neighbours(), sampler="prism", steps=3)
    reqs = engine.asked(PROMPTS[1:])
    engine.serve(reqs, lambda waiting: waiting)
    assert engine.sampler.places
    engine.sampler.evict_req_states([0, "1"])
    assert not engine.sampler.places


def test_a_head_reads_what_enters_the_output_layer(host, tmp_path):
    model = Neighbours()
    attach_head(model, "mlp")
    torch.nn.init.normal_(next(reversed(list(model.head.parameters()))), std=3.0)
    save_head(model, tmp_path / "head")
    with_head = Engine(host, Neighbours(), head=str(tmp_path / "head"), **lively("prism"))
    without = Engine(host, Neighbours(), **lively("prism"))
    texts = [engine.serve(engine.asked(PROMPTS[1:]), lambda waiting: waiting) for engine in (with_head, without)]
    assert texts[0] != texts[1]
    with_head.runner.compute_logits = lambda hidden: with_head.logits
    with pytest.raises(ConfigError, match="this forward pass showed none"):
        with_head.serve(with_head.asked(PROMPTS[1:]), lambda waiting: waiting)
    graphs = SimpleNamespace(**{**vars(CONFIG), "enforce_eager": False})
    host.ours.register("llada2_mini", head=str(tmp_path / "head"))
    with pytest.raises(ConfigError, match="enforce_eager=True"):
        host.AutoSampler.from_config(graphs)


@pytest.mark.parametrize(("name", "reason"), NOT_HERE.items())
def test_what_cannot_run_is_refused_by_name_with_the_reason(host, name, reason):
    host.ours.register("llada2_mini", name)
    with pytest.raises(ConfigError, match=f"{name}.*{reason}"):
        host.AutoSampler.from_config(CONFIG)


def test_models_whose_logits_are_shifted_are_refused(host):
    with pytest.raises(ConfigError, match="model_name = 'dream'"):
        host.ours.register("dream")
    with pytest.raises(ConfigError, match=r"sampler\.num_remsk"):
        host.ours.register("llada2", num_remsk=1)
