"""Runs that change how many processes they have: a checkpoint of two goes on in one, and the other way about."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest

from prism_plugin.config import load
from prism_plugin.training.train import train
from prism_plugin.training.watch import Watch

CONFIG = Path(__file__).parents[2] / "prism_plugin/training/configs/ddp.yaml"
SMALL = (
    "task=sudoku4", "backbone.hidden_size=16", "backbone.num_layers=1", "backbone.num_heads=2", "backbone.cond_size=8",
    "train.batch_size=8", "train.warmup=2", "train.eval_texts=16", "train.ema=0.9", "train.threads=1",
    "train.steps=4", "train.eval_every=1", "train.save_every=2", "train.bf16=false",
)  # fmt: skip
STOPPED = """\
import os, sys, torch
from prism_plugin import cli
from prism_plugin.training.watch import Watch
save = Watch.on_save
def last(*given, **more):
    save(*given, **more)
    assert torch.distributed.get_world_size() == 2
    torch.distributed.barrier()
    open(f"{sys.argv[0]}.{torch.distributed.get_rank()}", "w").close()
    os._exit(7)
Watch.on_save = last
cli.main(sys.argv[1:])
"""


def launched(*argv: str) -> subprocess.CompletedProcess:
    """Two processes on the CPU, by the config that is shipped."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIG), *argv]
    return subprocess.run(launch, capture_output=True, text=True)


def curve(folder: Path) -> list[float]:
    with (folder / "training_log.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stopped.py").write_text(STOPPED)
    one = curve(train("mdm", load([*SMALL, f"out={tmp_path}/one"])))
    assert len(one) == 4

    begun = launched(str(tmp_path / "stopped.py"), "train", "mdm", *SMALL, f"out={tmp_path}/two")
    assert begun.returncode and (tmp_path / "two/checkpoints/checkpoint-2").exists(), begun.stderr
    assert not (tmp_path / "two/config.json").exists()
    assert all((tmp_path / f"stopped.py.{rank}").exists() for rank in (0, 1))
    train("mdm", load([*SMALL, f"out={tmp_path}/two", "train.resume=true"]))
    assert curve(tmp_path / "two") == pytest.approx(one, rel=2e-4)

    def last(*given: object, save: object = Watch.on_save, **more: object) -> None:
        save(*given, **more)  # type: ignore[operator]
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Watch, "on_save", last)
        with pytest.raises(KeyboardInterrupt):
            train("mdm", load([*SMALL, f"out={tmp_path}/back"]))
    assert not (tmp_path / "back/config.json").exists()
    more = [*SMALL, f"out={tmp_path}/back", "train.resume=true"]
    ended = launched("--module", "prism_plugin", "train", "mdm", *more)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("Written:") == 2, "two processes"
    assert curve(tmp_path / "back") == pytest.approx(one, rel=2e-4)
