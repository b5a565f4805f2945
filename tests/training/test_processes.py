"""Runs that change how many processes they have: a checkpoint of two goes on in one, and the other way about."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prism_plugin.config import load
from prism_plugin.errors import ConfigError
from prism_plugin.training import sharding
from prism_plugin.training.train import train
from prism_plugin.training.watch import Watch

CONFIGS = Path(__file__).parents[2] / "prism_plugin/training/configs"
SIZE = ("backbone.hidden_size=16", "backbone.num_layers=1", "backbone.num_heads=2", "backbone.cond_size=8")
TASK = (
    "task=sudoku4",
    "train.batch_size=8", "train.warmup=2", "train.eval_texts=16", "train.ema=0.9", "train.threads=1",
    "train.steps=4", "train.eval_every=1", "train.save_every=2", "train.bf16=false",
)  # fmt: skip
SMALL = (*TASK, *SIZE)
STOPPED = """\
import os, sys, torch
from prism_plugin import cli
from prism_plugin.training.watch import Watch
save = Watch.on_save
def last(*given, **more):
    save(*given, **more)
    assert torch.distributed.get_world_size() == 2
    torch.distributed.barrier()
    parameters = given[0].objective.parameters()
    held, all_ = map(sum, zip(*((getattr(p, "_local_tensor", p).numel(), p.numel()) for p in parameters)))
    with open(f"{sys.argv[0]}.{torch.distributed.get_rank()}", "w") as file:
        file.write(str(held / all_))
    os._exit(7)
Watch.on_save = last
cli.main(sys.argv[1:])
"""


def launched(config: str, *argv: str) -> subprocess.CompletedProcess:
    """Two processes on the CPU, by a config that is shipped."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / config), *argv]
    return subprocess.run(launch, capture_output=True, text=True)


def curve(folder: Path) -> list[float]:
    with (folder / "training_log.csv").open() as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def broken_off(kind: str, settings: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A run of this process that ends at its first checkpoint."""

    def last(*given: object, save: object = Watch.on_save, **more: object) -> None:
        save(*given, **more)  # type: ignore[operator]
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Watch, "on_save", last)
        with pytest.raises(KeyboardInterrupt):
            train(kind, load(settings))


def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stopped.py").write_text(STOPPED)
    one = curve(train("mdm", load([*SMALL, f"out={tmp_path}/one"])))
    assert len(one) == 4

    begun = launched("ddp.yaml", str(tmp_path / "stopped.py"), "train", "mdm", *SMALL, f"out={tmp_path}/two")
    assert begun.returncode and (tmp_path / "two/checkpoints/checkpoint-2").exists(), begun.stderr
    assert not (tmp_path / "two/config.json").exists()
    assert [(tmp_path / f"stopped.py.{rank}").read_text() for rank in (0, 1)] == ["1.0", "1.0"]  # a copy in each
    train("mdm", load([*SMALL, f"out={tmp_path}/two", "train.resume=true"]))
    assert curve(tmp_path / "two") == pytest.approx(one, rel=2e-4)

    broken_off("mdm", [*SMALL, f"out={tmp_path}/back"], monkeypatch)
    assert not (tmp_path / "back/config.json").exists()
    more = [*SMALL, f"out={tmp_path}/back", "train.resume=true"]
    ended = launched("ddp.yaml", "--module", "prism_plugin", "train", "mdm", *more)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("Written:") == 1, "the first of the two speaks"
    assert json.loads((tmp_path / "back/training_mdm.json").read_text())["processes"] == 2
    assert curve(tmp_path / "back") == pytest.approx(one, rel=2e-4)


def test_sharded_weights_learn_what_those_of_one_process_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FSDP2: model and head on two processes, then on one; a head on a frozen model on one, then on two."""
    pytest.importorskip("torch.distributed.fsdp", reason="this torch has no FSDP").fully_shard  # noqa: B018
    (tmp_path / "stopped.py").write_text(STOPPED)
    train("mdm", load([*SMALL, "train.steps=1", "train.save_every=0", f"out={tmp_path}/model"]))
    given = [*TASK, "train.lr=0.03", "quality.k=2", f"model={tmp_path}/model"]
    full, frozen = [*given, "train.tune=full"], [*given, "train.tune=head"]
    one = {tune[-1]: curve(train("quality", load([*tune, f"out={tmp_path}/{tune[-1]}"]))) for tune in (full, frozen)}
    assert all(max(losses) > 1.01 * min(losses) for losses in one.values()), "something is learned"

    begun = launched("fsdp2.yaml", str(tmp_path / "stopped.py"), "train", "quality", *full, f"out={tmp_path}/two")
    assert begun.returncode and (tmp_path / "two/checkpoints/checkpoint-2").exists(), begun.stderr
    shares = [float((tmp_path / f"stopped.py.{rank}").read_text()) for rank in (0, 1)]
    assert sum(shares) == 1 and max(shares) < 0.6
    train("quality", load([*full, f"out={tmp_path}/two", "train.resume=true"]))
    assert curve(tmp_path / "two") == pytest.approx(one[full[-1]], rel=2e-4)

    broken_off("quality", [*frozen, f"out={tmp_path}/back"], monkeypatch)
    more = [*frozen, f"out={tmp_path}/back", "train.resume=true"]
    ended = launched("fsdp2.yaml", "--module", "prism_plugin", "train", "quality", *more)
    assert ended.returncode == 0, ended.stderr
    assert curve(tmp_path / "back") == pytest.approx(one[frozen[-1]], rel=2e-4)
    before, alone, back = (load_file(tmp_path / name / "model.safetensors") for name in ("model", frozen[-1], "back"))
    assert all(torch.equal(back[name], tensor) for name, tensor in before.items()), "frozen, and whole"
    heads = [load_file(tmp_path / name / "head.safetensors") for name in (frozen[-1], "back")]
    assert all(torch.allclose(heads[1][name], tensor, atol=1e-4) for name, tensor in heads[0].items())
    assert alone.keys() == back.keys()


def test_what_cannot_be_sharded_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    assert sharding.asked()
    with pytest.raises(ConfigError, match="FSDP 1"):
        sharding.prepare(torch.nn.Linear(1, 1), half=False)
    monkeypatch.setenv("FSDP_VERSION", "2")
    cavity = sharding.CavityObjective.__new__(sharding.CavityObjective)
    with pytest.raises(ConfigError, match="objective = cavity"):
        sharding.prepare(cavity, half=False)
