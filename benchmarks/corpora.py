"""Python and its documentation from the packages that this project installs anyway, in three parts held apart.

    python -m benchmarks.corpora code --out build/corpora/code
    python -m benchmarks.corpora prose --out build/corpora/prose

A package's file belongs to a part by the hash of what is in it: 5% are held out, 15% are for the judge, the others are
trained on together with the training texts of the task. Functions (or paragraphs of docstrings) that differ in nothing
but words with a capital count as one, and as the held-out part's before the judge's, the judge's before the training
part's; what the task itself trains on or holds out is in none but its own part. Folders of copies of other packages,
and tests, are left out. Texts are windows of 128 tokens of the task's vocabulary from the start of a unit on, in an
order drawn once, as the task's own are: ``train.jsonl`` is data for `prism train mdm model=… data=…`.

Another version of a package makes another corpus; ``about.json`` has versions and a hash of each part.
"""

import argparse
import ast
import hashlib
import json
import platform
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, distribution, version
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prism_plugin.errors import DataError, PrismError
from prism_plugin.files import load_json, output_folder, save_json, write_atomic
from prism_plugin.tasks import HELD_OUT, TRAIN
from prism_plugin.tasks.text import ALPHABET_ONLY, SKIPPED, UNITS, TextTask, code_fault, functions, no_fault, paragraphs

JUDGE = 2
"""The stream of the texts that the judge learns."""
NAMES = {TRAIN: "train", HELD_OUT: "held_out", JUDGE: "judge"}
PACKAGES = {
    "networkx": "BSD-3-Clause", "rich": "MIT", "pytest": "MIT", "numpy": "BSD-3-Clause", "scikit-learn": "BSD-3-Clause",
    "scipy": "BSD-3-Clause", "setuptools": "MIT", "pip": "MIT", "mypy": "MIT", "joblib": "BSD-3-Clause",
    "mpmath": "BSD-3-Clause", "fonttools": "MIT", "nltk": "Apache-2.0", "datasets": "Apache-2.0",
    "huggingface_hub": "Apache-2.0", "accelerate": "Apache-2.0", "peft": "Apache-2.0", "pandas": "BSD-3-Clause",
    "tensorboard": "Apache-2.0", "fsspec": "BSD-3-Clause", "hydra-core": "MIT", "omegaconf": "BSD-3-Clause",
    "Werkzeug": "BSD-3-Clause", "fastapi": "MIT", "starlette": "BSD-3-Clause", "pydantic": "MIT",
    "click": "BSD-3-Clause",
    "Jinja2": "BSD-3-Clause", "requests": "Apache-2.0", "urllib3": "MIT", "narwhals": "MIT", "jsonschema": "MIT",
    "virtualenv": "MIT", "nox": "Apache-2.0", "sympy": "BSD-3-Clause", "torch": "BSD-3-Clause",
}  # fmt: skip
"""Packages whose texts are taken, and the licence that each names for its own code."""
COPIES = {
    "_vendor", "_vendored_packages", "vendored", "vendor", "extern", "externals", "third_party", "thirdparty",
    "thirdparty_files", "_distutils", "testing",
}  # fmt: skip
"""Folders of copies of other packages, and of tests that are called otherwise."""
READ = {"code": (functions, code_fault), "prose": (paragraphs, no_fault)}


def files(package: str) -> Iterator[bytes]:
    """The Python files of a package. DataError where it is missing."""
    try:
        listed = distribution(package).files or []
    except PackageNotFoundError:
        raise DataError(f"package {package!r} is not installed: `make setup` brings it.") from None
    for path in sorted(path for path in listed if path.suffix == ".py" and ".." not in path.parts):
        if not (SKIPPED - {"site-packages", "dist-packages"} | COPIES) & set(path.parts[:-1]):
            yield Path(str(path.locate())).read_bytes()


def part(content: bytes) -> int:
    """The stream that a file belongs to."""
    place = int.from_bytes(hashlib.sha256(content).digest()[:4], "big") % 20
    return HELD_OUT if place == 0 else JUDGE if place <= 3 else TRAIN


def alike(unit: str) -> bytes:
    """The same for units that differ in words with a capital alone."""
    return hashlib.sha256(re.sub(r"[A-Z]\w*", "C", unit).encode()).digest()[:12]


def units(name: str, package: str, out: Path) -> list[tuple[int, str]]:
    """The functions or paragraphs of a package with their streams; kept in ``out``, so that a run goes on."""
    kept = out / "units" / f"{package}-{version(package)}.json"
    if not kept.exists():
        found = []
        for content in files(package):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # old escapes in old modules
                    module = ast.parse(content)
            except (SyntaxError, ValueError):  # templates, and files of Python 2
                continue
            found += [(part(content), unit) for unit in READ[name][0](module) if ALPHABET_ONLY.fullmatch(unit)]
        kept.parent.mkdir(exist_ok=True)
        save_json(kept, {"units": found})
        print(f"{package}: {len(found):,} units", flush=True)
    return [(stream, unit) for stream, unit in load_json(kept)["units"]]


def corpus(name: str, out: Path) -> TextTask:
    """The texts as a task with the streams TRAIN, HELD_OUT and JUDGE; its vocabulary is that of the task ``name``."""
    found = [pair for package in PACKAGES for pair in units(name, package, out)]
    own = {stream: list(UNITS[name](stream)) for stream in (TRAIN, HELD_OUT)}
    seen = {alike(unit) for told in own.values() for unit in told}
    kept: dict[int, list[str]] = {}
    for stream in (HELD_OUT, JUDGE, TRAIN):
        kept[stream] = [*own[TRAIN]] if stream == TRAIN else []
        for unit in (unit for place, unit in found if place == stream):
            if (key := alike(unit)) not in seen:
                seen.add(key)
                kept[stream].append(unit)
    return TextTask(name, lambda stream: iter(kept[stream]), READ[name][1])


def texts(file: Path, count: int | None = None) -> Tensor:
    """The first texts of a part of a corpus, (N, L) int64."""
    with file.open(encoding="utf-8") as rows:
        return torch.tensor([json.loads(row)["text"] for row in islice(rows, count)])


def written(task: TextTask, out: Path) -> dict[str, dict[str, Any]]:
    """Write the three parts as token ids, a text a row; sizes and hashes of them."""
    parts = {}
    for stream, called in NAMES.items():
        tokens, starts, digest = task.stream(stream)
        with write_atomic(out / f"{called}.jsonl") as temporary, open(temporary, "w", encoding="utf-8") as rows:
            for first in range(0, len(starts), 4096):
                for row in task.texts(first, min(4096, len(starts) - first), stream).tolist():
                    rows.write(json.dumps({"text": row}, separators=(",", ":")) + "\n")
        parts[called] = {"tokens": len(tokens), "texts": len(starts), "sha256": digest}
        print(f"{called}: {len(tokens):,} tokens, {len(starts):,} texts, {digest}", flush=True)
    return parts


def write(name: str, out: Path) -> None:
    """The three parts, and what they are made of."""
    parts = written(corpus(name, out), out)
    packages = {package: f"{version(package)}, {licence}" for package, licence in PACKAGES.items()}
    packages = {"python": f"{platform.python_version()}, PSF-2.0", **packages}
    made = {"task": name, "parts": parts, "packages": packages}
    save_json(out / "about.json", made)


def run(
    argv: Sequence[str] | None, about: str | None, write: Callable[[Any, Path], None], name: str, **argument: Any
) -> int:
    """A command that writes a corpus: ``write(name, folder)``, where ``argument`` is how the name is to be read."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(name, **argument)
    parser.add_argument("--out", required=True, help="folder to write")
    options = parser.parse_args(argv)
    try:
        write(getattr(options, name), output_folder(options.out))
    except PrismError as error:
        print(f"{parser.prog}: {error}")
        return 2
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Write a corpus of Python or its documentation."""
    return run(argv, __doc__, write, "name", choices=list(READ))


if __name__ == "__main__":
    sys.exit(main())
