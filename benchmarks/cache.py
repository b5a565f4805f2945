"""What does a cache of keys and values save, and what does it change?

python benchmarks/cache.py                  the embedded model `code`: prefix and dual, refreshed every so many passes
python benchmarks/cache.py --texts 8        a quick look

On a backbone that looks everywhere a cache is an approximation: the table gives the share of tokens equal to those
without one, how good the texts are, and the time. On a block-causal one it is exact: small models without training, one
of ours and one of a host's interface, show equal tokens and the time. Writes cache.md, cache.json and cache.png.
"""

import argparse
import platform
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
import transformers
from rich.console import Console
from rich.progress import track
from torch import Tensor

from prism_plugin import enable
from prism_plugin.api import Prism
from prism_plugin.errors import PrismError
from prism_plugin.files import load_json, output_folder, save_json, write_atomic
from prism_plugin.integrations.block_causal import BlockCausalDenoiser
from prism_plugin.models.backbone import BackboneConfig
from prism_plugin.models.cache import CacheConfig
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.quality.head import attach_head
from prism_plugin.sampling.drive import Result
from prism_plugin.tasks import HELD_OUT, get_task

console = Console()
SAMPLERS = ("confidence", "prism-llada")
REFRESH = (1, 2, 4, 8, 16, 0)
COLUMNS = (
    "model",
    "sampler",
    "cache",
    "refresh",
    "after a remask",
    "equal tokens %",
    "good %",
    "passes",
    "cost",
    "faster",
)


def run(
    prism: Prism, prompts: Tensor, cache: CacheConfig | None, repeats: int, **settings: object
) -> tuple[Result, float]:
    """Texts with a cache or without, and the least of the seconds that ``repeats`` runs took."""
    prism.denoiser.cache = None if cache is None else prism.denoiser.new_cache(cache)
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        result = prism.generate(prompts, **settings)  # type: ignore[arg-type]
        seconds.append(time.perf_counter() - started)
    return result, min(seconds)


def compare(
    prism: Prism,
    name: str,
    prompts: Tensor,
    options: argparse.Namespace,
    caches: Sequence[CacheConfig],
    good: Callable[[Tensor], float | None],
) -> list[dict]:
    """A row for every sampler and cache, the run without one first."""
    rows = []
    for sampler in SAMPLERS:
        settings = {"sampler": sampler, "steps": options.steps, "block_length": options.block_length, "seed": 0}
        plain, seconds = run(prism, prompts, None, options.repeats, **settings)
        written = prompts == prism.denoiser.mask_id
        jobs: list[CacheConfig | None] = [None, *caches]
        for cache in track(jobs, f"{name}, {sampler}", console=console):
            found, took = (plain, seconds) if cache is None else run(prism, prompts, cache, options.repeats, **settings)
            rows.append({
                "model": name, "sampler": sampler, "cache": cache.name if cache else "none",
                "refresh": cache.refresh if cache else 1, "after_remask": cache.after_remask if cache else True,
                "equal": float((found.tokens == plain.tokens)[written].float().mean()), "good": good(found.tokens),
                "forwards": float(found.forwards.double().mean()), "cost": float(found.cost.mean()),
                "seconds": took, "faster": seconds / took,
            })  # fmt: skip
    return rows


def causal(length: int, block_length: int) -> PrismModel:
    """A block-causal model without training, 6 million parameters."""
    torch.manual_seed(0)
    shape = BackboneConfig(
        vocab_size=1024, mask_id=0, length=length, hidden_size=256, num_layers=6, num_heads=4, block_causal=block_length
    )
    model = PrismModel(shape, "").eval()
    for name, parameter in model.named_parameters():
        if "gates" not in name:
            torch.nn.init.normal_(parameter, std=0.06)
    return model


class LLaDA2MoeModelLM(transformers.Qwen3ForCausalLM):
    """What stands for a block-causal host: Qwen3 takes its mask and keeps keys and values as LLaDA2's own code does."""


def host(length: int, block_length: int) -> BlockCausalDenoiser:
    """A host's model without training, 6 million parameters, with a head."""
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=1024, hidden_size=256, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=4,
        head_dim=64, intermediate_size=1024, max_position_embeddings=length, initializer_range=0.06,
    )  # fmt: skip
    made = BlockCausalDenoiser(LLaDA2MoeModelLM(config).eval(), 0, block_length=block_length)
    attach_head(made, "mlp")
    return made


def cells(row: dict) -> list[str]:
    """A row as the table shows it."""
    plain = row["cache"] == "none"
    return [
        row["model"], row["sampler"], row["cache"], "-" if plain else str(row["refresh"] or "never"),
        "-" if plain else "all anew" if row["after_remask"] else "nothing", f"{100 * row['equal']:.1f}",
        "-" if row["good"] is None else f"{100 * row['good']:.1f}", f"{row['forwards']:.1f}", f"{row['cost']:.1f}",
        f"{row['faster']:.2f}x",
    ]  # fmt: skip


def markdown(result: dict) -> str:
    """The result as a page."""
    lines = [
        "# Keys and values kept between passes", "", f"    {result['command']}", "",
        f"{result['texts']} held-out texts of {result['length']} tokens, half of them given at random (nothing is to "
        f"the block-causal model), {result['steps']} steps in blocks of {result['block_length']}, seed 0. "
        f"{result['machine']}; "
        + ("every time taken once, so that `cost` is the better measure." if result["repeats"] == 1 else
           f"the least of {result['repeats']} times."), "",
        "Equal tokens: share of those written without a cache. Good: " + result["good"] + ". Passes: forwards a text; "
        "cost: the same weighted by the share of the text that each went over. Refresh: everything is computed every "
        "so many passes; after a remask: what is done where a token was masked again. A block-causal backbone needs "
        "neither.",
        "", "![Agreement and speed](cache.png)", "", "| " + " | ".join(COLUMNS) + " |",
        "|---|---|---|--:|---|" + "--:|" * 5,
    ]  # fmt: skip
    return "\n".join([*lines, *("| " + " | ".join(cells(row)) + " |" for row in result["rows"])]) + "\n"


def plot(rows: list[dict], path: Path) -> None:
    """Agreement against the work saved, a line for each sampler and cache."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7.5, 4.6), layout="constrained")
    rows = [row for row in rows if row["cache"] != "none" and not row["model"].startswith("block-causal")]
    notes: list[tuple[str, float, float]] = []
    for sampler in SAMPLERS:
        for name in ("prefix", "dual"):
            for after in (True, False):
                line = [r for r in rows if (r["sampler"], r["cache"], r["after_remask"]) == (sampler, name, after)]
                if line:
                    label = f"{sampler}, {name}" + ("" if after else ", not after remasks")
                    x, y = [r["forwards"] / r["cost"] for r in line], [100 * r["equal"] for r in line]
                    axes.plot(x, y, marker="o", markersize=4, label=label, linestyle="-" if after else "--")
                    notes += [(str(row["refresh"] or "never"), a, b) for row, a, b in zip(line, x, y, strict=True)]
    axes.margins(x=0.08)
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    taken: list[tuple[float, float]] = []
    for said, a, b in notes:
        if all(abs(a - x) > 0.05 * (right - left) or abs(b - y) > 0.04 * (high - low) for x, y in taken):
            axes.annotate(said, (a, b), fontsize=7, xytext=(3, 3), textcoords="offset points")
            taken.append((a, b))
    axes.set(
        xlabel="passes / cost: how many times fewer positions were computed",
        ylabel="tokens equal to those without, %",
        title="numbers, where there is room: passes between refreshes",
    )
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8, frameon=False)
    with write_atomic(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
    plt.close(figure)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write; 2 and one line where something given cannot be used."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="code", help="embedded model or folder (code)")
    parser.add_argument("--texts", type=int, default=32)
    parser.add_argument("--steps", type=int, default=64)
    parser.add_argument("--block-length", type=int, default=32)
    parser.add_argument(
        "--only-causal", action="store_true", help="the block-causal models; others from the page there"
    )
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", default="docs/results", help="folder to write (docs/results)")
    options = parser.parse_args(argv)
    try:
        folder = output_folder(options.out)
        before = load_json(folder / "cache.json") if options.only_causal else None
        prism = enable(options.model)
        task, length = get_task(prism.denoiser.task), prism.denoiser.max_length  # type: ignore[arg-type]
        prompts, truth = task.prompts(options.texts, length // 2), task.texts(0, options.texts, HELD_OUT)

        def good(tokens: Tensor) -> float:
            return float((tokens == truth)[prompts == task.mask_id].double().mean())

        caches = [
            CacheConfig(name, options.block_length, refresh, after)
            for name in ("prefix", "dual") for after in (True, False) for refresh in REFRESH
        ]  # fmt: skip
        if before is None:
            rows = compare(prism, options.model, prompts, options, caches, good)
        else:
            rows = [row for row in before["rows"] if not row["model"].startswith("block-causal")]
        exact = causal(length, options.block_length)
        attach_head(exact, "dit")
        blank, prefix = (
            torch.zeros(options.texts, length, dtype=torch.long),
            CacheConfig("prefix", options.block_length),
        )
        rows += compare(enable(exact), "block-causal", blank, options, [prefix], lambda tokens: None)
        hosts = host(length, options.block_length)
        rows += compare(enable(hosts), "block-causal host", blank, options, [prefix], lambda tokens: None)
    except PrismError as error:
        console.print(f"cache.py: {error}", markup=False, highlight=False)
        return 2
    result = {
        "command": (f"{before['command']} && " if before else "")
        + shlex.join(["python", "benchmarks/cache.py", *(sys.argv[1:] if argv is None else argv)]),
        "machine": f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s), torch {version('torch')}, no GPU",
        "good": "share of the hidden tokens that came back", "length": length, **vars(options),
        "rows": rows,
    }  # fmt: skip
    save_json(folder / "cache.json", result)
    plot(rows, folder / "cache.png")
    with write_atomic(folder / "cache.md") as temporary:
        temporary.write_text(markdown(result), encoding="utf-8")
    for row in rows:
        console.print(" | ".join(cells(row)), highlight=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
