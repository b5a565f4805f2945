"""The PRISM loss with its published options, and Token-Critic, against what each says, on an exact table model."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from prism_plugin.errors import ConfigError, DataError
from prism_plugin.models.backbone import BackboneConfig
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.quality import loss as losses
from prism_plugin.quality.head import attach_head
from prism_plugin.quality.loss import CorrectorConfig, QualityConfig
from prism_plugin.sampling.config import SamplerConfig
from prism_plugin.sampling.drive import generate
from prism_plugin.training import objectives
from prism_plugin.training.objectives import CavityObjective, MDMObjective, QualityObjective, RemediObjective
from tests.table_model import chain

LENGTH, SYMBOLS, ROWS, SEED = 6, 3, 24, 7


class Seen(QualityObjective):
    """Keeps what was filled and shown."""

    def judge(
        self, scores: Tensor, y: Tensor, x: Tensor, sample: losses.Sample, padding: Tensor | None = None
    ) -> Tensor:
        self.scores, self.y, self.x, self.sample = scores, y, x, sample
        return super().judge(scores, y, x, sample, padding)


@torch.no_grad()
def run(
    maskable: Tensor | None = None, rows: slice = slice(None), tuned: bool = True, **settings: object
) -> tuple[Seen, dict[str, Tensor]]:
    """One step on texts of a chain, whose model has a parameter to be tuned."""
    model = chain(LENGTH, SYMBOLS)
    model.parameter = nn.Parameter(torch.zeros(1), requires_grad=tuned)
    objective = Seen(model, SEED, QualityConfig(**settings)).eval()  # type: ignore[arg-type]
    x = model.texts[torch.multinomial(model.probability, ROWS, True, generator=torch.Generator().manual_seed(0))]
    maskable = None if maskable is None else maskable[rows]
    return objective, objective(x[rows], torch.arange(100, 100 + ROWS)[rows], maskable)


OPTIONS = [
    {}, {"fills": "fresh"}, {"k": 1}, {"fills_per_text": 3},
    {"positions": "confidence"},
    {"positions": "semi_autoregressive", "window": 3, "temperature": 0.0}, {"top_p": 0.5}, {"objective": "critic"},
    {"quality_over": "slots", "mdm_over": "window", "window": 4}, {"reweight": True, "quality_over": "positions"},
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("tuned", [True, False])
def test_what_is_protected_is_neither_masked_nor_judged_and_what_is_hidden_is_never_shown(
    options: dict[str, object], tuned: bool
) -> None:
    maskable = torch.rand(ROWS, LENGTH, generator=torch.Generator().manual_seed(1)) < 0.6
    seen, terms = run(maskable, tuned=tuned, **options)
    sample, copies = seen.sample, seen.settings.fills_per_text
    protected = ~maskable.repeat(copies, 1)
    assert not (sample.masked & ~maskable).any() and not (sample.chosen & protected).any()
    assert torch.equal(seen.y[protected], seen.x[protected])
    masked = sample.masked.repeat(copies, 1)
    assert not (sample.chosen & ~masked).any() and (seen.y[sample.chosen] < SYMBOLS).all()
    assert torch.equal(seen.y == SYMBOLS, sample.later & ~sample.chosen)
    assert terms["scores"].shape == terms["labels"].shape == (int(sample.chosen.sum()),) and len(terms["labels"]) > 12
    assert set(terms) == {"loss", "quality", "scores", "labels"} | ({"mdm"} if tuned else set())
    expected = terms["quality"] + (5.0 * terms["mdm"] if tuned else 0)
    assert terms["loss"].item() == pytest.approx(float(expected))


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_text_is_judged_alike_in_any_batch(options: dict[str, object]) -> None:
    whole, _ = run(**options)
    part, _ = run(rows=slice(5, 9), **options)
    for name in ("y", "scores"):
        table = getattr(whole, name).view(-1, ROWS, LENGTH)[:, 5:9].flatten(0, 1)
        assert torch.equal(table, getattr(part, name))


def test_a_tuned_backbone_and_a_frozen_one_see_the_same_fills() -> None:
    assert torch.equal(run(tuned=True)[0].y, run(tuned=False)[0].y)


@pytest.mark.parametrize("positions", ["confidence", "semi_autoregressive"])
def test_the_most_confident_masks_are_filled(positions: str) -> None:
    seen, _ = run(positions=positions, window=3, k=2, temperature=0.0, fills="fresh")
    sample = seen.sample
    posterior = seen.denoiser.leave_one_out(sample.context)
    best = posterior.max(-1)
    assert torch.equal(seen.y[sample.chosen], best.indices[sample.chosen])
    unsure = 0
    for row in range(ROWS):
        masked = sample.masked[row].nonzero().flatten().tolist()
        open_ = masked[:3] if positions == "semi_autoregressive" else masked
        ranked = sorted(open_, key=lambda i: -float(best.values[row, i]))
        assert set(sample.chosen[row].nonzero().flatten().tolist()) == set(ranked[:2])
        unsure += set(ranked[:2]) != set(masked[:2])
    assert unsure > 3, "the order of confidence is another than from left to right"


def test_several_fills_share_one_context_and_its_forward() -> None:
    seen, terms = run(fills_per_text=4, k=2, fills="fresh")
    assert seen.denoiser.passes == 2 and seen.y.shape == (4 * ROWS, LENGTH)
    chosen = seen.sample.chosen.view(4, ROWS, LENGTH)
    assert (chosen[0] != chosen[1]).any() and torch.equal(chosen.sum(2)[0], chosen.sum(2)[1])
    once, _ = run(k=2, fills="fresh")
    assert torch.equal(once.y, seen.y[:ROWS]), "the first is what there is without the others"
    assert terms["mdm"].item() == pytest.approx(run(k=2)[1]["mdm"].item())


def test_the_critic_fills_every_mask_and_judges_all_of_them_by_1_over_t() -> None:
    seen, terms = run(objective="critic", quality_over="positions")
    assert torch.equal(seen.sample.chosen, seen.sample.masked) and (seen.y < SYMBOLS).all()
    bce = F.binary_cross_entropy_with_logits(seen.scores, (seen.y == seen.x).float(), reduction="none")
    expected = (bce / seen.sample.t[:, None])[seen.sample.masked].sum() / (ROWS * LENGTH)
    assert terms["quality"].item() == pytest.approx(expected.item(), rel=1e-5)


@torch.no_grad()
def remedi(rows: slice = slice(None), maskable: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor], Tensor]:
    """What RemeDi's objective shows of texts of a chain, its terms, and the texts."""
    model = chain(LENGTH, SYMBOLS)
    model.parameter = nn.Parameter(torch.zeros(1))
    shown: list[Tensor] = []
    model.register_forward_pre_hook(lambda _, given: shown.append(given[0]))
    objective = RemediObjective(model, SEED, QualityConfig(objective="remedi", mdm_weight=3.0)).eval()
    x = model.texts[torch.multinomial(model.probability, 240, True, generator=torch.Generator().manual_seed(0))]
    terms = objective(x[rows], torch.arange(240)[rows], None if maskable is None else maskable[rows])
    return shown[0], terms, x[rows]


def test_remedi_shows_wrong_tokens_of_the_text_and_judges_masks_by_what_the_model_knows() -> None:
    y, terms, x = remedi()
    model, masked, wrong = chain(LENGTH, SYMBOLS), y == SYMBOLS, (y != x) & (y != SYMBOLS)
    assert all(set(row[bad].tolist()) <= set(text.tolist()) for row, text, bad in zip(y, x, wrong, strict=True))
    t = losses.noise_level(SEED, torch.arange(240))
    few = wrong.sum() / (~masked * (4 * losses.WRONG * t * (1 - t))[:, None]).sum()
    assert 0.3 < few < 0.9, "a token drawn from the text is often the very one"
    known = model.leave_one_out(y).gather(2, x[..., None])[..., 0]
    target = torch.where(masked, known, (~wrong).to(known)) * 0.9 + 0.05
    scores = model.judge(model(y), None, y)
    expected = F.binary_cross_entropy_with_logits(scores, target.float())
    assert terms["quality"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert terms["loss"].item() == pytest.approx(float(terms["quality"] + 3 * terms["mdm"]), rel=1e-6)
    assert torch.equal(terms["labels"], ~wrong[~masked])
    assert torch.equal(remedi(slice(5, 9))[0], y[5:9]), "alike in any batch"
    maskable = torch.arange(LENGTH).repeat(240, 1) > 2
    assert torch.equal(remedi(maskable=maskable)[0][:, :3], x[:, :3])


@pytest.mark.parametrize("over, count", [("revealed", None), ("slots", ROWS * 3 * 2), ("positions", ROWS * LENGTH * 2)])
@pytest.mark.parametrize("reweight", [False, True])
def test_normalisers_and_weights_are_those_of_the_settings(over: str, count: int | None, reweight: bool) -> None:
    seen, terms = run(quality_over=over, reweight=reweight, k=3, fills_per_text=2)
    bce = F.binary_cross_entropy_with_logits(seen.scores, (seen.y == seen.x).float(), reduction="none")
    if reweight:
        bce = bce / (1 - seen.sample.t.repeat(2))[:, None]
    found = bce[seen.sample.chosen].sum() / (count or int(seen.sample.chosen.sum()))
    assert terms["quality"].item() == pytest.approx(found.item(), rel=1e-4)


def test_the_models_term_is_averaged_over_positions_or_the_window() -> None:
    seen, terms = run()
    posterior = seen.denoiser.leave_one_out(seen.sample.context)
    loss = -posterior.gather(2, seen.x[..., None])[..., 0].log() / seen.sample.t[:, None]
    total = loss[seen.sample.masked].sum().item()
    assert terms["mdm"].item() == pytest.approx(total / (ROWS * LENGTH), rel=1e-5)
    other = run(mdm_over="window", window=4)[1]
    assert other["mdm"].item() == pytest.approx(total / (ROWS * 4), rel=1e-5)


WRONG = [
    {"objective": "prsim"}, {"fills": "later"}, {"positions": "left"}, {"quality_over": "tokens"}, {"k": 0},
    {"mdm_over": "tokens"}, {"fills_per_text": 0}, {"window": 0}, {"top_p": 0.0}, {"temperature": -1.0},
    {"mdm_weight": -1.0},
]  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG, ids=str)
def test_a_setting_that_cannot_be_used_is_named(wrong: dict[str, object]) -> None:
    ((name, value),) = wrong.items()
    with pytest.raises(ConfigError, match=rf"quality\.{name}.*{value}"):
        QualityConfig(**wrong)  # type: ignore[arg-type]


def test_a_batch_with_everything_protected_is_refused() -> None:
    with pytest.raises(DataError, match="every position of this batch is protected"):
        run(torch.zeros(ROWS, LENGTH, dtype=torch.bool))


def cavity_objective(**settings: object) -> CavityObjective:
    torch.manual_seed(0)
    shape = BackboneConfig(vocab_size=9, mask_id=0, length=12, hidden_size=16, num_layers=2, num_heads=2)
    model = PrismModel(shape, "none")
    model.requires_grad_(False)
    attach_head(model, "two_stream")
    return CavityObjective(model, SEED, QualityConfig(objective="cavity", **settings))  # type: ignore[arg-type]


def test_cavity_targets_are_the_models_own_and_reach_the_head_alone() -> None:
    objective = cavity_objective(groups=12).train()
    blank, number = torch.zeros(16, 12, dtype=torch.long), torch.arange(16)
    objective(blank, number)["loss"].backward()
    states, model = objective.kept[0], objective.denoiser
    assert states.tokens.shape == (16, 12) and states.judged.any() and (states.tokens[~states.judged] == 0).all()
    row, place = states.judged.nonzero()[3].tolist()
    hidden = states.tokens[row : row + 1].clone()
    hidden[0, place] = 0
    logits, _ = model.project(model(hidden), torch.tensor([place]))
    torch.testing.assert_close(states.target[3], logits.log_softmax(-1)[0, states.tokens[row, place]])
    assert all(p.grad is None for p in model.backbone.parameters())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.head.parameters())


def test_a_batch_of_states_serves_several_steps_and_prompts_are_not_judged() -> None:
    objective = cavity_objective(reuse=3).train()
    texts, number = torch.randint(1, 9, (16, 12)), torch.arange(16)
    maskable = (torch.arange(12) >= 4).expand(16, 12)
    for _ in range(7):
        objective(texts, number, maskable)
    assert len(objective.kept) == 3
    assert all(not states.judged[:, :4].any() and (states.tokens[:, :4] > 0).all() for states in objective.kept)
    seen = objective.eval()(texts, number, maskable)
    assert len(seen["scores"]) == len(seen["target"]) == len(seen["written"]) and len(objective.kept) == 3


@pytest.mark.parametrize(
    ("length", "prompt", "steps"),
    [(128, 0, (8, 16, 32)), (40, 0, (2, 5, 10)), (128, 64, (4, 8, 16)), (512, 0, (32, 64, 128)), (6, 0, (2, 2, 2))],
)
def test_the_runs_that_states_are_of_have_steps_by_what_is_to_be_written(
    length: int, prompt: int, steps: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At 128 tokens 8, 16 and 32, with 1, 2 and 4 remasks a step where there are any, told by the turn alone."""
    asked: list[SamplerConfig] = []

    def keep(model: PrismModel, start: Tensor, config: SamplerConfig, callback: Callable, **given: Any) -> None:
        asked.append(config)
        generate(model, start[:, -4:], SamplerConfig("random", steps=2), callback=callback)

    monkeypatch.setattr(objectives, "generate", keep)
    objective = cavity_objective(reuse=1).train()
    texts, number = torch.zeros(8, length, dtype=torch.long), torch.arange(8)
    maskable = (torch.arange(length) >= prompt).expand(8, length) if prompt else None
    for _ in range(15):
        objective.states(texts, number, maskable, None)
        objective.steps += 1
    for turn, config in enumerate(asked):
        preset, place = objectives.PRESETS[turn % 5], turn // 5
        some = {"num_remask": (1, 2, 4)[place]} if preset in ("prism", "random-remask") else {}
        assert config == SamplerConfig(preset, steps=steps[place], seed=SEED, **some)


def test_a_text_that_all_stands_as_its_prompt_gives_nothing_to_judge() -> None:
    objective = cavity_objective(reuse=1).train()
    short = [number for number in range(1, 400, 2) if float(losses.noise_level(SEED, torch.tensor([number]))) < 0.02]
    loss = objective(torch.ones(1, 2, dtype=torch.long), torch.tensor(short[:1]))["loss"]
    assert not objective.kept[0].judged.any() and float(loss.detach()) == 0


def test_a_head_learns_the_posterior_of_a_frozen_model() -> None:
    objective = cavity_objective(reuse=4).train()
    optimizer = torch.optim.Adam(objective.denoiser.head.parameters(), lr=3e-3)
    blank = torch.zeros(32, 12, dtype=torch.long)
    losses_seen = []
    for step in range(40):
        loss = objective(blank, torch.arange(32) + 32 * step)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses_seen.append(float(loss.detach()))
    assert sum(losses_seen[-5:]) < 0.5 * sum(losses_seen[:5])


def test_labels_may_be_posteriors() -> None:
    seen, terms = run(labels="posterior", k=1)
    chosen = seen.sample.chosen
    exact = seen.denoiser.leave_one_out(seen.y).gather(-1, seen.y.clamp(max=SYMBOLS - 1)[..., None])[..., 0][chosen]
    bce = F.binary_cross_entropy_with_logits(seen.scores[chosen], exact.to(seen.scores))
    torch.testing.assert_close(terms["quality"], bce)


@pytest.mark.parametrize(
    "options", [{}, {"over": "filled", "reweight": False}, {"upweight": True, "weight": 0.5}], ids=str
)
@torch.no_grad()
def test_the_corrector_is_told_the_truth_of_its_own_fills(options: dict[str, object]) -> None:
    """Against ProSeCo's formula, in loops: masks filled by the argmax, the true token's loss where that is read."""
    config = CorrectorConfig(**({"weight": 1.0} | options))  # type: ignore[arg-type]
    size = BackboneConfig(vocab_size=SYMBOLS + 1, mask_id=SYMBOLS, length=LENGTH, hidden_size=16, num_layers=1)
    model = PrismModel(size, None).eval()
    for weight in model.parameters():
        weight.normal_(0, 0.5, generator=torch.Generator().manual_seed(3))
    x = torch.randint(SYMBOLS, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    maskable = torch.rand(ROWS, LENGTH, generator=torch.Generator().manual_seed(1)) < 0.8
    number = torch.arange(ROWS)
    found = MDMObjective(model, SEED, config)(x, number, maskable)

    def probabilities(text: Tensor) -> Tensor:
        logits, rows = model.project(model(text[None]), torch.arange(LENGTH))
        return logits[rows].double().index_fill(1, torch.tensor(SYMBOLS), -torch.inf).softmax(-1)

    t, u = losses.noise_level(SEED, number), losses.ranks(SEED, number, LENGTH, losses.CONTEXT)
    mdm = corrector = 0.0
    for row in range(ROWS):
        masked = (u[row] < t[row]) & maskable[row]
        p = probabilities(x[row].masked_fill(masked, SYMBOLS))
        draft = torch.where(masked, p.argmax(-1), x[row])
        q = probabilities(draft)
        for i in range(LENGTH):
            mdm += float(-p[i, x[row, i]].log() / t[row]) if masked[i] else 0.0
            if masked[i] if config.over == "filled" else maskable[row, i]:
                term = -q[i, x[row, i]] if config.upweight and draft[i] == x[row, i] else -q[i, x[row, i]].log()
                corrector += float(term / (t[row] if config.reweight else 1))
    assert float(found["mdm"]) == pytest.approx(mdm / x.numel(), rel=1e-4)
    assert float(found["corrector"]) == pytest.approx(corrector / x.numel(), rel=1e-4)
    assert float(found["loss"]) == pytest.approx(float(found["mdm"] + config.weight * found["corrector"]), rel=1e-6)
    assert set(MDMObjective(model, SEED)(x, number, maskable)) == {"loss"}
