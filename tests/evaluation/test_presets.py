"""The published settings: read as lm-eval reads them, known to the sampler; prompts and extraction on hand-made documents."""  # noqa: E501

import json
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sympy
import sympy.parsing.latex
import yaml

pytest.importorskip("lm_eval", reason="lm_eval is not installed (extra: lm-eval)")
import evaluate
import lm_eval
import lm_eval.models
from lm_eval import evaluator
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager

from prism_plugin.config import from_mapping
from prism_plugin.evaluation.arguments import generation
from prism_plugin.sampling.config import SamplerConfig, resolve

PRESETS = Path(__file__).parents[2] / "integrations/lm_eval/presets"
THEIRS = Path(lm_eval.__file__).parent / "tasks"
FILES = sorted(PRESETS.glob("*.yaml"))
evaluator.add_env_info = lambda results: None  # asks the machine about itself for seconds


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_preset_is_lm_evals_and_the_samplers_and_names_its_source(file: Path) -> None:
    theirs = pytest.importorskip("lm_eval.config.evaluate_config", reason="lm-eval has configs from 0.4.10 on")
    config = theirs.EvaluatorConfig(**theirs.EvaluatorConfig.load_yaml_config(file))
    text = file.read_text()
    assert "Needs the hub" in text and "# Source: " in text and config.model == "prism"
    plain, settings = generation(config.gen_kwargs, 256)
    sampler = dict(config.model_args["sampler"]) | settings
    used = resolve(from_mapping(sampler, SamplerConfig, "sampler."))
    assert used.order == sampler.get("order", "confidence" if "dream" not in file.stem else used.order)
    assert used.temperature == sampler["temperature"] == (0.1 if "dream" in file.stem else 0.0)
    assert f"{used.steps}" in text.split("model: prism")[0] and f"{plain['max_gen_toks']}" in text.split("model:")[0]


def test_every_task_of_every_published_script_is_there() -> None:
    short = ("gsm8k", "math", "humaneval", "mbpp")
    models = ("llada_base", "llada_instruct", "llada_15", "dream_instruct")
    expected = {f"{model}_{task}" for model in models for task in short} | {"prism_mbpp"}
    assert {file.stem for file in FILES} == expected


class Canned(LM):
    """A model whose answers are given; it keeps what it was asked."""

    def __init__(self, *answers: str) -> None:
        super().__init__()
        self.answers, self.asked = answers, []

    def generate_until(self, requests: list[Any], **kwargs: Any) -> list[str]:
        self.asked = [request.args[0] for request in requests]
        return [self.answers[request.doc_id] for request in requests]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """As LLaDA's, where an unfinished answer has no end."""
        turns = [f"<{turn['role']}>{turn['content']}<end>" for turn in chat_history]
        return "".join(turns) + "<assistant>" if add_generation_prompt else "".join(turns).removesuffix("<end>")

    tokenizer_name = "canned"
    loglikelihood = loglikelihood_rolling = generate_until


def judged(
    folder: Path, theirs: Path, documents: list[dict], answers: list[str], shots: int = 0, **given: Any
) -> tuple[dict[str, Any], str]:
    """Scores of the answers under a task whose documents are replaced, and the first prompt."""
    if not theirs.exists():
        pytest.skip(f"lm-eval {metadata.version('lm_eval')} has no task {theirs.stem}")
    (folder / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in documents))
    files = json.dumps({split: str(folder / "docs.jsonl") for split in ("train", "test")})
    (folder / "mine.yaml").write_text(
        f"include: {theirs}\ntask: mine\ntag: []\ndataset_path: json\ndataset_name: null\nnum_fewshot: {shots}\n"
        f"dataset_kwargs: {{data_files: {files}, cache_dir: {folder}}}\n"
    )
    manager, model = TaskManager(include_path=str(folder), include_defaults=False), Canned(*answers)
    results = evaluator.simple_evaluate(
        model=model, tasks=["mine"], task_manager=manager, bootstrap_iters=0, confirm_run_unsafe_code=True, **given
    )
    return results["results"]["mine"], model.asked[0]


@pytest.fixture(autouse=True)
def judge_of_code(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the hub's code_eval: run the hand-made answers here."""

    def compute(references: list[str], predictions: list[list[str]], k: list[int]) -> tuple[dict[str, float], None]:
        passed = []
        for test, (code, *_) in zip(references, predictions, strict=True):
            try:
                exec(f"{code}\n{test}", {})
                passed.append(1.0)
            except (AssertionError, SyntaxError, NameError):
                passed.append(0.0)
        return {"pass@1": sum(passed) / len(passed)}, None

    monkeypatch.setattr(evaluate, "load", lambda name: SimpleNamespace(compute=compute))


GSM8K = [{"question": "2 + 3?", "answer": "2 + 3 = 5\n#### 5"}, {"question": "4 * 5?", "answer": "#### 20"}]


def test_gsm8k_of_llada(tmp_path: Path) -> None:
    scores, prompt = judged(tmp_path, THEIRS / "gsm8k/gsm8k.yaml", GSM8K, ["It is 5.\n#### 5", "20, then"])
    assert prompt == "Question: 2 + 3?\nAnswer:"
    assert scores["exact_match,strict-match"] == 0.5 and scores["exact_match,flexible-extract"] == 1.0


def test_gsm8k_of_dream(tmp_path: Path) -> None:
    scores, prompt = judged(tmp_path, THEIRS / "gsm8k/gsm8k-cot.yaml", GSM8K, ["The answer is 5.", "The answer is 21."])
    assert prompt == "Q: 2 + 3?\nA:"
    assert scores["exact_match,strict-match"] == scores["exact_match,flexible-extract"] == 0.5


HUMANEVAL = [
    {"task_id": f"HumanEval/{n}", "prompt": "def add(a, b):\n", "entry_point": "add",
     "test": "def check(f):\n    assert f(2, 3) == 5\n", "canonical_solution": "    return a + b\n"}
    for n in range(2)
]  # fmt: skip


def test_humaneval_of_llada(tmp_path: Path) -> None:
    answers = ["    return a + b\n", "    return a - b\n"]
    scores, prompt = judged(tmp_path, THEIRS / "humaneval/humaneval.yaml", HUMANEVAL, answers)
    assert prompt == "def add(a, b):\n" and scores["pass@1,create_test"] == 0.5


def test_humaneval_of_dream(tmp_path: Path) -> None:
    answers = ["    return a + b\n```\nAs asked.", "    return a - b\n```"]
    scores, prompt = judged(tmp_path, THEIRS / "humaneval/humaneval_instruct.yaml", HUMANEVAL, answers)
    assert prompt.startswith("Write a solution to the following problem") and prompt.count("def add(a, b):") == 2
    assert scores["pass@1,create_test"] == 0.5


MBPP = [
    {"task_id": n, "text": "Add two numbers.", "code": "def add(a, b):\n    return a + b", "test_setup_code": "",
     "test_list": ["assert add(2, 3) == 5", "assert add(0, 0) == 0", "assert add(1, 0) == 1"]}
    for n in range(2)
]  # fmt: skip
RIGHT, WRONG = "def add(a, b):\n    return a + b", "def add(a, b):\n    return a - b"


@pytest.mark.parametrize(
    ("theirs", "form", "said"),
    [
        (THEIRS / "mbpp/mbpp.yaml", "{}\n", "[BEGIN]\n"),
        (PRESETS / "mbpp_tasks/mbpp_chat.yaml", "{}\n", "Here is the completed function:\n```python\n"),
        (PRESETS / "mbpp_tasks/mbpp_prism.yaml", "Here: <py>\n{}\n", "Define exactly one top-level function add "),
        (PRESETS / "mbpp_tasks/mbpp_prism.yaml", "```python\n{}\n```", "<py>\n# optional stdlib imports"),
    ],
)  # fmt: skip
def test_mbpp_of_each(tmp_path: Path, theirs: Path, form: str, said: str) -> None:
    scores, prompt = judged(tmp_path, theirs, MBPP, [form.format(RIGHT), form.format(WRONG)])
    assert said in prompt and "Add two numbers." in prompt
    assert [value for key, value in scores.items() if key.startswith("pass_at_1,")] == [0.5]


@pytest.fixture
def no_math(monkeypatch: pytest.MonkeyPatch) -> None:
    """lm-eval[math] pins an antlr that Hydra forbids; exact_match, looked at here, needs at most numbers to be read."""
    monkeypatch.setattr("sympy.parsing.latex.parse_latex", sympy.sympify)
    version = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "4.11" if name.startswith("antlr4") else version(name))
    other = SimpleNamespace(parse=lambda text: text, verify=lambda *given, **named: False)
    monkeypatch.setitem(sys.modules, "math_verify", other)
    monkeypatch.setitem(sys.modules, "antlr4", SimpleNamespace())


MATH = [
    {"problem": f"What is $1 + {n}$?", "solution": f"It is $\\boxed{{{1 + n}}}$.", "level": "1", "type": "Algebra"}
    for n in range(2)
]
FINAL = "Final Answer: The final answer is ${}$. I hope it is correct."


@pytest.mark.usefixtures("no_math")
def test_math_of_all(tmp_path: Path) -> None:
    answers = [FINAL.format(1), FINAL.format(3)]
    scores, prompt = judged(tmp_path, THEIRS / "minerva_math/minerva_math_algebra.yaml", MATH, answers)
    assert prompt == "Problem:\nWhat is $1 + 0$?\n\nSolution:" and scores["exact_match,none"] == 0.5


CHATS = {
    "gsm8k_cot": (
        THEIRS / "gsm8k/gsm8k-cot.yaml", GSM8K, "The answer is {}.", (5, 21), "Q: ", "A:", "exact_match,strict-match",
    ),
    "minerva_math": (
        THEIRS / "minerva_math/minerva_math_algebra.yaml", MATH, FINAL, (1, 3), "Problem:", "Solution:",
        "exact_match,none",
    ),
    "humaneval_instruct": (
        THEIRS / "humaneval/humaneval_instruct.yaml", HUMANEVAL, "    return a {} b\n```", "+-", "Write a solution",
        "def add(a, b):\n", "pass@1,create_test",
    ),
    "mbpp_chat": (
        PRESETS / "mbpp_tasks/mbpp_chat.yaml", MBPP, "def add(a, b):\n    return a {} b\n", "+-", "You are an expert",
        "```python\n", "pass_at_1,none",
    ),
}  # fmt: skip


@pytest.mark.usefixtures("no_math")
@pytest.mark.parametrize("file", [f for f in FILES if f.stem.startswith(("llada_1", "llada_i"))], ids=lambda f: f.stem)
def test_presets_of_instruct_models_ask_in_their_template(file: Path, tmp_path: Path) -> None:
    """One turn of the user holds the shots and the question; what lm-eval begins the answer with is left open."""
    preset = yaml.safe_load(file.read_text())
    (task,) = preset["tasks"]
    theirs, documents, form, said, asks, begun, metric = CHATS[task]
    chat = {key: preset[key] for key in ("apply_chat_template", "fewshot_as_multiturn")}
    answers = [form.format(one) for one in said]
    scores, prompt = judged(tmp_path, theirs, documents, answers, preset["num_fewshot"], **chat)
    assert prompt.startswith("<user>") and prompt.count("<user>") == prompt.count("<assistant>") == 1
    assert prompt.count(asks) == preset["num_fewshot"] + 1 and scores[metric] == 0.5
    assert prompt.removesuffix("<end><assistant>").rstrip().endswith(begun.rstrip())
