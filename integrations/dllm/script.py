"""dLLM's own examples and evaluations, with our sampler behind the library's (``prism run``)."""

from __future__ import annotations

import ast
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from prism_plugin.errors import ConfigError

from ..script import running
from .kinds import KINDS

WHERE = {
    "DreamSampler": "dllm.pipelines.dream", "LLaDA2Sampler": "dllm.pipelines.llada2",
    "LLaDA21Sampler": "dllm.pipelines.llada21", "FastdLLMLLaDASampler": "dllm.pipelines.fastdllm.llada",
    "FastdLLMDreamSampler": "dllm.pipelines.fastdllm.dream",
}  # fmt: skip
"""dllm.core.samplers has the others."""


def run(
    file: Path, tree: ast.Module, words: Sequence[str], head: Any, sampler: str, settings: Mapping[str, Any]
) -> None:
    """See ``integrations.script.run_script``. The methods are replaced, not the name: an evaluation holds the class.

    Raises ConfigError for a script that names none of the samplers, and where dllm cannot be imported.
    """
    names = {getattr(node, "attr", getattr(node, "id", getattr(node, "name", ""))) for node in ast.walk(tree)}
    found = [kind for kind in KINDS if names & {kind, f"{kind}Config", kind.replace("Sampler", "EvalHarness")}]
    if not found:
        raise ConfigError(f"{file}: ours takes the place of {', '.join(KINDS)}; it names none of these.")
    try:
        theirs = [getattr(import_module(WHERE.get(kind, "dllm.core.samplers")), kind) for kind in found]

        from .sampler import PrismSampler
    except ImportError as error:
        raise ConfigError(f"{file} is dLLM's, and dllm cannot be imported ({error}): put it on PYTHONPATH.") from error

    asked = {**settings, "sampler": sampler, "head": head}

    def ours(method: str) -> Callable[..., Any]:
        def call(self: Any, inputs: Any, config: Any = None, **given: Any) -> Any:
            made = self.__dict__.setdefault("_ours", PrismSampler(self.model, self.tokenizer, self.scheduler))
            made.model = self.model
            kind = next(kind for kind in type(self).__mro__ if kind.__name__ in KINDS)
            config = getattr(sys.modules[kind.__module__], f"{kind.__name__}Config")() if config is None else config
            return getattr(made, method)(inputs, config, **given, **asked)

        return call

    before = [(kind, kind.sample, kind.infill) for kind in theirs]
    for kind in theirs:
        kind.sample, kind.infill = ours("sample"), ours("infill")
    try:
        with running(file, words):
            runpy.run_path(str(file), run_name="__main__")
    finally:
        for kind, sample, infill in before:
            kind.sample, kind.infill = sample, infill
