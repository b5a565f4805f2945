"""What a run needs, counted from a config, against models that are really built and steps that are really made."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from prism_plugin import cli
from prism_plugin.config import load
from prism_plugin.errors import ConfigError
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.training import objectives
from prism_plugin.training.objectives import CavityObjective, QualityObjective
from prism_plugin.training.plan import KNOWN, Plan, llada, plan
from prism_plugin.training.train import prepare


def planned(*settings: str) -> Plan:
    return plan("quality", load(settings))


def objective(folder: Path, tune: str, *settings: str) -> QualityObjective:
    config = load([f"model={folder}", f"train.tune={tune}", *settings])
    model = PrismModel.from_pretrained(folder)
    model.head = None
    prepare(model, tune, config)
    return QualityObjective(model, 0, config.quality).train()


def size(tensors) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


@pytest.mark.parametrize("tune", ["head", "lora", "full"])
def test_parameters_and_bytes_are_those_of_a_model_that_is_built(sudoku4_folder: Path, tune: str) -> None:
    if tune == "lora":
        pytest.importorskip("peft", reason="peft is not installed (extra: train)")
    low = ["lora.r=3"] if tune == "lora" else []
    found = planned(f"model={sudoku4_folder}", f"train.tune={tune}", *low)
    built = objective(sudoku4_folder, tune, *low)
    parameters = list(built.parameters())
    assert found.parameters == sum(p.numel() for p in parameters) and found.weights == size(parameters)
    trained = [p for p in parameters if p.requires_grad]
    assert found.trained == sum(p.numel() for p in trained)
    optimizer = torch.optim.AdamW(trained)
    built(torch.ones(2, 16, dtype=torch.long), torch.tensor([0, 1]))["loss"].backward()
    optimizer.step()
    assert found.gradients == size(p.grad for p in trained)
    moments = [
        s for state in optimizer.state.values() for s in state.values() if s.numel() > 1 or s is state["exp_avg"]
    ]
    assert found.optimizer == size(s for state in optimizer.state.values() for n, s in state.items() if n != "step")
    assert moments


@pytest.mark.parametrize("tune", ["head", "lora", "full"])
def test_flops_and_activations_are_near_those_of_a_step(sudoku4_folder: Path, tune: str) -> None:
    if tune == "lora":
        pytest.importorskip("peft", reason="peft is not installed (extra: train)")
    count, low = 32, ["lora.r=4"] if tune == "lora" else []
    found = planned(f"model={sudoku4_folder}", f"train.tune={tune}", *low, f"train.batch_size={count}")
    built = objective(sudoku4_folder, tune, *low)
    tokens, number = torch.randint(1, 5, (count, 16)), torch.arange(count)
    held: dict[int, int] = {}
    own = {p.untyped_storage().data_ptr() for p in built.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = built(tokens, number)["loss"]
        loss.backward()
    assert found.flops == pytest.approx(counter.get_total_flops(), rel=0.15)
    if tune != "head":  # a small model of ours keeps more beside: adaLN, gates, explicit attention weights
        assert 0.3 < found.activations / sum(held.values()) < 1.5


def test_llada_8b_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        model = llada(KNOWN["llada-8b"])
    assert sum(p.numel() for p in model.parameters()) == 8_015_581_184
    pytest.importorskip("peft", reason="peft is not installed (extra: train)")
    found = planned(
        "model=llada-8b", "train.bf16=true", "train.batch_size=144", "train.accumulate=144", "data.length=1024"
    )
    lora, head = 32 * 3 * 256 * 2 * 4096, 4096 * 4096 + 4096 + 4096 + 1 + 2 * 4096
    assert found.trained == lora + head and found.weights == 2 * 8_015_581_184 + 4 * found.trained
    tokens = 144 * 1024
    assert found.flops / tokens == pytest.approx(2 * 2 * 2 * 7.5e9, rel=0.1), (
        "two passes there and back, not to weights"
    )
    assert planned("model=llada-8b", "train.tune=full").memory > 8 * 16 * 1e9 > 80e9 > found.memory


@pytest.mark.parametrize(
    ("config", "count"),
    [
        ({"model_type": "llada", "d_model": 8, "n_layers": 2, "n_heads": 2, "n_kv_heads": 1, "mlp_hidden_size": 12,
          "vocab_size": 20, "max_sequence_length": 16, "weight_tying": True},
         20 * 8 + 8 + 2 * (2 * 64 + 2 * 32 + 3 * 96 + 16)),
        ({"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
          "intermediate_size": 12, "vocab_size": 20, "max_position_embeddings": 16}, None),
    ],
)  # fmt: skip
def test_any_folder_with_a_config_is_counted_without_weights(tmp_path: Path, config: dict, count: int | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = planned(f"model={tmp_path}", "train.tune=head", "head=linear")
    if count is None:
        from transformers import AutoConfig, AutoModel

        model = AutoModel.from_config(AutoConfig.from_pretrained(tmp_path))
        count = sum(p.numel() for p in model.parameters())
    assert found.parameters == count + 3 * 8 + 1 and found.trained == 25 and found.length == 16


def test_the_command_prints_it_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    argv = ["train", "quality", "model=llada-8b", "train.tune=head", "out=here", "--dry-run"]
    assert cli.main(argv) == 0
    out = capsys.readouterr().out
    for what in ("parameters", "weights", "gradients", "optimizer", "activations", "memory", "FLOPs a step", "days on"):
        assert re.search(rf"│ {what}", out)
    assert "40% of" in out and not list(tmp_path.iterdir())
    for argv in (["train", "mdm", "task=sudoku4", "--dry-run"], ["--dry-run", "train", "mdm", "task=sudoku4"]):
        assert cli.main(argv) == 0
    assert cli.main(["train", "quality", "--dry-run"]) == 2
    with pytest.raises(ConfigError, match="one of llada-8b"):
        planned()


def test_a_cavity_run_has_no_optimizer_for_its_model_and_its_passes_are_counted(
    sudoku4_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(objectives, "PRESETS", ("random",))  # the counter cannot follow a head without gradients
    settings = (f"model={sudoku4_folder}", "quality.objective=cavity", "quality.reuse=3", "train.batch_size=16")
    found = planned(*settings)
    config = load([*settings])
    model = PrismModel.from_pretrained(sudoku4_folder)
    prepare(model, "head", config)
    built = CavityObjective(model, 0, config.quality).train()
    learned = [p for p in built.parameters() if p.requires_grad]
    assert found.trained == sum(p.numel() for p in learned) and found.optimizer == 2 * size(learned)
    with FlopCounterMode(display=False) as counter:  # every length once
        for step in range(9):
            built(torch.zeros(16, 16, dtype=torch.long), torch.arange(16) + 16 * step)["loss"].backward()
    assert found.flops == pytest.approx(counter.get_total_flops() / 9, rel=0.25)
    assert planned("model=llada-8b", "quality.objective=cavity", "train.bf16=true", "data.length=1024",
                   "train.batch_size=32", "train.accumulate=4").memory < 80e9  # fmt: skip
    with pytest.raises(ConfigError, match="frozen"):
        planned(*settings, "train.tune=full")
