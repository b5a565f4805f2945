"""Make what a run of MDLM or ReMDM on its own `data=text8` needs, from Python's own documentation.

    python make_text8.py FOLDER

FOLDER/text8/raw_data/text8.{train,validation,test}.txt    lower-case letters and single spaces
FOLDER/gpt2/    a tiny untrained byte-level GPT-2 for the host to score samples with
"""

import inspect
import json
import pkgutil
import re
import sys
from pathlib import Path
from pydoc_data.topics import topics

DIGITS = dict(enumerate(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]))


def corpus() -> str:
    """Topics of `help()` and the docstrings of the standard library's source files, in text8's alphabet."""
    texts = list(topics.values())
    library = Path(inspect.getfile(inspect)).parent
    for module in sorted(m.name for m in pkgutil.iter_modules([str(library)])):
        source = library / f"{module}.py"
        if source.is_file():
            texts += re.findall(r'"""(.*?)"""', source.read_text("utf-8", "ignore"), re.S)
    text = re.sub(r"\d", lambda digit: f" {DIGITS[int(digit[0])]} ", " ".join(texts).lower())
    return re.sub(r"[^a-z]+", " ", text).strip()


def write_splits(folder: Path, text: str) -> None:
    """90, 5 and 5 % of the text, in the order that the host's own splits have."""
    folder.mkdir(parents=True, exist_ok=True)
    cuts = [0, len(text) * 90 // 100, len(text) * 95 // 100, len(text)]
    for name, start, stop in zip(("train", "validation", "test"), cuts, cuts[1:], strict=False):
        (folder / f"text8.{name}.txt").write_text(text[start:stop])


def write_gpt2(folder: Path) -> None:
    """A GPT-2 of one block over bytes, with its tokenizer, so that the host's scoring code has something to load."""
    from transformers import GPT2Config, GPT2LMHeadModel, GPT2Tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(code) for code in (*range(33, 127), *range(161, 173), *range(174, 256))]
    vocab = {symbol: index for index, symbol in enumerate([*letters, "Ġ", "Ċ", "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocab))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    GPT2Tokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    end = vocab["<|endoftext|>"]
    config = GPT2Config(
        vocab_size=len(vocab), n_positions=1024, n_embd=32, n_layer=1, n_head=2, bos_token_id=end, eos_token_id=end
    )
    GPT2LMHeadModel(config).save_pretrained(folder)


if __name__ == "__main__":
    out = Path(sys.argv[1])
    write_splits(out / "text8" / "raw_data", corpus())
    write_gpt2(out / "gpt2")
