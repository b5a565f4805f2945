"""Writes the tables of docs/lm_eval.md from the schema of the settings:  python docs/lm_eval.py"""

from dataclasses import fields
from pathlib import Path

from prism_plugin.evaluation.arguments import MAX_TOKENS, OWN, Arguments
from prism_plugin.evaluation.likelihood import KINDS

PAGE = Path(__file__).with_name("lm_eval.md")
BEGIN, END = "<!-- made by docs/lm_eval.py -->\n", "<!-- end -->\n"
ASKED = {
    "until": "strings that end an answer",
    "do_sample": "false is temperature 0, as in lm-eval",
    "num_beams": "1; there are no beams",
    "infill": "true: `[MASK*n]` in the prompt is a hole, and what is written there is the answer",
    "quality": "true: nothing is written; the answer is the quality of every token, as JSON",
    **dict.fromkeys(MAX_TOKENS, "tokens of an answer; of several the first in this order"),
}


def table() -> str:
    """Every key of ``--model_args`` and ``--gen_kwargs``, and the kinds of likelihood."""
    lines = ["| `--model_args` | default | |", "|---|---|---|"]
    for item in fields(Arguments):
        among = item.metadata["among"]
        allowed = f"; one of {', '.join(among)}" if among else ""
        lines.append(
            f"| `{item.name}` | {'' if item.default is None else item.default} | {item.metadata['line']}{allowed} |"
        )
    lines += ["", "| `--gen_kwargs` | |", "|---|---|", *(f"| `{name}` | {ASKED[name]} |" for name in OWN)]
    lines.append(
        "| `sampler`, `sampler.*`, or a sampler's setting by its bare name | as in `--model_args`, which it wins over |"
    )
    lines += ["", "| `likelihood` | |", "|---|---|", *(f"| `{name}` | {line} |" for name, line in KINDS.items())]
    return "\n".join(lines) + "\n"


def page() -> str:
    """The page with its tables anew."""
    head, _, rest = PAGE.read_text().partition(BEGIN)
    return head + BEGIN + table() + END + rest.partition(END)[2]


if __name__ == "__main__":
    PAGE.write_text(page())
