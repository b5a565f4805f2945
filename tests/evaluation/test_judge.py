"""The judge is a probability model, and knows its training text from another."""

from pathlib import Path

import numpy as np
import pytest
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

from prism_plugin.evaluation.judge import Causal, Judge


def causal(folder: Path, symbols: int) -> None:
    """A causal transformer that has learned nothing."""
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=symbols, initializer_range=0.5, **size)).save_pretrained(folder)


@pytest.mark.parametrize("kind", ["5-gram", "causal"])
def test_the_judge_gives_probabilities_that_add_up_to_one(kind: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    symbols = 7
    causal(tmp_path, symbols)
    judge = {
        "5-gram": lambda: Judge(random.integers(symbols, size=400), symbols, order=3),
        "causal": lambda: Causal(tmp_path, 0),
    }[kind]()
    for context in ([], [3], [3, 5], [0, 1, 2], [6, 6, 6]):
        before = judge.nll(np.array(context, dtype=np.int64)) if context else 0.0
        after = [judge.nll(np.array([*context, symbol])) for symbol in range(symbols)]
        assert sum(np.exp(before - one) for one in after) == pytest.approx(1.0, rel=1e-5)


def test_a_judge_is_loaded_without_a_bar(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    causal(tmp_path, 7)
    capfd.readouterr()
    Causal(tmp_path, 0)
    assert "Loading" not in capfd.readouterr().err and logging.is_progress_bar_enabled()


def test_the_judge_prefers_what_it_has_learned() -> None:
    random = np.random.default_rng(1)
    successor = random.permutation(50)
    chain = [0]
    for _ in range(3000):
        chain.append(int(successor[chain[-1]]) if random.random() < 0.8 else int(random.integers(50)))
    judge = Judge(np.array(chain), 50)
    rest = [chain[-1]]
    for _ in range(200):
        rest.append(int(successor[rest[-1]]) if random.random() < 0.8 else int(random.integers(50)))
    entropy = -(0.804 * np.log(0.804) + 49 * 0.004 * np.log(0.004))
    assert judge.nll(np.array(rest)) / len(rest) < 1.7 * entropy
    assert judge.nll(random.permutation(rest)) > 1.5 * judge.nll(np.array(rest))
