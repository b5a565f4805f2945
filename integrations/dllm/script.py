"""dLLM's own examples and evaluations, with our sampler behind its ``MDLMSampler`` (``prism run``)."""

from __future__ import annotations

import ast
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prism_plugin.errors import ConfigError

from ..script import running


def run(
    file: Path, tree: ast.Module, words: Sequence[str], head: Any, sampler: str, settings: Mapping[str, Any]
) -> None:
    """See ``integrations.script.run_script``. The methods are replaced, not the name: an evaluation holds the class.

    Raises ConfigError for a script that does not name ``MDLMSampler``, and where dllm cannot be imported.
    """
    named = {getattr(node, "attr", getattr(node, "id", getattr(node, "name", ""))) for node in ast.walk(tree)}
    if not named & {"MDLMSampler", "MDLMEvalHarness"}:
        raise ConfigError(f"{file}: of dLLM's samplers ours takes the place of MDLMSampler, which it does not name.")
    try:
        from dllm.core.samplers import MDLMSampler

        from .sampler import PrismSampler
    except ImportError as error:
        raise ConfigError(f"{file} is dLLM's, and dllm cannot be imported ({error}): put it on PYTHONPATH.") from error

    def ours(theirs: Any) -> PrismSampler:
        if "_ours" not in theirs.__dict__:
            theirs.__dict__["_ours"] = PrismSampler(theirs.model, theirs.tokenizer, theirs.scheduler)
        theirs.__dict__["_ours"].model = theirs.model
        return theirs.__dict__["_ours"]

    asked = {**settings, "sampler": sampler, "head": head}
    before = MDLMSampler.sample, MDLMSampler.infill
    MDLMSampler.sample = lambda self, inputs, config=None, **given: ours(self).sample(inputs, config, **given, **asked)
    MDLMSampler.infill = lambda self, inputs, config=None, **given: ours(self).infill(inputs, config, **given, **asked)
    try:
        with running(file, words):
            runpy.run_path(str(file), run_name="__main__")
    finally:
        MDLMSampler.sample, MDLMSampler.infill = before
