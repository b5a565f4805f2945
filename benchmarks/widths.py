"""What eight short prompts cost when one long prompt is beside them: texts of nearly one length together, against all in one.

    python benchmarks/widths.py --out docs/results

Eight prompts of 36 tokens and one of 6016, 16 tokens to write behind each in 4 passes, by a backbone with random weights
(hidden size 32, one layer). ``one table`` is every text padded to the longest. Median and range of the repeats, one thread.
"""  # noqa: E501

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from prism_plugin import __version__
from prism_plugin.files import save_json
from prism_plugin.models.backbone import BackboneConfig
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.sampling import drive
from prism_plugin.sampling.config import SamplerConfig

SHORT, LONG, NEW, STEPS = 36, 6016, 16, 4


class Counting(PrismModel):
    """A model that counts the positions that its passes go over."""

    positions = 0

    def forward(self, tokens: torch.Tensor, *rest: Any) -> Any:
        """See ``Denoiser.forward``."""
        self.positions += tokens.numel()
        return super().forward(tokens, *rest)


def measure(model: Counting, texts: list[torch.Tensor], bucket: Callable[[int], int], repeats: int) -> dict[str, Any]:
    """Positions a pass, and seconds of each repeat."""
    before, drive.bucket = drive.bucket, bucket
    seconds = []
    try:
        for _ in range(repeats):
            model.positions, started = 0, time.perf_counter()
            drive.generate_many(model, texts, SamplerConfig("random", steps=STEPS), slots=32)
            seconds.append(time.perf_counter() - started)
    finally:
        drive.bucket = before
    return {"positions": model.positions // STEPS, "seconds": seconds}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", default="")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    shape = BackboneConfig(
        vocab_size=64, mask_id=0, length=LONG + NEW, hidden_size=32, num_layers=1, num_heads=2, cond_size=8
    )
    model = Counting(shape, "code").eval()
    masks = torch.zeros(NEW, dtype=torch.long)
    short = [torch.cat([torch.full((SHORT,), 1 + n), masks]) for n in range(8)]
    both = [*short, torch.cat([torch.full((LONG,), 9), masks])]
    cases = {
        "eight short": (short, drive.bucket),
        "eight short and a long one, one table": (both, lambda length: 0),
        "eight short and a long one, by bucket": (both, drive.bucket),
    }
    rows = {name: measure(model, texts, bucket, options.repeats) for name, (texts, bucket) in cases.items()}
    for name, row in rows.items():
        low, high = min(row["seconds"]), max(row["seconds"])
        middle = statistics.median(row["seconds"])
        print(f"{name}: {row['positions']} positions a pass, {middle:.2f} s ({low:.2f} to {high:.2f})")
    if options.out:
        about = {"prism_plugin": __version__, "torch": torch.__version__, "machine": platform.machine(), "threads": 1}
        save_json(Path(options.out) / "widths.json", {"about": about, "repeats": options.repeats, "rows": rows})


if __name__ == "__main__":
    main()
