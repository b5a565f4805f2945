"""A script of LLaDA's or Fast-dLLM's, with our ``generate`` where its own was (``prism run``)."""

from __future__ import annotations

import ast
import runpy
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from importlib import import_module
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any

from prism_plugin.api import Prism, enable
from prism_plugin.errors import ConfigError
from prism_plugin.models.cache import CacheConfig

from ..script import imports, read, running
from .generate import adapter_of, generate

NEEDED = ("model", "prompt", "steps", "gen_length", "block_length", "temperature", "remasking", "mask_id")
LLADA = {*NEEDED, "attention_mask", "cfg_scale", "logits_eos_inf", "confidence_eos_eot_inf"}
FAST = {*NEEDED, "threshold", "factor"}
CACHED = {"generate_with_prefix_cache": "prefix", "generate_with_dual_cache": "dual"}


def run(
    file: Path, tree: ast.Module, words: Sequence[str], head: Any, sampler: str, settings: Mapping[str, Any]
) -> None:
    """See ``integrations.script.run_script``.

    The script defines ``generate`` itself or imports it from the generate.py beside it; which host's it is, the
    arguments say, and what comes back is the host's: tokens for LLaDA, (tokens, forwards) for Fast-dLLM.
    """
    own = _functions(tree)
    beside = file.with_name("generate.py")
    if "generate" not in own and not (imports(tree, "generate") and beside.is_file()):
        raise ConfigError(
            f"{file}: it neither defines `generate` nor imports it from a generate.py beside it, as the scripts of "
            "LLaDA and Fast-dLLM do; in another program give the model to prism_plugin.enable."
        )
    functions = own if "generate" in own else _functions(read(beside))
    if "generate" not in functions:
        raise ConfigError(f"{beside}: it defines no `generate`.")
    for name, function in functions.items():
        _check(file if functions is own else beside, name, function)

    @lru_cache(maxsize=1)
    def enabled(model: Any) -> Prism:
        return enable(adapter_of(model)(model), head, sampler=sampler, **settings)

    def put_in(namespace: dict[str, Any]) -> None:
        for name in functions:
            namespace[name] = _in_place_of(name, namespace[name], enabled, settings)

    try:
        with running(file, words):
            if functions is own:
                end = 1 + max(at for at, node in enumerate(tree.body) if getattr(node, "name", "") in own)
                main = sys.modules["__main__"] = ModuleType("__main__")
                main.__file__ = str(file)
                exec(compile(ast.Module(tree.body[:end], []), str(file), "exec"), main.__dict__)
                put_in(main.__dict__)
                exec(compile(ast.Module(tree.body[end:], []), str(file), "exec"), main.__dict__)
            else:
                module = import_module("generate")
                if Path(str(module.__file__)).resolve() != beside.resolve():
                    raise ConfigError(f"`generate` is {module.__file__} here, not {beside}: it was imported before.")
                put_in(module.__dict__)
                runpy.run_path(str(file), run_name="__main__")
    finally:
        sys.modules.pop("generate", None)


def _functions(tree: ast.Module) -> dict[str, ast.FunctionDef]:
    names = ("generate", *CACHED)
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names}


def _check(file: Path, name: str, function: ast.FunctionDef) -> None:
    """The arguments tell a host's ``generate`` from any other function of that common name."""
    takes = [a.arg for a in (*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs)]
    missing = [argument for argument in NEEDED if argument not in takes]
    other = sorted(set(takes) - (LLADA if "cfg_scale" in takes else FAST))
    if missing or other:
        why = f"it has no {missing[0]}" if missing else f"it has {other[0]}"
        raise ConfigError(f"{file}: `{name}` is neither LLaDA's nor Fast-dLLM's ({why}).")


def _in_place_of(
    name: str, theirs: Callable[..., Any], enabled: Callable[[Any], Prism], settings: Mapping[str, Any]
) -> Callable[..., Any]:
    """Ours with the arguments, and the kind of result, of the host's function of that name."""
    takes = signature(theirs)

    def ours(*args: Any, **named: Any) -> Any:
        call = takes.bind(*args, **named)
        call.apply_defaults()
        given = dict(call.arguments)
        model = given.pop("model")
        bounds = {"factor": given.pop("factor", None), "threshold": given.pop("threshold", None)}
        order = next((order for order, bound in bounds.items() if bound is not None), None)
        if order is not None:  # the host takes as many steps then as there are masks
            given |= {"steps": given["gen_length"]}
            rule = {"order": order, "fill_bound": bounds[order], "fill_least": 1, "end": "filled"}
            given |= {key: value for key, value in rule.items() if key not in settings}
        if name in CACHED:
            given["cache"] = CacheConfig(CACHED[name], block_length=given["block_length"])
        result = generate(enabled(model), seed=settings.get("seed", 0), return_result=True, **given)
        return result.tokens if "cfg_scale" in takes.parameters else (result.tokens, int(result.forwards.max()))

    return ours
