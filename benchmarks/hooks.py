"""What do the hooks of an adapter cost a forward? Under 1% is promised, at 25 million parameters and two threads.

python benchmarks/hooks.py

A pass of the host by itself and the same pass with its states taken out (all logits computed either way), in turn and
in changing order; the page gives the median of the paired differences. Writes hooks.json and hooks.md.
"""

import argparse
import platform
import statistics
import sys
import time
from collections.abc import Sequence

import torch
import transformers

from prism_plugin import enable
from prism_plugin.files import output_folder, save_json, write_atomic
from prism_plugin.models.hooked import captured


def main(argv: Sequence[str] | None = None) -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--out", default="docs/results", help="folder to write (docs/results)")
    options = parser.parse_args(argv)
    torch.set_num_threads(2)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=8192, hidden_size=512, num_hidden_layers=6, num_attention_heads=8, intermediate_size=2048
    )
    model = transformers.BertForMaskedLM(config).eval()
    denoiser = enable(model, mask_id=4, sampler="confidence").denoiser
    tokens = torch.randint(5, 8192, (1, 128))
    module, side = denoiser.state_at()  # type: ignore[operator]  # an adapter of the kit

    def plain() -> float:
        started = time.perf_counter()
        model(input_ids=tokens)
        return time.perf_counter() - started

    def hooked() -> float:
        started = time.perf_counter()
        with captured(module, side, cut=False) as kept:
            model(input_ids=tokens)
        assert kept
        return time.perf_counter() - started

    pairs = []
    with torch.no_grad():
        for number in range(-5, options.pairs):
            both = (plain(), hooked()) if number % 2 else (hooked(), plain())[::-1]
            if number >= 0:
                pairs.append(both)
    base = statistics.median(one for one, _ in pairs)
    extra = [100 * (other - one) / base for one, other in pairs]
    quarters = statistics.quantiles(extra, n=4)
    result = {
        "command": "python benchmarks/hooks.py", "machine": f"{platform.machine()} CPU, 2 threads, no GPU",
        "torch": torch.__version__, "parameters": sum(p.numel() for p in model.parameters()), "pairs": len(pairs),
        "forward_ms": 1000 * base, "overhead_percent": statistics.median(extra), "quarters_percent": quarters,
    }  # fmt: skip
    folder = output_folder(options.out)
    save_json(folder / "hooks.json", result)
    page = (
        f"# The hooks of an adapter\n\n    {result['command']}\n\nA BERT of {result['parameters'] / 1e6:.1f} million "
        f"parameters, 128 tokens, {result['machine']}, torch {result['torch']}: a forward takes {1000 * base:.1f} ms. "
        f"With its states taken out by a hook, and the hook put on and taken off at every pass, it takes "
        f"{result['overhead_percent']:+.2f}% (median of {len(pairs)} pairs in changing order; half of them between "
        f"{quarters[0]:+.2f}% and {quarters[2]:+.2f}%). Promised: under 1%.\n"
    )
    with write_atomic(folder / "hooks.md") as temporary:
        temporary.write_text(page, encoding="utf-8")
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
