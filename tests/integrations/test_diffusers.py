"""``PrismScheduler`` in the real ``LLaDA2Pipeline`` of the installed diffusers, with a tiny model of its interface."""

import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

diffusers = pytest.importorskip("diffusers", reason="diffusers is not installed (extra: hosts)")
tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is not installed (comes with transformers)")
if not hasattr(diffusers, "LLaDA2Pipeline"):
    pytest.skip(f"diffusers {diffusers.__version__} has no LLaDA2Pipeline", allow_module_level=True)

from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast  # noqa: E402
from transformers.modeling_outputs import MaskedLMOutput  # noqa: E402

import prism_plugin  # noqa: E402
from prism_plugin.errors import CheckpointError, ConfigError  # noqa: E402
from prism_plugin.integrations.diffusers import LLaDA2Denoiser, PrismScheduler  # noqa: E402
from prism_plugin.quality.head import attach_head, save_head  # noqa: E402
from prism_plugin.quality.loss import QualityConfig  # noqa: E402
from prism_plugin.sampling import drive  # noqa: E402
from prism_plugin.sampling.config import SamplerConfig  # noqa: E402
from prism_plugin.sampling.presets import presets  # noqa: E402
from prism_plugin.training.objectives import QualityObjective  # noqa: E402

PAD, EOS, MASK, VOCAB = 0, 1, 2, 24


class TinyConfig(PretrainedConfig):
    model_type = "tiny_llada2"

    def __init__(self, hidden_size: int = 16, vocab_size: int = VOCAB, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.hidden_size, self.vocab_size, self.max_position_embeddings = hidden_size, vocab_size, 64


class TinyModel(PreTrainedModel):
    """Bidirectional attention, a final norm, an output layer; random weights that make every position differ."""

    config_class = TinyConfig

    def __init__(self, config: TinyConfig) -> None:
        super().__init__(config)
        size = config.hidden_size
        self.embed, self.place = nn.Embedding(config.vocab_size, size), nn.Embedding(64, size)
        self.attention = nn.MultiheadAttention(size, 2, batch_first=True)
        self.norm = nn.RMSNorm(size)
        self.lm_head = nn.Linear(size, config.vocab_size)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: the weights are those of the constructors."""

    def get_output_embeddings(self) -> nn.Module:
        return self.lm_head

    def forward(self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor) -> MaskedLMOutput:
        x = self.embed(input_ids) + self.place(position_ids)
        x = x + self.attention(x, x, x, key_padding_mask=attention_mask == 0, need_weights=False)[0]
        return MaskedLMOutput(logits=self.lm_head(self.norm(x)))


def build(seed: int = 0, eos: float = -1e4, mask: float = -1e4) -> "diffusers.LLaDA2Pipeline":
    """A pipeline with the stock scheduler; eos and mask are what the output layer adds to these two logits."""
    torch.manual_seed(seed)
    model = TinyModel(TinyConfig()).eval()
    with torch.no_grad():
        model.lm_head.weight *= 4
        model.attention.in_proj_weight *= 3
        model.attention.out_proj.weight *= 6
        model.lm_head.bias[EOS], model.lm_head.bias[MASK], model.lm_head.bias[PAD] = eos, mask, -1e4
    words = {"<pad>": PAD, "<eos>": EOS, "<mask>": MASK, **{f"w{i}": i for i in range(3, VOCAB)}}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w3"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", mask_token="<mask>", padding_side="left"
    )
    scheduler = diffusers.BlockRefinementScheduler(block_length=8)
    pipe = diffusers.LLaDA2Pipeline(model=model, scheduler=scheduler, tokenizer=tokenizer)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def prompts(rows: int = 2, length: int = 8, seed: int = 0) -> Tensor:
    return torch.randint(3, VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def head(tmp_path: Path) -> str:
    """The folder of a head that fits the tiny model (random weights: any quality will do to order tokens)."""
    torch.manual_seed(5)
    denoiser = LLaDA2Denoiser(build())
    attach_head(denoiser, "mlp")
    save_head(denoiser, tmp_path / "head")
    return str(tmp_path / "head")


def use(pipe: "diffusers.LLaDA2Pipeline", **settings: object) -> "diffusers.LLaDA2Pipeline":
    pipe.scheduler = PrismScheduler.from_config(pipe.scheduler.config, **settings)
    if pipe.scheduler.config.head:
        pipe.scheduler.attach(pipe)
    return pipe


class Watch:
    """A callback that keeps what every step did to the block."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []

    def __call__(self, pipe: object, step: int, timestep: int, seen: dict[str, Tensor]) -> dict[str, Tensor]:
        self.steps.append({name: tensor.clone() for name, tensor in seen.items()} | {"t": torch.tensor(timestep)})
        return seen

    @property
    def remasks(self) -> int:
        return sum(int((s["editing_transfer_index"] & (s["sampled_tokens"] == MASK)).sum()) for s in self.steps)


WATCHED = ["block_x", "transfer_index", "editing_transfer_index", "sampled_tokens"]


def run(pipe: "diffusers.LLaDA2Pipeline", ids: Tensor, watch: Watch | None = None, **call: object) -> Tensor:
    call = {"gen_length": 16, "num_inference_steps": 5, "eos_early_stop": False, **call}
    if watch is not None:
        call |= {"callback_on_step_end": watch, "callback_on_step_end_tensor_inputs": WATCHED}
    return pipe(input_ids=ids, use_chat_template=False, output_type="seq", **call).sequences


@pytest.mark.parametrize("steps", [1, 3, 8, 11])
@pytest.mark.parametrize("rows", [1, 2])
def test_confidence_is_the_stock_scheduler_above_every_threshold(rows: int, steps: int) -> None:
    pipe, ids = build(steps), prompts(rows, seed=steps)
    stock = run(pipe, ids, num_inference_steps=steps, threshold=1.1, editing_threshold=None)
    assert torch.equal(run(use(pipe, sampler="confidence"), ids, num_inference_steps=steps), stock)


@pytest.mark.parametrize("threshold", [0.15, 0.3])
def test_threshold_is_the_stock_scheduler(threshold: float) -> None:
    pipe, ids, call = build(3), prompts(), {"num_inference_steps": 4, "threshold": threshold}
    counts, stock = Watch(), run(pipe, ids, editing_threshold=None, **call)
    assert torch.equal(run(use(pipe, sampler="threshold", fill_least=2), ids, counts, **call), stock)
    assert len(counts.steps) < 8  # some steps filled more than their share


def restated(model: TinyModel, ids: Tensor, gen_length: int, block: int, steps: int) -> Tensor:
    """Confidence order in blocks, written anew: every step fills its share of the block's masks, the surest first."""
    end = ids.shape[1] + gen_length
    total = -(-end // block) * block
    x = torch.full((len(ids), total), MASK)
    x[:, : ids.shape[1]] = ids
    for stop in range(ids.shape[1] // block * block + block, total + 1, block):
        for row in x:
            blanks = (row[stop - block : stop] == MASK).sum().item()
            for step in range(steps):
                share = blanks // steps + (step < blanks % steps)
                real = (torch.arange(stop) < end).long()[None]
                logits = model(row[None, :stop], real, torch.arange(stop)[None]).logits[0].double()
                logits[:, MASK] = -torch.inf
                sure, token = logits.softmax(-1).max(-1)
                sure[row[:stop] != MASK] = -1
                sure[: stop - block] = -1
                best = sure.topk(share).indices
                row[best] = token[best]
    return x[:, ids.shape[1] : end]


@pytest.mark.parametrize(("length", "gen_length", "steps"), [(8, 16, 5), (5, 11, 3), (11, 13, 8), (3, 5, 2)])
@torch.no_grad()
def test_confidence_restated(length: int, gen_length: int, steps: int) -> None:
    pipe, ids = use(build(length, mask=3.0), sampler="confidence"), prompts(length=length)
    expected = restated(pipe.model, ids, gen_length, 8, steps)
    assert torch.equal(run(pipe, ids, gen_length=gen_length, num_inference_steps=steps), expected)


@torch.no_grad()
def test_the_pipeline_steps_the_method_that_our_own_loop_drives(head: str) -> None:
    pipe, ids = use(build(), sampler="prism-llada", head=head, num_remask=2), prompts()
    denoiser = pipe.scheduler._denoiser
    config = SamplerConfig("prism-llada", steps=5, num_remask=2)
    tokens = nn.functional.pad(ids, (0, 8), value=MASK)
    own = drive.generate(denoiser, tokens, config, suppress_ids=torch.tensor([MASK]))
    assert own.remasked.sum() > 0
    assert torch.equal(run(pipe, ids, gen_length=8), own.tokens[:, 8:])


@pytest.mark.parametrize("sampler", list(presets))
def test_every_preset_writes_every_mask_and_no_prompt(head: str, sampler: str) -> None:
    unable = ("wino", "core", "proseco", "cavity-evidence", "shadow-evidence")  # passes that the pipeline does not run
    if sampler in unable or presets[sampler].get("method") == "redraw":  # and the mask is its only noise
        with pytest.raises(ConfigError, match=r"this host does not|for noise of symbols"):
            use(build(mask=2.0), sampler=sampler, head=head)
        return
    pipe, ids, watch = use(build(mask=2.0), sampler=sampler, head=head), prompts(length=11), Watch()
    out = run(pipe, ids, watch, gen_length=13, temperature=1.0)
    assert out.shape == (2, 13) and not (out == MASK).any()
    assert torch.equal(watch.steps[-1]["block_x"][:, :11], ids)


def test_remasks_happen_and_the_method_has_its_steps_and_no_more(head: str) -> None:
    pipe, watch, calls = use(build(), sampler="prism", head=head, num_remask=1), Watch(), []
    pipe.model.register_forward_hook(lambda *_: calls.append(1))
    out = run(pipe, prompts(), watch, temperature=1.0, num_inference_steps=6)
    assert watch.remasks >= 4 and not (out == MASK).any()
    assert len(calls) == 6 * 2
    for before, after in zip(watch.steps, watch.steps[1:], strict=False):
        if after["t"] > 0:
            edited = after["editing_transfer_index"]
            assert (before["block_x"][:, -8:][edited] != MASK).all()
            assert (after["block_x"][:, -8:][edited] == MASK).all()
            assert (after["sampled_tokens"][edited] == MASK).all()  # where an EOS stood, none is seen


def test_a_correction_phase_goes_on_with_no_masks_left(head: str) -> None:
    settings = {"sampler": "prism-evidence", "tau": 1e9, "fill_share": 0.5, "guard": "plan"}
    pipe, watch = use(build(), head=head, **settings), Watch()
    out = run(pipe, prompts(), watch, gen_length=8, num_inference_steps=8, temperature=1.0)
    assert watch.remasks > 0 and len(watch.steps) == 8 and not (out == MASK).any()


def test_without_a_head_self_likelihood_and_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "prism_plugin"):
        pipe = use(build(), sampler="prism", num_remask=1)
        fallen = run(pipe, prompts(), watch := Watch(), temperature=1.0)
    assert [r.message for r in caplog.records if "without a head" in r.message and "self-likelihood" in r.message]
    assert len(caplog.records) == 1 and watch.remasks > 0
    assert torch.equal(fallen, run(use(pipe, sampler="self-likelihood", num_remask=1), prompts(), temperature=1.0))


def test_a_text_is_its_seeds_alone(head: str) -> None:
    pipe, ids = use(build(), sampler="prism", head=head, num_remask=1, seed=3), prompts(3)
    first = run(pipe, ids, temperature=1.0)
    assert torch.equal(run(pipe, ids, temperature=1.0), first)
    assert torch.equal(run(pipe, ids[:1], temperature=1.0), first[:1])
    assert not torch.equal(run(use(pipe, seed=4), ids, temperature=1.0), first)
    by_generator = [run(pipe, ids, temperature=1.0, generator=torch.Generator().manual_seed(s)) for s in (7, 7, 8)]
    assert torch.equal(by_generator[0], by_generator[1]) and not torch.equal(by_generator[0], by_generator[2])


def test_blocks_do_not_share_random_numbers() -> None:
    pipe = build()
    with torch.no_grad():
        pipe.model.lm_head.weight.zero_()  # every position has the same posterior: only the numbers differ
    out = run(use(pipe, sampler="random"), prompts(), temperature=1.0)
    assert not torch.equal(out[:, :8], out[:, 8:]) and not torch.equal(out[0], out[1])


def test_temperature_top_k_and_sampling_method_are_the_calls() -> None:
    pipe, ids = use(build(), sampler="random"), prompts()
    greedy = run(pipe, ids)
    assert torch.equal(run(pipe, ids, temperature=1.0, sampling_method="greedy"), greedy)
    assert torch.equal(run(pipe, ids, temperature=1.0, top_k=1), greedy)
    assert torch.equal(run(pipe, ids, temperature=1.0, top_p=1e-6), greedy)
    assert not torch.equal(run(pipe, ids, temperature=1.0), greedy)


def test_saved_and_loaded_with_the_pipeline(head: str, tmp_path: Path) -> None:
    pipe = use(build(), sampler="prism", head=head, num_remask=1, step_on=0.25, seed=9)
    pipe.save_pretrained(tmp_path / "pipe")
    loaded = diffusers.LLaDA2Pipeline.from_pretrained(tmp_path / "pipe", model=pipe.model, tokenizer=pipe.tokenizer)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.scheduler) is PrismScheduler
    public = [{k: v for k, v in p.scheduler.config.items() if not k.startswith("_")} for p in (pipe, loaded)]
    assert public[0] == public[1] and public[1]["block_length"] == 8 and public[1]["step_on"] == 0.25
    with pytest.raises(ConfigError, match=r"head = .*attach"):
        run(loaded, prompts())
    loaded.scheduler.attach(loaded)
    assert torch.equal(run(loaded, prompts(), temperature=1.0), run(pipe, prompts(), temperature=1.0))
    back = diffusers.BlockRefinementScheduler.from_config(loaded.scheduler.config)
    assert back.config.block_length == 8


def test_texts_end_as_the_hosts_do() -> None:
    ids, call = prompts(4), {"eos_early_stop": True, "num_inference_steps": 8, "gen_length": 24}
    ended = 0
    for seed in range(3):
        pipe = build(seed, eos=0.0)
        stock = run(pipe, ids, threshold=1.1, editing_threshold=None, **call)
        assert torch.equal(run(use(pipe, sampler="confidence"), ids, **call), stock)
        ended += int((stock == MASK).any(dim=1).sum())
    assert 0 < ended < 12


def test_a_text_that_ended_is_frozen_whole(head: str) -> None:
    described = Path(head) / "prism_config.json"
    described.write_text(re.sub(r'"fingerprint": "\w+"', '"fingerprint": null', described.read_text()))  # of six models
    ended = 0
    for seed in range(6):
        pipe, watch = use(build(seed, eos=4.0), sampler="prism", head=head, num_remask=1, seed=seed), Watch()
        out = run(pipe, prompts(3), watch, eos_early_stop=True, gen_length=24, temperature=1.0)
        for row, text in enumerate(out):
            masks, ends = (text == MASK).nonzero().flatten(), (text == EOS).nonzero().flatten()
            if len(masks):  # whole blocks only, after the one with an end of text
                ended += 1
                assert len(masks) % 8 == 0 and len(ends) and ends[0] < masks[0] and masks[0] % 8 == 0
                last = [s["block_x"][row] for s in watch.steps if s["block_x"].shape[1] == 8 + masks[0]][-1]
                assert torch.equal(last[8:], text[: masks[0]])
    assert ended > 0


def test_an_end_of_text_in_the_prompt_does_not_hide_the_answers() -> None:
    scheduler = PrismScheduler(sampler="confidence")
    text = torch.tensor([[EOS, 5, 6, EOS], [EOS, 5, MASK, EOS]])
    committed = torch.tensor([[False, True], [False, True]])
    finished = scheduler.check_eos_finished(
        text, text[:, 2:], committed, torch.zeros(2, dtype=torch.bool), EOS, MASK, prompt_length=2
    )
    assert finished.tolist() == [True, False]


def test_positions_past_gen_length_are_left_alone_when_attached(head: str) -> None:
    ids, texts = prompts(), []
    for attached in (False, True):
        pipe, watch = use(build(), sampler="confidence"), Watch()
        if attached:
            pipe.scheduler.attach(pipe)
        assert not (run(pipe, ids, watch, gen_length=11) == MASK).any()
        texts.append(watch.steps[-1]["block_x"])
    assert not (texts[0] == MASK).any()
    assert (texts[1] == MASK).sum() == 2 * 5 and (texts[1][:, 19:] == MASK).all()


def test_the_core_finds_the_pipeline_and_trains_a_head_for_its_model() -> None:
    assert LLaDA2Denoiser.matches(build()) and not LLaDA2Denoiser.matches(build().model)
    denoiser = LLaDA2Denoiser(build())
    denoiser.requires_grad_(False)
    attach_head(denoiser, "mlp")
    losses = QualityObjective(denoiser, 0, QualityConfig(k=2))(prompts(4, 12), torch.arange(4))
    losses["loss"].backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in denoiser.head.parameters())
    assert all(p.grad is None for p in denoiser.host.parameters())


def test_padded_prompts(head: str) -> None:
    pipe = use(build(), sampler="prism", head=head, num_remask=1)
    sequences = pipe(
        prompt=["w4 w5 w6 w7 w8", "w9"], use_chat_template=False, gen_length=11, num_inference_steps=4, temperature=1.0
    )
    assert not (sequences.sequences == MASK).any() and len(sequences.texts) == 2


def test_what_clashes_says_so_before_any_text(head: str) -> None:
    stock = build().scheduler.config
    cases = {
        r"preset 'pirsm' .*Nearest: prism": {"sampler": "pirsm"},
        r"setting 'num_remsk' .*Nearest: num_remask": {"num_remsk": 1},
        r"temperature = 0.5 .*clashes with temperature of the pipeline call": {"temperature": 0.5},
        r"steps = 8 .*clashes with num_inference_steps": {"steps": 8},
        r"sampler.eta: .prism. has no part with it": {"eta": 1.4},
        r"refill = fresh .*score = quality": {"head": head, "refill": "fresh"},
        r"steps = 0": {"num_inference_steps": 0},
    }
    for message, settings in cases.items():
        with pytest.raises(ConfigError, match=message):
            PrismScheduler.from_config(stock, **settings)
    with pytest.raises(ConfigError, match="num_remsk"):
        PrismScheduler(num_remsk=1)


def test_what_does_not_fit_the_pipeline_says_so(head: str) -> None:
    pipe, ids = use(build(), sampler="prism", head=head), prompts()
    with pytest.raises(ConfigError, match=r"mask_token_id = 3 clashes with mask_id = 2"):
        run(pipe, ids, mask_token_id=3)
    pipe.model = build().model
    with pytest.raises(ConfigError, match="attach the scheduler to the pipeline"):
        run(pipe, ids)
    with pytest.raises(ConfigError, match="uniform noise"):
        PrismScheduler(sampler="confidence").step(torch.zeros(1, 8, VOCAB), 0, ids[:1])
    with pytest.raises(ConfigError, match="outside the vocabulary"):
        PrismScheduler(sampler="confidence").step(torch.zeros(1, 8, VOCAB), 0, ids[:1], mask_token_id=VOCAB)
    with pytest.raises(ConfigError, match="outside the vocabulary"):
        pipe.scheduler.attach(pipe, mask_id=VOCAB)
    pipe.mask_token_id = None
    with pytest.raises(ConfigError, match="no mask token"):
        pipe.scheduler.attach(pipe)
    other = build()
    other.model.lm_head = nn.Linear(16, VOCAB + 1)
    with pytest.raises(CheckpointError, match="vocab_size"):
        use(other, head=head)
    pipe.mask_token_id, pipe.model = MASK, nn.Linear(1, 1)
    with pytest.raises(ConfigError, match=r"its output layer .* was not found"):
        pipe.scheduler.attach(pipe)


def test_hooks_go_with_the_scheduler(head: str) -> None:
    pipe = build()
    stock = pipe.scheduler
    use(pipe, head=head)
    assert pipe.model.lm_head._forward_pre_hooks
    pipe.scheduler = stock
    assert not pipe.model.lm_head._forward_pre_hooks and not pipe.model._forward_pre_hooks


def test_the_tuple_and_the_noise_of_the_stock_scheduler() -> None:
    scheduler, ids = PrismScheduler(sampler="confidence", num_inference_steps=4), torch.full((2, 8), MASK)
    logits = torch.randn(2, 8, VOCAB, generator=torch.Generator().manual_seed(0))
    text, filled, edited, *_ = scheduler.step(logits, torch.tensor(0), ids, mask_token_id=MASK, return_dict=False)
    assert filled.sum(dim=1).tolist() == [2, 2] and not edited.any() and torch.equal(filled, text != MASK)
    noisy, reverse, masked, _ = scheduler.add_noise(
        prompts(), torch.ones(2, 8), prompt_length=2, block_length=3, mask_token_id=MASK
    )
    assert torch.equal(masked, noisy == MASK) and not (masked & (reverse == MASK)).any()


def test_in_a_fresh_process_the_page_names_the_import(tmp_path: Path) -> None:
    use(build(), sampler="confidence").scheduler.save_pretrained(tmp_path / "pipe" / "scheduler")
    index = {"_class_name": "LLaDA2Pipeline", "model": [None, None], "tokenizer": [None, None],
             "scheduler": ["prism_plugin.integrations.diffusers.scheduler", "PrismScheduler"]}  # fmt: skip
    (tmp_path / "pipe" / "model_index.json").write_text(json.dumps(index))
    page = (Path(__file__).parents[2] / "integrations" / "diffusers" / "README.md").read_text()
    line = "from prism_plugin.integrations.diffusers import PrismScheduler"
    assert line in page
    load = "import torch; from diffusers import LLaDA2Pipeline as P; own = {'model': torch.nn.Linear(1, 1)}; "
    load += f"print(P.from_pretrained({str(tmp_path / 'pipe')!r}, **own).scheduler)"
    run = subprocess.run([sys.executable, "-c", f"{line}; {load}"], capture_output=True, text=True, check=False)
    assert run.returncode == 0 and "PrismScheduler" in run.stdout, run.stderr[-500:]


def test_a_pipeline_brings_its_tokenizer() -> None:
    prism = prism_plugin.enable(build(), sampler="confidence", steps=3)
    assert all(word.startswith("w") for word in prism.generate("w4 w5", max_new_tokens=3).texts[0].split())
