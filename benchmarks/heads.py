"""What makes a quality head sharp and calibrated? Options of its loss, measured where the exact quality is known.

    python -m benchmarks.heads                       every option, three seeds: twenty minutes of a free core
    python -m benchmarks.heads --only published "stale, k=1" --seeds 0       two of them, a minute

The data are the 288 grids of 4x4 Sudoku, all equally likely, so that g*(y)_i = P(x_i = y_i | y with i masked) can be
added up for any text y. A small model is trained on them, then, for every option and seed, a head, all from the same
model. Each is judged on the same texts, states of the sampler with many wrong tokens at once (presets ``random`` and
``random-remask`` of the model as it was), and by the grids that it helps to solve with the presets ``prism`` and
``prism-evidence`` at equal forwards. What was run before with the same settings is read from the JSON file and kept.

In a state that no grid fits even with i masked, g* is 0 / 0. There the nearest thing is the posterior with noise: every
visible token but y_i is the true one with probability 0.99, else any other. For little noise that is g* where there is
one, and elsewhere it goes by the grids that agree with most of the text.
"""

import argparse
import copy
import math
import platform
import statistics
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.theory import Enumerable, sudoku
from prism_plugin import ops
from prism_plugin.config import load
from prism_plugin.files import load_json, output_folder, save_json, write_atomic
from prism_plugin.models.backbone import BackboneConfig
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.models.denoiser import View
from prism_plugin.quality.calibration import auroc, reliability
from prism_plugin.quality.head import HeadConfig, attach_head
from prism_plugin.sampling.config import SamplerConfig, fitting
from prism_plugin.sampling.drive import generate
from prism_plugin.sampling.state import State
from prism_plugin.tasks import get_task
from prism_plugin.training.objectives import MDMObjective, QualityObjective

NOISE = 0.01
CELLS = 16
DRAWN_TEXTS = 99  # a Philox stream of its own

PUBLISHED = {"fills": "fresh", "k": 4}
STALE_1 = {"fills": "stale", "k": 1}
OPTIONS: dict[str, dict[str, object]] = {
    "published": {},
    "k=1": {"k": 1},
    "4 fills a text": {"fills_per_text": 4},
    "confident, argmax": {"positions": "confidence", "temperature": 0.0},
    "leftmost 8, argmax": {"positions": "semi_autoregressive", "window": 8, "temperature": 0.0},
    "top_p .9": {"top_p": 0.9},
    "reweight": {"reweight": True, "quality_over": "positions"},
    "lambda .5": {"mdm_weight": 0.5},
    "frozen": {"frozen": True},
    "critic": {"objective": "critic", "quality_over": "positions"},
    "stale": {"fills": "stale"},
    "stale, k=8": {"fills": "stale", "k": 8},
    "stale, k=2": {"fills": "stale", "k": 2},
    "stale, k=1": STALE_1,
    "stale, k=1, 4 fills a text": {**STALE_1, "fills_per_text": 4},
    "stale, k=1, 2.5 times as long": {**STALE_1, "longer": 2.5},
    "stale, k=1, temperature 2": {**STALE_1, "temperature": 2.0},
    "stale, k=1, frozen": {**STALE_1, "frozen": True},
    "stale, k=1, a block": {**STALE_1, "layers": 1},
    "stale, k=1, frozen, a block": {**STALE_1, "frozen": True, "layers": 1},
    "stale, k=1, frozen, 2 blocks": {**STALE_1, "frozen": True, "layers": 2},
}

TAKEN_OUT = (
    "k 1 to n: the number of fills drawn for every text, evenly or evenly in its logarithm ('log'); 'texts': averaged "
    "over texts, so that those with one fill count as much",
    "on_policy: k of what is shown in between (k=16: all of it) filled by the model over 4 forwards, each seeing the "
    "fills before it",
)

SAMPLERS = {
    f"{name}, {steps}": SamplerConfig(name, steps=steps, seed=1, **more)  # type: ignore[arg-type]
    for name, more in (("prism", {"num_remask": 1}), ("prism-evidence", {}))
    for steps in (6, 8, 12)
}


def draw_texts(data: Enumerable, number: Tensor, seed: int) -> Tensor:
    """Text ``number`` (B,): any grid with equal chance, (B, 16), 0 the mask."""
    zero = torch.zeros_like(number)
    return data.texts[(ops.uniform(seed, number, zero, zero, DRAWN_TEXTS) * len(data.texts)).long()] + 1


def fit(objective: nn.Module, data: Enumerable, steps: int, lr: float, seed: int, batch: int = 64) -> None:
    """Adam with warm-up and decay over numbered texts."""
    objective.train()
    learned = [p for p in objective.parameters() if p.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=lr, betas=(0.9, 0.98))
    pace = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, steps, pct_start=0.1)
    for step in range(steps):
        number = torch.arange(step * batch, (step + 1) * batch)
        loss = objective(draw_texts(data, number, seed), number)["loss"]
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        pace.step()


def train_model(data: Enumerable, width: int, layers: int, steps: int) -> PrismModel:
    """A small masked diffusion model of the grids."""
    torch.manual_seed(0)
    shape = {"hidden_size": width, "num_layers": layers, "num_heads": 4, "cond_size": 16}
    model = PrismModel(BackboneConfig(vocab_size=5, mask_id=0, length=CELLS, grid=2, **shape), "sudoku4")
    fit(MDMObjective(model, 0), data, steps, 4e-3, 0)
    return model.eval()


def train_head(model: PrismModel, data: Enumerable, options: dict[str, object], steps: int, seed: int) -> PrismModel:
    """A copy of the model with a head on it, trained with the PRISM loss of ``options`` over the published ones.

    Beside the words of ``QualityConfig``: layers (blocks of the head), frozen (the model is not tuned) and longer
    (so many times the steps).
    """
    torch.manual_seed(seed)
    model = copy.deepcopy(model)
    options = {**PUBLISHED, **options}
    model.requires_grad_(not options.pop("frozen", False))
    attach_head(model, HeadConfig("dit", num_layers=int(str(options.pop("layers", 0)))))
    steps = int(steps * float(str(options.pop("longer", 1))))
    settings = load([f"quality.{name}={value}" for name, value in options.items()]).quality
    fit(QualityObjective(model, seed, settings), data, steps, 2e-3, seed)
    return model.eval()


class States:
    """Texts on the sampler's way (N, 16), and of their M visible tokens, (M,) each: quality g* (NaN where 0 / 0),
    ``near`` the posterior with noise, ``labels`` drawn from it, ``written`` and ``age`` (steps) since then.
    """

    def __init__(self, model: PrismModel, data: Enumerable, texts: int, steps: int) -> None:
        seen: list[tuple[Tensor, ...]] = []
        for preset in ("random", "random-remask"):
            age = torch.zeros(texts, CELLS)

            def keep(state: State, view: View | None, age: Tensor = age) -> None:
                age.add_(1).masked_fill_(state.filled, 0)
                seen.append((state.tokens.clone(), state.written.clone(), age.clone()))

            sampler = SamplerConfig(**fitting({"num_remask": 1}, preset) | {"steps": steps, "seed": 5})
            generate(model, torch.zeros(texts, CELLS, dtype=torch.long), sampler, callback=keep)
        self.tokens, written, age = (torch.cat(parts) for parts in zip(*seen, strict=True))
        self.visible = self.tokens > 0
        symbols = (self.tokens - 1) % 5  # the mask is the last, as ``Enumerable`` has it
        self.quality = data.quality(symbols)[self.visible]
        self.near = data.quality(symbols, NOISE)[self.visible]
        self.labels = torch.bernoulli(self.near, generator=torch.Generator().manual_seed(0)).bool()
        self.written, self.age = written[self.visible].double(), age[self.visible].double()

    @torch.no_grad()
    def of_head(self, model: PrismModel) -> Tensor:
        """The head's quality, (M,) f64."""
        return model.judge(model(self.tokens), None, self.tokens)[self.visible].double().sigmoid()

    @torch.no_grad()
    def self_likelihood(self, model: PrismModel) -> Tensor:
        """The posterior of the same forward at the visible tokens, (M,) f64."""
        return View(model, model(self.tokens)).probability(self.tokens, self.visible)[self.visible].double()

    def judge(self, found: Tensor) -> dict[str, float | None]:
        """Figures of one score (M,), None where there is none."""
        error = (found - self.quality)[~self.quality.isnan()].abs()
        wrong, right = self.near < 0.02, self.near > 0.9
        low = found < 0.05
        figures = {
            "error": float(error.mean()), "error_max": float(error.max()),
            "error_near": float((found - self.near).abs().mean()),
            "auroc": auroc(found, self.labels), "brier": float((found - self.labels.double()).square().mean()),
            "low_share": float(low.double().mean()), "low_predicted": float(found[low].mean()),
            "low_right": float(self.near[low].mean()), "wrong_below": float((found[wrong] < 0.1).double().mean()),
            "wrong_evidence": float((found / self.written)[wrong].lt(0.1).double().mean()),
            "right_evidence": float((found / self.written)[right].lt(0.1).double().mean()),
        }  # fmt: skip
        return {name: value if math.isfinite(value) else None for name, value in figures.items()}


def refit(features: list[Tensor], labels: Tensor) -> Tensor:
    """Logistic regression on the first half of the features, (M,) each; its probabilities for the second half."""
    x = torch.stack([*features, torch.ones_like(features[0])], dim=1)
    half = len(x) // 2
    weight = torch.zeros(x.shape[1], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.binary_cross_entropy_with_logits(x[:half] @ weight, labels[:half].double())
        loss.backward()
        return loss

    optimizer.step(closure)  # type: ignore[arg-type]
    return (x[half:] @ weight.detach()).sigmoid()


def free_scores(states: States, own: Tensor, likelihood: Tensor) -> list[dict[str, object]]:
    """What the free scores would add to a head's quality ``own`` at the very best: fitted on such states themselves."""
    logit, said = own.logit(1e-6), likelihood.logit(1e-6)
    sets = {
        "head alone": [logit],
        "with written": [logit, states.written.log()],
        "with self-likelihood": [logit, said],
        "with age": [logit, states.age.log1p()],
        "with all three": [logit, states.written.log(), said, states.age.log1p()],
        "the three alone": [states.written.log(), said, states.age.log1p()],
    }
    rows: list[dict[str, object]] = []
    labels = states.labels[len(states.labels) // 2 :]
    for name, features in sets.items():
        found = refit(features, states.labels)
        brier = float((found - labels.double()).square().mean())
        rows.append({"scores": name, "auroc": auroc(found, labels), "brier": brier})
    return rows


def solved(model: PrismModel, texts: int, score: str = "") -> dict[str, float]:
    """Share of empty grids that come out valid with each sampler, and how many remasks that took a grid.

    score: the rule of the preset ``prism`` on another score.
    """
    found = {}
    empty = torch.zeros(texts, CELLS, dtype=torch.long)
    for name, sampler in SAMPLERS.items():
        if score and sampler.name != "prism":
            continue
        result = generate(model, empty, replace(sampler, score=score or None))
        found[name] = float(get_task("sudoku4").accuracy(result.tokens, empty)[0].double().mean())
        found[f"{name}: remasks"] = float(result.remasked.double().mean())
    return found


COLUMNS = {
    "error": "\\|g - g*\\| mean", "error_max": "largest", "error_near": "\\|g - near\\|", "auroc": "AUROC",
    "brier": "Brier", "low_share": "share < .05", "low_predicted": "said there", "low_right": "true there",
    "wrong_below": "wrong: g < .1", "wrong_evidence": "wrong: g/w < .1", "right_evidence": "right: g/w < .1",
    **{name: name for name in SAMPLERS},
}  # fmt: skip


def markdown(result: dict) -> str:
    """The result as a page."""
    about = result["settings"]
    lines = [
        "# What makes a quality head sharp", "", f"    {result['command']}", "",
        f"4x4 Sudoku, all 288 grids equally likely; a model of {about['layers']} layers of width {about['width']}, "
        f"{about['model_steps']} steps; a head for every option, {about['steps']} steps of 64 texts, seeds "
        f"{', '.join(str(seed) for seed in result['seeds'])}. {result['machine']}. "
        f"{result['tokens']} visible tokens of the sampler's states, for {100 * result['defined']:.0f}% of which g* "
        f"is defined; 'wrong' are the {100 * result['wrong']:.0f}% whose posterior with noise ('near') is below .02, "
        "'right' those above .9. 'said' and 'true there': mean of g and of the posterior where g < .05. The last "
        f"columns: share of {about['texts']} empty grids solved (standard error below .02), presets and forwards.",
        "", "'published' is fills=fresh, k=4, random positions, lambda 5, model tuned; other rows change what they "
        "name of it.", "",
        "| option | " + " | ".join(COLUMNS.values()) + " |", "|---|" + "--:|" * len(COLUMNS),
    ]  # fmt: skip
    gone = dict.fromkeys(row["option"] for row in result["rows"] if row["option"] not in OPTIONS)
    for name in [*result["free"], *OPTIONS, *gone]:
        rows = [result["free"][name]] if name in result["free"] else [r for r in result["rows"] if r["option"] == name]
        if rows:
            cells = [_mean([row.get(key) for row in rows]) for key in COLUMNS]
            lines.append(f"| {name}{' (taken out)' * (name in gone)} | " + " | ".join(cells) + " |")
    if gone:
        lines += ["", f"Taken out again: {'; '.join(TAKEN_OUT)}. All of them can be run at commit 1278a15."]
    if result["probe"]:
        lines += [
            "", "What the free scores would add to 'stale, k=1' at the very best: logistic regression on half of these "
            "states, judged on the other half.", "", "| scores | AUROC | Brier |", "|---|--:|--:|",
            *(f"| {row['scores']} | {row['auroc']:.3f} | {row['brier']:.3f} |" for row in result["probe"]),
        ]  # fmt: skip
    return "\n".join([*lines, "", "![Reliability in log-odds](heads.png)"]) + "\n"


def _mean(values: list[float | None]) -> str:
    there = [value for value in values if value is not None and math.isfinite(value)]
    return f"{statistics.mean(there):.3f}" if there else "-"


def plot(result: dict, path: Path) -> None:
    """Reliability in log-odds of some options, and grids solved against the share of wrong tokens found out."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4.6), layout="constrained")
    shown = ("published", "k=1", "stale", "stale, k=1")
    for name in shown:
        rows = [row for row in result["rows"] if row["option"] == name]
        if rows:
            table = [one for one in rows[0]["reliability"] if one["count"] >= 30]
            odds = [[math.log(one[key] / (1 - one[key])) if 0 < one[key] < 1 else math.nan for one in table]
                    for key in ("predicted", "right")]  # fmt: skip
            left.plot(*odds, marker="o", markersize=4, label=name)
    left.plot([-7, 7], [-7, 7], color="0.7", linewidth=1, zorder=0)
    left.set(xlabel="log-odds of the head's quality", ylabel="log-odds of being right", title="sampler's states")
    left.legend(fontsize=8, frameon=False)
    number = 0
    for name in OPTIONS:
        rows = [row for row in result["rows"] if row["option"] == name]
        if rows:
            place = [statistics.mean(row[key] for row in rows) for key in ("wrong_evidence", "prism-evidence, 8")]
            sharp = place[0] > 0.05  # the others lie on one another
            number += sharp
            mark = {"color": f"C{number - 1}", "label": name} if sharp else {"color": "0.6"}
            right.plot(*place, "o", markersize=5, **mark)
    right.plot([], [], "o", color="0.6", label="all others")
    right.legend(fontsize=8, frameon=False, loc="lower right")
    right.set(xlabel="wrong tokens with g / w < .1", ylabel="grids solved, prism-evidence, 8 forwards")
    with write_atomic(path) as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    pyplot.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(OPTIONS), default=list(OPTIONS), metavar="OPTION")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=400, help="of a head (400)")
    parser.add_argument("--model-steps", type=int, default=1000)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--texts", type=int, default=512, help="grids to solve (512)")
    parser.add_argument("--out", default="docs/results", help="folder to write heads.json, .md and .png to")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = output_folder(options.out)
    settings = {name: getattr(options, name) for name in ("steps", "model_steps", "width", "layers", "texts")}
    before = load_json(folder / "heads.json") if (folder / "heads.json").exists() else {}
    rows = before["rows"] if before.get("settings") == settings else []
    probe = before["probe"] if rows else []

    data = sudoku()
    model = train_model(data, options.width, options.layers, options.model_steps)
    states = States(model, data, 128, 6)
    likelihood = states.self_likelihood(model)
    result = {
        "command": "python -m benchmarks.heads", "settings": settings, "tokens": len(states.near),
        "defined": float((~states.quality.isnan()).double().mean()),
        "wrong": float((states.near < 0.02).double().mean()),
        "machine": f"{platform.machine()} CPU, one thread, torch {version('torch')}, no GPU",
        "free": {
            "self-likelihood": states.judge(likelihood) | solved(model, options.texts, "self_likelihood"),
            "probability when written": states.judge(states.written) | solved(model, options.texts, "written"),
        },
    }  # fmt: skip
    for seed in options.seeds:
        for name in options.only:
            if any((row["option"], row["seed"]) == (name, seed) for row in rows):
                continue
            trained = train_head(model, data, OPTIONS[name], options.steps, seed)
            found = states.of_head(trained)
            row = {"option": name, "seed": seed, **states.judge(found), **solved(trained, options.texts)}
            print(
                name, seed, {key: round(value, 3) for key, value in row.items() if isinstance(value, float)}, flush=True
            )
            rows.append({**row, "reliability": reliability(found.logit(1e-9), states.labels)})
            if OPTIONS[name] is STALE_1 and not probe:
                probe = free_scores(states, found, likelihood)
            result |= {"rows": rows, "seeds": sorted({row["seed"] for row in rows}), "probe": probe}
            save_json(folder / "heads.json", result)
    result |= {"rows": rows, "seeds": sorted({row["seed"] for row in rows}), "probe": probe}
    save_json(folder / "heads.json", result)
    with write_atomic(folder / "heads.md") as path:
        path.write_text(markdown(result))
    plot(result, folder / "heads.png")
    print(markdown(result))


if __name__ == "__main__":
    main()
