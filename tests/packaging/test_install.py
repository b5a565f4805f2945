"""What an install consists of, as a wheel and editable, and what it does where nothing can be compiled."""

import importlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

WITHOUT_COMPILER = {"CC": "/bin/false", "CXX": "/bin/false"}


def run(*command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PRISM_") and k != "PYTHONPATH"}
    return subprocess.run(command, cwd=cwd, env=clean | environment, capture_output=True, text=True)


def build(sources: Path, kind: str, **environment: str) -> Path:
    """A wheel by the standard build interface (``build_wheel``, ``build_editable``), without isolation."""
    code = f"from setuptools import build_meta; print(build_meta.{kind}('out'))"
    built = run(sys.executable, "-c", code, cwd=sources, **environment)
    assert built.returncode == 0, built.stderr
    return sources / "out" / built.stdout.split()[-1]


def install(wheel: Path, site: Path) -> None:
    done = run(sys.executable, "-m", "pip", "install", "--no-deps", "--target", str(site), str(wheel), cwd=site.parent)
    assert done.returncode == 0, done.stderr


def in_site(site: Path, code: str) -> str:
    """Run code as Python would start with ``site`` as its site-packages, .pth files included."""
    start = f"import site, sys; site.addsitedir({str(site)!r}); sys.path.insert(0, sys.path.pop()); {code}"
    done = run(sys.executable, "-c", start, cwd=site.parent, PRISM_OPS="reference")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_wheel_carries_code_data_and_start_up_file(sources: Path, tmp_path: Path) -> None:
    wheel = build(sources, "build_wheel", PRISM_SKIP_EXT="1")
    names = set(zipfile.ZipFile(wheel).namelist())
    for source in [*sources.glob("prism_plugin/**/*.py"), *sources.glob("integrations/**/*.py")]:
        name = source.relative_to(sources).as_posix()
        assert name.replace("integrations/", "prism_plugin/integrations/", name.startswith("integrations/")) in names
    for pattern in ["prism_plugin/**/*.yaml", "prism_plugin/**/*.jsonl", "prism_plugin/assets/**/*.safetensors"]:
        assert {p.relative_to(sources).as_posix() for p in sources.glob(pattern)} <= names
    assert "hydra_plugins/prism_searchpath/__init__.py" in names
    assert "hydra_plugins/__init__.py" not in names, "would hide every other Hydra plugin"
    assert not [name for name in names if name.startswith(("tests/", "integrations/", "benchmarks/", "csrc/"))]

    site = tmp_path / "site"
    install(wheel, site)
    assert (site / "prism_plugin_lm_eval.pth").exists()
    code = (
        "sys.modules.pop('_prism_lm_eval', None);"  # an installed start-up file has run already
        "import prism_plugin.integrations as i, _prism_lm_eval as h; print(i.__file__, h.__file__)"
    )
    found = in_site(site, code)
    assert all(Path(path).is_relative_to(site) for path in found.split())


def test_editable_install_reads_the_checkout(sources: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    install(build(sources, "build_editable", PRISM_SKIP_EXT="1"), site)
    code = (
        "started = '_prism_lm_eval' in sys.modules;"
        "import prism_plugin.integrations as i, hydra_plugins.prism_searchpath as s;"
        "print(started, i.__file__, s.__file__)"
    )
    started, *paths = in_site(site, code).split()
    assert started == "True", "the start-up file was not installed or not read"
    assert all(Path(path).is_relative_to(sources) for path in paths)


def test_without_a_compiler_the_build_goes_on_and_says_so_once(sources: Path) -> None:
    done = run(sys.executable, "setup.py", "build_ext", "--inplace", cwd=sources, **WITHOUT_COMPILER)
    assert done.returncode == 0, done.stderr
    assert (done.stdout + done.stderr).count("prism-plugin: not compiled") == 1
    assert not list(sources.glob("prism_plugin/**/*.so"))


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"PRISM_REQUIRE_EXT": "1"} | WITHOUT_COMPILER, "not compiled"),
        ({"PRISM_CUDA": "1", "CUDA_VISIBLE_DEVICES": ""}, "PRISM_CUDA=1"),
    ],
)
def test_what_is_asked_for_and_cannot_be_built_fails(sources: Path, environment: dict[str, str], said: str) -> None:
    if "PRISM_CUDA" in environment:
        import torch

        if torch.version.cuda:
            pytest.skip("this torch is built for CUDA")
        (sources / "csrc/cuda").mkdir(parents=True, exist_ok=True)
        (sources / "csrc/cuda/probe.cu").touch()
    done = run(sys.executable, "setup.py", "build_ext", "--inplace", cwd=sources, **environment)
    assert done.returncode != 0
    assert said in done.stderr


def test_declared_entry_points_lead_somewhere() -> None:
    tomllib = pytest.importorskip("tomllib", reason="tomllib comes with Python 3.11")
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    groups = [project["scripts"], *project.get("entry-points", {}).values()]
    for target in [target for group in groups for target in group.values()]:
        module, _, name = target.partition(":")
        assert hasattr(importlib.import_module(module), name), target
