"""``prism run``: a host's script as it stands, and the small scripts that stand for LLaDA's and Fast-dLLM's."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from prism_plugin.cli import main

ROOT = Path(__file__).parents[2]

LLADA = """
import sys
import torch
sys.path.insert(0, {root!r})
from tests.hosts.llada_like import modeling, restated

def generate(model, prompt, attention_mask=None, steps=128, gen_length=128, block_length=128, temperature=0.,
             cfg_scale=0., remasking='low_confidence', mask_id=126336, logits_eos_inf=False,
             confidence_eos_eot_inf=False):
    print('host')
    return restated.generate(model, prompt, attention_mask, steps=steps, gen_length=gen_length,
                             block_length=block_length)

def call():
    prompt = torch.arange(4)[None]
    return generate(modeling.build(), prompt, steps=4, gen_length=8, block_length=4)

if __name__ == '__main__':
    print(sys.argv[1:], call().tolist())
"""

FAST = """
import sys
import torch
sys.path.insert(0, {root!r})
from tests.hosts.llada_like import modeling

def generate(model, prompt, steps=128, gen_length=128, block_length=128, temperature=0., remasking='low_confidence',
             mask_id=126336, threshold=None):
    raise SystemError('host')

def generate_with_dual_cache(model, prompt, steps=128, gen_length=128, block_length=128, temperature=0.,
                             remasking='low_confidence', mask_id=126336, threshold=None, factor=None):
    raise SystemError('host')
"""

CALLS = """
from generate import generate, generate_with_dual_cache, modeling, torch
for threshold, steps in ((None, 4), (0.9, 2)):
    out, nfe = generate(modeling.build(), torch.arange(4)[None], steps, 8, 4, threshold=threshold)
    print(out.tolist(), nfe)
generate_with_dual_cache(modeling.build(), torch.arange(4)[None], 4, 8, 4)
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "prism_plugin", "run", *words], capture_output=True, text=True, check=False, cwd=ROOT
    )


def python(*words: str) -> str:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, check=True, cwd=ROOT).stdout


def test_a_script_that_defines_generate_is_run_with_ours(tmp_path: Path) -> None:
    script = tmp_path / "generate.py"
    script.write_text(LLADA.format(root=str(ROOT)))
    alone = python(str(script), "--quiet", "b=c")
    ours = run("sampler=confidence", str(script), "--quiet", "b=c")
    assert alone.startswith("host\n['--quiet', 'b=c'] [[0, 1, 2, 3,")
    assert ours.returncode == 0 and "host\n" + ours.stdout == alone, ours.stderr
    revised = run("sampler.num_remask=1", "sampler.seed=2", str(script))
    assert revised.returncode == 0 and "[[0, 1, 2, 3," in revised.stdout, revised.stderr


def test_a_script_that_imports_fast_dllms_generate_has_its_pairs(tmp_path: Path) -> None:
    (tmp_path / "generate.py").write_text(FAST.format(root=str(ROOT)))
    (tmp_path / "chat.py").write_text(CALLS)
    done = run("sampler=confidence", str(tmp_path / "chat.py"))
    assert done.returncode == 2 and "cache = dual needs a model that keeps keys: LLaDADenoiser" in done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].endswith(" 4") and lines[1].endswith(" 8"), "no token is sure: one a forward by the threshold"


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        ("print('ran')", (), "neither defines `generate` nor imports it"),
        ("def generate(text): print('ran')", (), "neither LLaDA's nor Fast-dLLM's (it has no model)"),
        ("def generate(", (), "cannot be read as a Python file"),
        (FAST, ("sampler.steps=4",), "sampler.steps is for the script's own call"),
        (FAST, ("sampler.tua=4",), "tua"),
    ],
)
def test_what_is_refused_is_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, words: tuple[str, ...], said: str
) -> None:
    (tmp_path / "other.py").write_text(text)
    assert main(["run", *words, str(tmp_path / "other.py")]) == 2
    out, err = capsys.readouterr()
    assert said in err and "ran" not in out


def test_an_error_of_the_script_is_shown_as_python_shows_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "generate.py").write_text(FAST.format(root=str(ROOT)) + "\n1 / 0\n")
    assert main(["run", str(tmp_path / "generate.py")]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().err


REAL = """
import sys
import torch
sys.path.append({root!r})
from generate import generate
from tests.hosts.llada_like import modeling
model = modeling.build()
for threshold in {thresholds}:
    more = {{}} if threshold is None else {{'threshold': threshold}}
    found = generate(model, torch.arange(5)[None], steps=6, gen_length=12, block_length=6, **more)
    print(*([found[0].tolist(), found[1]] if isinstance(found, tuple) else [found.tolist()]))
print('ours' if hasattr(generate, '__closure__') and 'enabled' in generate.__code__.co_freevars else 'host')
"""


@pytest.mark.real_host
@pytest.mark.parametrize(
    ("name", "folder", "thresholds"), [("LLADA", ".", [None]), ("FAST_DLLM", "llada", [None, 0.5])]
)
def test_the_hosts_own_generate_py_gives_the_hosts_tokens(
    tmp_path: Path, name: str, folder: str, thresholds: list[float | None]
) -> None:
    """A script beside the checkout's generate.py, alone and under us: the same tokens, forwards and kinds of result."""
    if f"PRISM_HOST_{name}" not in os.environ:
        pytest.skip(f"PRISM_HOST_{name} names no checkout")
    source = Path(os.environ[f"PRISM_HOST_{name}"]) / folder
    shutil.copy(source / "generate.py", tmp_path)
    if (source / "model").is_dir():
        shutil.copytree(source / "model", tmp_path / "model")
    script = tmp_path / "call.py"
    script.write_text(REAL.format(root=str(ROOT), thresholds=thresholds))
    theirs = python(str(script)).splitlines()
    ours = run("sampler=confidence", str(script))
    assert ours.returncode == 0, ours.stderr
    assert theirs[-1] == "host" and ours.stdout.splitlines() == [*theirs[:-1], "ours"], ours.stderr
    assert run("sampler.num_remask=1", str(script)).returncode == 0
