"""A model whose layers lie in several places: the same texts, and the head where its last layer is.

A CPU has no second device; weights that are kept on disk or in memory, and come when their layer runs, go the same way.
"""

from pathlib import Path

import pytest
import torch
from accelerate import dispatch_model
from transformers import PretrainedConfig

from prism_plugin.api import enable
from prism_plugin.config import load
from prism_plugin.errors import ConfigError
from prism_plugin.inputs import device_of
from prism_plugin.integrations.llada.adapter import LLaDADenoiser
from prism_plugin.quality.head import attach_head, save_head
from prism_plugin.training import train as training
from tests.hosts.llada_like import modeling

SIZE = {"vocab_size": 12, "embedding_size": 12, "max_sequence_length": 16, "d_model": 16, "hidden_size": 16,
        "n_layers": 2, "mask_token_id": 3}  # fmt: skip


def host() -> torch.nn.Module:
    model = modeling.build(**SIZE).eval()
    model.config = PretrainedConfig(**vars(model.config))
    return model


def laid_out(model: torch.nn.Module, folder: Path) -> torch.nn.Module:
    """Blocks on disk, the rest in memory; all is computed on the CPU."""
    places = {"model.transformer.wte": "cpu", "model.transformer.blocks": "disk", "model.transformer.ln_f": "cpu",
              "model.transformer.ff_out": "disk"}  # fmt: skip
    return dispatch_model(model, places, main_device="cpu", offload_dir=str(folder), force_hooks=True)


def test_the_same_texts_with_a_head_on_the_last_layer(tmp_path: Path) -> None:
    whole = LLaDADenoiser(host(), 3)
    attach_head(whole)
    save_head(whole, tmp_path / "head")
    model = laid_out(host(), tmp_path / "weights")
    assert model.model.transformer.ff_out.weight.is_meta
    prism = enable(model, head=tmp_path / "head", mask_id=3)
    assert device_of(prism.denoiser) == next(prism.denoiser.head.parameters()).device == torch.device("cpu")
    texts = torch.tensor([[1, 3, 3, 7, 3], [3, 3, 3, 3, 2]])
    alone = enable(whole, mask_id=3)
    assert torch.equal(prism.generate(texts, "prism", steps=4).tokens, alone.generate(texts, "prism", steps=4).tokens)
    assert torch.allclose(prism.score(texts), alone.score(texts), equal_nan=True)


def test_a_head_is_trained_on_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": [1, 2], "response": [4, 5, 6, 7]}\n' * 12)
    made = {}

    def load_host(name: str, device_map: str = "", **options: object) -> tuple:
        made[device_map] = LLaDADenoiser(laid_out(host(), tmp_path / "weights") if device_map else host(), 3)
        return made[device_map], None

    monkeypatch.setattr(training, "load_host", load_host)
    monkeypatch.setattr(training, "is_ours", lambda name: False)
    given = ["model=host", f"data={tmp_path / 'rows.jsonl'}", "train.tune=head", "train.steps=3", "train.batch_size=4",
             "train.eval_texts=2", "train.eval_every=0", "quality.k=2", "train.bf16=false", "train.lr=0.05",
             "train.save_every=0", "train.warmup=1"]  # fmt: skip
    for device_map in ("", "auto"):
        training.train("quality", load([*given, f"device_map={device_map}", f"out={tmp_path / ('out' + device_map)}"]))
    one, several = (made[name].head.state_dict() for name in ("", "auto"))
    assert all(torch.allclose(several[name], tensor) for name, tensor in one.items())
    assert made["auto"].host.model.transformer.ff_out.weight.is_meta, "the model was not moved"


def test_device_map_is_for_a_checkpoint_of_a_host() -> None:
    for given, said in [
        ({"model": "sudoku", "device_map": "auto"}, "device_map is for a host's checkpoint"),
        ({"model": host(), "device_map": "auto"}, "dispatch_model"),
    ]:
        with pytest.raises(ConfigError, match=said):
            enable(**given)
