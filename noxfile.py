"""Tests under other versions of what the plugin works beside:  .venv/bin/nox"""

import sys
from pathlib import Path

import nox

nox.options.reuse_existing_virtualenvs = True
OF_LM_EVAL = [f"tests/evaluation/test_{name}.py" for name in ("checkpoints", "lm_eval", "presets", "runs", "tasks")]


@nox.session
@nox.parametrize("version", ["0.4.8", "0.4.9", "0.4.13"])  # what LLaDA pins, the next, the newest that was tried
def lm_eval(session: nox.Session, version: str) -> None:
    """The model ``prism`` and its tasks under lm-eval of this version, which alone is installed: all else, torch too,
    is that of the Python which runs nox.
    """
    own = next(Path(session.virtualenv.location).glob("lib/python*/site-packages"))
    (own / "shared.pth").write_text("".join(f"{path}\n" for path in sys.path if Path(path).name == "site-packages"))
    old = version in ("0.4.8", "0.4.9")  # they import what transformers 5 has not
    session.install(f"lm_eval=={version}", *(["transformers<5"] if old else []))
    session.run("python", "-m", "pytest", *OF_LM_EVAL, *session.posargs, env={"OMP_NUM_THREADS": "1"})
