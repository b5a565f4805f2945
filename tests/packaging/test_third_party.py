"""A distribution of somebody else's: a part with options, a preset and a host, and an entry point that is broken."""

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "somebody"
version = "1.2"

[project.entry-points."prism_plugin.select"]
worst_of = "somebody:worst_of"

[project.entry-points."prism_plugin.preset"]
somebodys = "somebody:PRESET"
misspelt = "somebody:no_such_preset"

[project.entry-points."prism_plugin.host"]
echo = "somebody:EchoDenoiser"

[tool.setuptools]
py-modules = ["somebody"]
"""

MODULE = """
from dataclasses import dataclass

import torch
from prism_plugin.models.denoiser import Denoiser, Output
from prism_plugin.options import option


@dataclass
class WorstOf:
    per: int = option(3, "one token of so many is revised", low=1)


def worst_of(scores, state, options: WorstOf):
    "One of every ``per`` that may be revised."
    return scores, state.open.sum(dim=1) // options.per


PRESET = {"score": "written", "select": "worst_of", "per": 4, "steps": 6}


class Echo(torch.nn.Module):
    def forward(self, tokens):
        return torch.zeros(*tokens.shape, 5)


class EchoDenoiser(Denoiser):
    "A model without an opinion."

    vocab_size, mask_id, hidden_size, max_length = 6, 5, 1, 64

    def __init__(self, host):
        super().__init__()
        self.host = host

    @staticmethod
    def matches(model):
        return isinstance(model, Echo)

    def forward(self, tokens, padding=None):
        logits = torch.nn.functional.pad(self.host(tokens), (0, 1), value=-torch.inf)
        return Output(torch.zeros(*tokens.shape, 1), None, logits)
"""

GENERATE = """
import somebody, torch
from prism_plugin import enable

model, tokens = somebody.Echo(), torch.full((2, 12), 5)
prism = enable(model, sampler="somebodys", seed=3)
few, many = prism.generate(tokens), prism.generate(tokens, per=1)
assert few.settings["per"] == 4 and many.settings["per"] == 1, few.settings
assert not (few.tokens == 5).any() and few.forwards.eq(6).all()
assert 0 < few.remasked.sum() < many.remasked.sum(), (few.remasked, many.remasked)
try:
    prism.generate(tokens, per=0)
except ValueError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that has our packages and, installed by pip, the distribution of somebody else."""
    place = tmp_path_factory.mktemp("third_party")
    source = place / "source"
    source.mkdir()
    (source / "pyproject.toml").write_text(PROJECT)
    (source / "somebody.py").write_text(MODULE)
    venv.create(place / "venv", with_pip=False)
    found = place / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    site = sysconfig.get_path("purelib", "venv", {"base": str(place / "venv"), "platbase": str(place / "venv")})
    ours = [ROOT, *(path for path in sys.path if path.endswith("site-packages"))]
    (Path(site) / "ours.pth").write_text("\n".join(map(str, ours)) + "\n")
    command = ["-m", "pip", "--python", str(found), "install", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([sys.executable, *command, str(source)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return found


def run(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([python, *arguments], capture_output=True, text=True, cwd=python.parent)
    assert done.returncode == 0, done.stderr
    return done


def test_prism_info_and_schedule_know_the_part_and_its_option(python: Path) -> None:
    told = run(python, "-m", "prism_plugin.cli", "info", "samplers", "somebodys").stdout
    told = " ".join(told.split())  # however wide the columns are
    assert "sampler.select.per" in told and "one token of so many is revised (>= 1)" in told
    hosts = run(python, "-m", "prism_plugin.cli", "info", "hosts").stdout
    assert "echo" in hosts and "A model without an opinion." in hosts and "llada" in hosts
    few, many = (
        run(python, "-m", "prism_plugin.cli", "schedule", "sampler=somebodys", f"sampler.per={per}", "length=24").stdout
        for per in (8, 2)
    )
    assert "select=worst_of" in few and few != many


def test_generate_with_their_host_preset_and_part(python: Path) -> None:
    said = run(python, "-c", GENERATE).stdout
    assert "sampler.select.per = 0: allowed >= 1 (one token of so many is revised)" in said


def test_an_entry_point_that_is_broken_takes_nothing_else_away(python: Path) -> None:
    code = (
        "from prism_plugin.sampling.presets import presets; print(*presets)\n"
        "try: presets['misspelt']\nexcept ValueError as error: print(error)"
    )
    done = run(python, "-c", code)
    names, error = done.stdout.splitlines()
    assert {"prism", "somebodys", "wino"} <= set(names.split()) and "misspelt" not in names.split()
    assert done.stderr.count("preset 'misspelt' does not load and is left out") == 1
    for part in ("'somebody:no_such_preset' of somebody 1.2", "AttributeError"):
        assert part in done.stderr and part in error
