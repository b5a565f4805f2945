"""A toy instruction task in LLaDA's own ids: copy, reverse, sort or shuffle five digits.

A prompt is ``[bos] word five-digits [EoT]``, its answer five digits, one EoT and EOS to the end. Letters and digits are
their byte values; the special ids are those of the published checkpoints, so that everything a host does with EOS, EoT
and the mask happens here too. ``shuffle`` has many right answers, so that tokens filled in one step can contradict each
other however good the model is.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

VOCAB_SIZE = 126464
BOS, EOS, EOT, MASK = 126080, 126081, 126348, 126336
ANSWER_LENGTH = 8
TASKS = ("copy", "reverse", "sort", "shuffle")

USED_IDS = [*range(256), BOS, EOS, MASK, 126346, 126347, EOT]
"""The 262 rows of the vocabulary that the toy model is trained on; the rest share one row."""


def examples(count: int, generator: torch.Generator, tasks: Sequence[str] = TASKS) -> tuple[Tensor, Tensor, Tensor]:
    """Draw prompts and answers.

    Returns prompt (count, P) int64, left-padded with EOS; its attention mask (count, P) int64; answer (count, 8) int64.
    """
    digits = 48 + torch.randint(10, (count, 5), generator=generator)
    order = torch.rand(count, 5, generator=generator).argsort(dim=1)
    ends = torch.tensor([EOT, EOS, EOS]).expand(count, 3)
    results = {
        "copy": digits,
        "reverse": digits.flip(1),
        "sort": digits.sort(dim=1).values,
        "shuffle": digits.gather(1, order),
    }
    chosen = torch.randint(len(tasks), (count,), generator=generator)
    answer = torch.cat([torch.stack([results[task] for task in tasks])[chosen, torch.arange(count)], ends], dim=1)
    prompts = [
        [BOS, *tasks[n].encode(), *number, EOT] for n, number in zip(chosen.tolist(), digits.tolist(), strict=True)
    ]
    width = max(map(len, prompts))
    prompt = torch.tensor([[EOS] * (width - len(p)) + p for p in prompts])
    attended = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    return prompt, attended, answer


def solved(task: str, generated: Tensor, answer: Tensor) -> Tensor:
    """Which generated answers (B, 8) are right, (B,) bool: equal to ``answer``, for ``shuffle`` up to order."""
    if task == "shuffle":
        digits = generated[:, :5].sort(dim=1).values == answer[:, :5].sort(dim=1).values
        return digits.all(dim=1) & (generated[:, 5:] == answer[:, 5:]).all(dim=1)
    return (generated == answer).all(dim=1)
