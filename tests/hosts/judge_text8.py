"""Judge samples of a text8 run: `python judge_text8.py DATA [OUTPUT SEQUENCES]`; see make_text8.py for DATA.

Prints the share of whole words that the corpus knows, with its standard error, the entropy of a text's characters and
one sample; without OUTPUT the same of held-out text. The host's own generative perplexity is by an untrained GPT-2 here
and means nothing.
"""

import ast
import collections
import json
import math
import sys
from pathlib import Path


def entropy(text: str) -> float:
    """Unigram entropy of the characters, in nats."""
    return -sum(n / len(text) * math.log(n / len(text)) for n in collections.Counter(text).values())


def judged(texts: list[str], known: set[str]) -> str:
    """Words cut by either end of a text are left out."""
    words = [word for text in texts for word in text.split(" ")[1:-1] if word]
    share = sum(word in known for word in words) / max(len(words), 1)
    error = math.sqrt(share * (1 - share) / max(len(words), 1))
    mean = sum(entropy(text) for text in texts) / len(texts)
    return (
        f"{len(texts)} texts, {len(words)} whole words, known {share:.3f} +- {error:.3f}, entropy of a text {mean:.2f}"
    )


def main() -> None:
    """Read the corpus and the samples, print what was found."""
    raw = Path(sys.argv[1]) / "text8" / "raw_data"
    known = set((raw / "text8.train.txt").read_text().split())
    held_out = (raw / "text8.test.txt").read_text()
    if len(sys.argv) == 2:
        real = [held_out[start : start + 62] for start in range(0, len(held_out) - 62, 62)]
        print(f"held-out text: {judged(real, known)}")
        return
    output = Path(sys.argv[2]).read_text()
    if "Text samples:" in output:
        texts = ast.literal_eval(output.split("Text samples:")[1].strip().splitlines()[0])
    else:
        texts = json.loads(Path(sys.argv[3]).read_text())["text_samples"]
    for special in ("[BOS]", "[EOS]", "[CLS]", "[SEP]", "[PAD]", "[UNK]", "[RESERVED]"):
        texts = [text.replace(special, " ") for text in texts]
    print(f"{judged(texts, known)}")
    print(f"first: {texts[0]!r}")


if __name__ == "__main__":
    main()
