"""How models are had, and the text behind a prompt."""

from typing import Any


def get_model(model_args: Any, config: Any = None) -> Any:
    raise OSError("a test puts its model here")


def get_tokenizer(model_args: Any) -> Any:
    raise OSError("a test puts its tokenizer here")


def sample_trim(tokenizer: Any, sequences: list[list[int]], inputs: list[list[int]]) -> list[str]:
    found = []
    for sequence, prompt in zip(sequences, inputs, strict=True):
        answer = sequence[len(prompt) :]
        end = answer.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in answer else len(answer)
        found.append(tokenizer.decode(answer[:end], skip_special_tokens=True))
    return found
