"""SGLang: the algorithm on the runtime's own base class and loops; a stand-in of them, or those of a checkout.

    PRISM_HOST_SGLANG=… pytest -m real_host tests/integrations/test_sglang.py

names a checkout, or an unpacked wheel. Of it only ``srt/dllm`` and ``srt/plugins`` are imported, by path.
"""

import importlib
import os
import random
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from prism_plugin.errors import ConfigError
from prism_plugin.integrations import blocks
from prism_plugin.quality.head import attach_head, save_head
from prism_plugin.sampling.config import SamplerConfig, fitting
from prism_plugin.sampling.drive import generate
from prism_plugin.sampling.presets import presets
from tests.table_model import chain

from .engines import Request, Runner, batch, imported, serve

BLOCK, LENGTH, SYMBOLS = 4, 8, 2
OURS = ("prism_plugin.integrations.sglang", "prism_plugin.integrations.sglang.algorithm")
NOT_HERE = {
    "wino": "shadow", "shadow-evidence": "attention mask of its own",
    **dict.fromkeys((name for name in presets if presets[name].get("method") == "redraw"), "noise of symbols"),
    "gibbs": "second forward", "core": "second forward", "proseco": "second forward", "prism-2pass": "second forward",
    "prism-correct": "second forward", "g-star": "second forward", "token-critic": "second forward",
    "cavity-evidence": "further forward passes",
}  # fmt: skip
HERE = [name for name in presets if name not in NOT_HERE]


def host_folder(kind: str) -> tuple[Path, list[str]]:
    """Where the package ``sglang`` lies, and which modules of it are taken."""
    if kind == "stand-in":
        return Path(__file__).parents[1] / "hosts/sglang_like/sglang", ["sglang.srt.dllm"]
    folder = os.environ.get("PRISM_HOST_SGLANG")
    if not folder:
        pytest.skip("PRISM_HOST_SGLANG names no checkout")
    found = [Path(folder) / inside for inside in ("python/sglang", "sglang") if (Path(folder) / inside).is_dir()]
    return found[0], ["sglang.srt.dllm", "sglang.srt.plugins"]


class ModelConfig:
    """Stands for SGLang's reader of a model's config."""

    @staticmethod
    def from_server_args(*given, **named):
        return SimpleNamespace(hf_config=SimpleNamespace(architectures=["SDARForCausalLM"]), vocab_size=151936)


@pytest.fixture(scope="module", params=["stand-in", pytest.param("real", marks=pytest.mark.real_host)])
def host(request):
    """The package ``sglang.srt.dllm.algorithm``, with Prism in it as the entry point puts it there."""
    folder, real = host_folder(request.param)
    nothing = SimpleNamespace(get=lambda: None)
    given = {
        "sglang.srt.utils": {"is_npu": lambda: False},
        "sglang.srt.environ": {"envs": SimpleNamespace(SGLANG_PLUGINS=nothing, SGLANG_PLATFORM=nothing)},
        "sglang.srt.arg_groups.overrides": {"resolving_view": lambda args: args},
        "sglang.srt.configs.model_config": {"ModelConfig": ModelConfig},
    }
    with imported(folder, real, given, forget=OURS):
        algorithm = importlib.import_module("sglang.srt.dllm.algorithm")
        tomllib = pytest.importorskip("tomllib", reason="tomllib comes with Python 3.11")
        project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
        ((name, value),) = project["entry-points"]["sglang.srt.plugins"].items()
        entry = EntryPoint(name, value, "sglang.srt.plugins")
        if request.param == "real":
            plugins = importlib.import_module("sglang.srt.plugins")
            plugins.entry_points = lambda group: [entry] if group == entry.group else []
            plugins.load_plugins()
        else:
            entry.load()()
        assert "Prism" in algorithm.algo_name_to_cls
        yield algorithm


def made(host, table, fdfo=True, **config):
    """The algorithm as the runtime makes it."""
    from sglang.srt.dllm.config import DllmConfig

    return host.get_algorithm(DllmConfig("Prism", config, BLOCK, table.mask_id, 4, fdfo))


def requests(table, count=3, blocks_each=2, prompt=2):
    draw = random.Random(0)
    return [
        Request(f"r{i}", [draw.randrange(SYMBOLS) for _ in range(i % (prompt + 1))], blocks_each, BLOCK, table.mask_id)
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def table():
    model = chain(LENGTH, SYMBOLS)
    model.head = None
    return model


def some_of(seed):
    """Any one or more of those that wait, in any order."""
    draw = random.Random(seed)
    return lambda waiting: draw.sample(waiting, draw.randint(1, len(waiting)))


def lively(name):
    """Settings with which a sampler revises in so small a block, where it revises at all."""
    wanted = {"name": name, "seed": 3, "steps": 6, "num_remask": 1, "eta": 0.5, "step_on": 0, "step_off": 1.0}
    return {"name": name, **fitting(wanted, name)}


def skip_where_none_can_prepare(name):
    """Versions before ``prepare_inputs`` refuse what remasks ahead of a forward, see the test of that."""
    base = sys.modules["sglang.srt.dllm.algorithm.base"].DllmAlgorithm
    config = blocks.settings(SamplerConfig(**lively(name)), BLOCK)
    if not hasattr(base, "prepare_inputs") and (config.refill == "fresh" or config.method == "revise_then_loop"):
        pytest.skip("this version has no prepare_inputs")


@pytest.mark.parametrize("name", HERE)
def test_tokens_do_not_depend_on_the_batch(host, table, name):
    skip_where_none_can_prepare(name)
    alone, mixed = requests(table), requests(table)
    for request in alone:
        serve(made(host, table, sampler=lively(name)), Runner(table, BLOCK), [request], lambda waiting: waiting)
    serve(made(host, table, sampler=lively(name)), Runner(table, BLOCK), mixed, some_of(0))
    assert [r.text for r in mixed] == [r.text for r in alone]
    for request in alone:
        assert table.mask_id not in request.text
        assert request.text[: len(request.prompt)] == request.prompt


@pytest.mark.parametrize("name", HERE)
def test_both_loops_give_the_tokens_of_our_own(host, name):
    skip_where_none_can_prepare(name)
    small = chain(BLOCK, 3)
    small.head = None
    settings = lively(name)
    score = blocks.settings(SamplerConfig(**settings), BLOCK).score
    rids, prompt = ["a", "b", "c"], torch.tensor([[0, 3, 3, 3], [1, 2, 3, 3], [3, 3, 3, 3]])
    ours = generate(
        small, prompt, SamplerConfig(**settings, score=score, block_length=0),
        request=torch.tensor([blocks.key(rid) for rid in rids]),
    ).tokens.tolist()  # fmt: skip

    def asked():
        given = [[token for token in row if token < 3] for row in prompt.tolist()]
        return [Request(rid, some, 1, BLOCK, 3) for rid, some in zip(rids, given, strict=True)]

    waiting = asked()
    serve(made(host, small, sampler=settings), Runner(small, BLOCK), waiting, some_of(5))
    assert [r.text for r in waiting] == ours

    waiting, runner = asked(), Runner(small, BLOCK)
    _, found, *_ = made(host, small, fdfo=False, sampler=settings).run(runner, batch(waiting, BLOCK))
    for row, request, end in zip(ours, waiting, found, strict=True):
        assert row[len(request.prompt) :] == end.tolist()
        assert runner.seen[request.rid][-1] == row, "the last forward went over the final tokens"


def test_a_block_of_the_prompt_is_done_at_once(host, table):
    algorithm, runner = made(host, table), Runner(table, BLOCK)
    serve(algorithm, runner, [Request("p", [0, 1, 1, 0, 1], 2, BLOCK, table.mask_id)], lambda waiting: waiting)
    assert runner.seen["p"].count([0, 1, 1, 0]) == 1


def test_a_mask_of_the_prompt_stays(host, table):
    algorithm = made(host, table)
    shown = batch([Request("m", [0], 1, BLOCK, table.mask_id)], BLOCK)
    shown.dllm_prompt_mask = torch.tensor([[True, True, False, False]])
    places = algorithm.init_step_state(shown)
    assert places[0].state.editable.tolist() == [[False, False, True, True]]


@pytest.mark.parametrize(("name", "reason"), NOT_HERE.items())
def test_what_cannot_run_is_refused_by_name_with_the_reason(host, table, name, reason):
    with pytest.raises(ConfigError, match=f"{name}.*{reason}"):
        made(host, table, sampler=name)


def test_settings_are_checked_as_everywhere(host, table):
    for config, said in [
        ({"sampler": {"name": "prism", "num_remsk": 2}}, "sampler.num_remsk.*num_remask"),
        ({"sampler": {"name": "prism", "num_remask": -1}}, "num_remask = -1"),
        ({"smpler": "prism"}, "smpler.*sampler"),
        ({"sampler": {"name": "prism", "block_length": 8}}, "block_length = 8: the engine's own is 4"),
        ({"sampler": {"name": "prism", "score": "quality"}}, "needs a trained quality head"),
        ({"sampler": {"name": "t2t", "reach": "text"}}, "finished blocks"),
        ({"sampler": {"name": "mdlm", "repetition_penalty": 1.2}}, "whole text"),
    ]:
        with pytest.raises(ConfigError, match=said):
            made(host, table, **config)


def test_without_a_head_self_likelihood_takes_its_place_and_says_so(host, table, caplog):
    assert made(host, table, sampler="prism").sampler.score == "self_likelihood"
    assert "no quality head" in caplog.text


def test_a_request_that_asks_for_what_is_not_read_is_refused(host, table):
    request = Request("x", [], 1, BLOCK, table.mask_id)
    request.sampling_params = SimpleNamespace(
        temperature=0.3, json_schema="{}", min_p=0.1, repetition_penalty=1.0, sampling_seed=0
    )
    said = made(host, table).validate_request(request)
    assert "support min_p, sampling_seed, json_schema of" in said


@pytest.fixture(scope="module")
def head_folder(table, tmp_path_factory):
    """A head for the hidden states of the table model, as ``prism train quality`` leaves it."""
    model = chain(LENGTH, SYMBOLS)
    model.hidden_at, model.hidden_size = "post_norm", model.vocab_size
    torch.manual_seed(0)
    attach_head(model, "linear")
    folder = tmp_path_factory.mktemp("head")
    save_head(model, folder)
    return folder


@pytest.fixture
def takes_head(host, table, head_folder):
    """Ends the test on a version that cannot show a head anything."""
    if not hasattr(sys.modules["sglang.srt.dllm.algorithm.base"].DllmAlgorithm, "prepare_inputs"):
        with pytest.raises(ConfigError, match="head looks at the model before"):
            made(host, table, head=str(head_folder))
        pytest.skip("this version has no prepare_inputs")


@pytest.mark.usefixtures("takes_head")
def test_a_head_reads_what_enters_the_logits_processor(host, table, head_folder, monkeypatch):
    texts = []
    for seed in (0, 1):
        waiting = requests(table)
        algorithm = made(host, table, sampler={"name": "prism", "steps": 8, "num_remask": 1}, head=str(head_folder))
        assert algorithm.sampler.score == "quality"
        serve(algorithm, runner := Runner(table, BLOCK), waiting, some_of(seed))
        texts.append([r.text for r in waiting])
    assert texts[0] == texts[1]
    runner.committed.clear()
    shown, seen = batch(requests(table), BLOCK), []
    algorithm.prepare_inputs(runner, shown, states := algorithm.init_step_state(shown))
    judge = algorithm.model.judge
    monkeypatch.setattr(
        algorithm.model, "judge", lambda output, *rest: seen.append(output.hidden) or judge(output, *rest)
    )
    algorithm.step(shown, runner.forward(shown).logits_output, states)
    assert torch.equal(seen[0].flatten(0, 1), runner.hidden)


@pytest.mark.usefixtures("takes_head")
def test_a_forward_that_shows_no_hidden_states_says_what_to_do(host, table, head_folder):
    algorithm, runner = made(host, table, head=str(head_folder)), Runner(table, BLOCK)
    runner.model.logits_processor.forward = None
    shown = batch(requests(table), BLOCK)
    states = algorithm.init_step_state(shown)
    algorithm.prepare_inputs(runner, shown, states)
    with pytest.raises(ConfigError, match="--disable-cuda-graph"):
        algorithm.step(shown, torch.zeros(12, SYMBOLS + 1), states)


@pytest.mark.parametrize("with_head", [False, True])
def test_step_and_quality_of_every_token_come_back(host, table, head_folder, with_head):
    if not hasattr(sys.modules["sglang.srt.dllm.algorithm.base"].DllmAlgorithm, "validate_request"):
        with pytest.raises(ConfigError, match="report = true"):
            made(host, table, report=True)
        return
    waiting, runner = requests(table), Runner(table, BLOCK)
    more = {"head": str(head_folder)} if with_head else {}
    algorithm = made(host, table, sampler={"name": "prism", "steps": 8, "num_remask": 1}, report=True, **more)
    serve(algorithm, runner, waiting, some_of(2))
    revisions = 0
    for request in waiting:
        info = request.customized_info
        written = request.length - len(request.prompt)
        assert {name: len(values) for name, values in info.items()} == dict.fromkeys(
            ("prism_step", "prism_revisions", "prism_quality"), written
        )
        assert all(0 <= step < 8 for step in info["prism_step"])
        revisions += sum(info["prism_revisions"])
        if not with_head:  # the probability of each token in the last forward over its block
            text = torch.tensor([request.text])
            last = table.leave_one_out(text).gather(-1, text[..., None])[0, -BLOCK:, 0]
            assert info["prism_quality"][-BLOCK:] == pytest.approx(last.tolist(), abs=1e-5)
    assert revisions > 0


def test_newer_versions_hand_an_object_and_give_the_same(host, table, monkeypatch):
    base = sys.modules["sglang.srt.dllm.algorithm.base"].DllmAlgorithm
    if not hasattr(base, "dense"):
        pytest.skip("a checkout hands what it hands")
    texts = []
    for dense in (True, False):
        monkeypatch.setattr(base, "dense", dense)
        waiting = requests(table)
        serve(made(host, table), Runner(table, BLOCK), waiting, some_of(0))
        texts.append([r.text for r in waiting])
    assert texts[0] == texts[1]


def test_a_version_without_prepare_inputs_runs_what_it_can(host, table, monkeypatch):
    base = sys.modules["sglang.srt.dllm.algorithm.base"].DllmAlgorithm
    if not hasattr(base, "dense"):
        pytest.skip("a checkout has what it has")
    expected = requests(table)
    serve(made(host, table, sampler="rcr"), Runner(table, BLOCK), expected, some_of(0))
    monkeypatch.setattr(base, "_forward", lambda self, runner, shown, states: runner.forward(shown))
    monkeypatch.delattr(base, "prepare_inputs")
    waiting = requests(table)
    serve(made(host, table, sampler="rcr"), Runner(table, BLOCK), waiting, some_of(1))
    assert [r.text for r in waiting] == [r.text for r in expected]
    with pytest.raises(ConfigError, match="remdm-llada remasks before"):
        made(host, table, sampler="remdm-llada")


def test_the_command_line_of_the_host_reads_our_yaml(host, tmp_path):
    from sglang.srt.dllm.config import DllmConfig

    if not hasattr(DllmConfig, "from_server_args"):
        pytest.skip("the stand-in has no command line")
    (tmp_path / "prism.yaml").write_text("block_size: 8\nsampler:\n  name: prism\n  steps: 12\n  num_remask: 2\n")
    args = SimpleNamespace(
        dllm_algorithm="Prism", dllm_algorithm_config=str(tmp_path / "prism.yaml"), model_path="m", revision=None,
        max_running_requests=None, dllm_fdfo=True,
    )  # fmt: skip
    algorithm = host.get_algorithm(DllmConfig.from_server_args(args))
    assert (algorithm.block_size, algorithm.sampler.steps, algorithm.mask_id) == (8, 12, 151669)
    assert algorithm.max_steps(8) == 13
