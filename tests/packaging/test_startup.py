"""The line that runs at every start of Python: cheap, silent, importing nothing, easy to switch off."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PTH = (ROOT / "prism_plugin/evaluation/prism_plugin_lm_eval.pth").read_text()


def python(code: str, **environment: str) -> str:
    """Output of a fresh interpreter without site-packages' start-up files but with our sources."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PRISM_")}
    start = f"import sys; sys.meta_path[:] = [f for f in sys.meta_path if f.__module__ != '_prism_lm_eval']; {code}"
    return subprocess.run(
        [sys.executable, "-c", f"import sys; sys.modules.pop('_prism_lm_eval', None); {start}"],
        cwd=ROOT,
        env=clean | environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


def test_the_line_is_one_that_site_executes() -> None:
    assert PTH.startswith("import ")
    assert PTH.count("\n") == 1


def test_start_costs_less_than_a_millisecond_and_imports_nothing(tmp_path: Path) -> None:
    code = (
        "import time; before = set(sys.modules); t = time.perf_counter();"
        f"exec({PTH!r}); t = time.perf_counter() - t; print(t, *sorted(set(sys.modules) - before))"
    )
    compiled = {"PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}  # as pip leaves an install
    runs = [python(code, **compiled).split() for _ in range(8)]
    assert all(run[1:] == ["_prism_lm_eval"] for run in runs)
    assert min(float(run[0]) for run in runs[1:]) < 1e-3


def test_the_core_imports_nothing_of_what_goes_beyond_one_process() -> None:
    """Neither it nor the commands of the extras ``cluster`` and ``serve``, before one of them runs."""
    code = (
        "import prism_plugin, prism_plugin.api, prism_plugin.corpus, prism_plugin.integrations.sglang;"
        "import prism_plugin.commands.batch, prism_plugin.commands.serve;"
        "print(*{'ray', 'fastapi', 'uvicorn', 'prometheus_client', 'sglang', 'vllm', 'diffulex'} & {*sys.modules})"
    )
    assert python(code) == ""


def test_environment_variable_switches_it_off() -> None:
    code = f"exec({PTH!r}); print(any(getattr(f, '__module__', '') == '_prism_lm_eval' for f in sys.meta_path))"
    assert python(code) == "True"
    assert python(code, PRISM_NO_LM_EVAL_HOOK="0") == "True"
    assert python(code, PRISM_NO_LM_EVAL_HOOK="1") == "False"


@pytest.mark.parametrize(("value", "there"), [("false", True), ("No", True), ("off", True), ("true", False)])
def test_the_variable_is_read_as_words_are_meant(value: str, there: bool) -> None:
    code = f"exec({PTH!r}); print(any(getattr(f, '__module__', '') == '_prism_lm_eval' for f in sys.meta_path))"
    assert python(code, PRISM_NO_LM_EVAL_HOOK=value) == str(there)


@pytest.mark.parametrize(
    "broken", ["raise ImportError('gone')", "raise ValueError('no')", "1 +", "raise OSError(5, 'x')"]
)
def test_whatever_goes_wrong_a_start_of_python_says_nothing(tmp_path: Path, broken: str) -> None:
    (tmp_path / "_prism_lm_eval.py").write_text(broken)
    code = f"sys.path.insert(0, {str(tmp_path)!r}); exec({PTH!r}); print('on')"
    assert python(code, PYTHONDONTWRITEBYTECODE="1") == "on"


def test_without_lm_eval_nothing_changes() -> None:
    """Its import fails as it would without us; nothing of ours needs it but the backend, which says so itself."""
    gone = "sys.modules['lm_eval'] = None"
    tried = "\ntry:\n import lm_eval.models\nexcept ImportError as error:\n print(type(error).__name__)"
    assert python(f"{gone}; exec({PTH!r}); exec({tried!r})") in ("ModuleNotFoundError", "ImportError")
    assert python(f"{gone}; exec({PTH!r}); import prism_plugin.evaluation; print('on')") == "on"


def test_a_checkout_that_is_gone_does_not_disturb() -> None:
    assert python(f"sys.path[:] = [p for p in sys.path if p not in ('', {str(ROOT)!r})]; exec({PTH!r})") == ""
