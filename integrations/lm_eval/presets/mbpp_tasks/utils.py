"""MBPP as PRISM's LLaDA release asks for it, with code between <py> and </py>, and as Dream asks an instruct model."""

import re
from typing import Any

PROMPT = """\
Write ONLY valid Python code for the task below.
- Output code between <py> and </py> only (no extra text).
- No markdown, no explanations, no comments.
- Do not print or read input. Do not write files or access networks.
- Use only Python standard library imports at the top if needed.
- Define exactly one top-level function {name} (keep the name).
- Do not include tests or `if __name__ == "__main__":`.

Task:
{text}

Format:
<py>
# optional stdlib imports

def {name}(...):
    ...
</py>
"""


def prompt(doc: dict[str, Any]) -> str:
    """The release's words; the function's name is that of the first one in the reference solution."""
    found = re.search(r"^def\s+(\w+)", doc["code"], re.M)
    return PROMPT.format(text=doc["text"], name=found.group(1) if found else None)


def tests(doc: dict[str, Any]) -> str:
    return "\n".join(doc["test_list"])


def extract(resps: list[list[str]], docs: list[dict[str, Any]]) -> list[list[str]]:
    return [[code(answer) for answer in answers] for answers in resps]


def code(answer: str) -> str:
    """What stands behind the last <py>, up to </py>; else within a fence; else all of it."""
    blocks = re.findall(r"<py>\s*(.*?)\s*(?:</py>|\Z)", answer, re.S | re.I)
    blocks = blocks or re.findall(r"```(?:python)?\s*(.*?)\s*```", answer, re.S | re.I)
    return str(blocks[-1] if blocks else answer).strip()


def shots() -> list[dict[str, Any]]:
    """The three of lm-eval's own MBPP."""
    from lm_eval.tasks.mbpp.utils import list_fewshot_samples

    return list_fewshot_samples()


def pass_at_1(references: list[str], predictions: list[Any]) -> float:
    import evaluate

    metric = evaluate.load("code_eval")  # from the hub
    predictions = [[one] if isinstance(one, str) else one for one in predictions]
    return float(metric.compute(references=references, predictions=predictions, k=[1])[0]["pass@1"])
