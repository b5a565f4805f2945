"""What only a GPU can show; benchmarks/gpu.py has the work, so that whoever has one for ten minutes can run it too."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu

SCRIPT = Path(gpu.__file__)


@pytest.mark.gpu
@pytest.mark.skipif(bool(gpu.missing()), reason=gpu.missing() or "there is one")
def test_a_whole_step_is_captured_as_a_graph_and_every_op_agrees() -> None:
    assert gpu.graph()["fine"]
    assert all(row["fine"] for row in gpu.agreement() + gpu.draws())


@pytest.mark.skipif(not gpu.missing(), reason="a GPU is there, and the run would start")
def test_without_a_gpu_it_says_what_is_missing_and_writes_nothing(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--out", str(tmp_path / "gpu.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and gpu.missing() in done.stderr and done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())
