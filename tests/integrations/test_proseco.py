"""ProSeCo, whose model corrects itself: its settings and checkpoints are ours, and what is drawn has one law.

    PRISM_HOST_PROSECO=<checkout of kuleshov-group/proseco> PYTHONPATH=tests/hosts/stand_ins \
        pytest -m real_host tests/integrations/test_proseco.py

in an environment with the host's requirements (tests/hosts/stand_ins/README.md).
"""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from prism_plugin import cli, enable
from prism_plugin.errors import ConfigError
from prism_plugin.integrations.mdlm.adapter import MDLMDenoiser
from prism_plugin.integrations.proseco import settings
from prism_plugin.models.checkpoint import PrismModel
from prism_plugin.sampling.config import SamplerConfig, resolve
from prism_plugin.sampling.drive import generate

from .conftest import imported
from .mdlm_law import LENGTH, MASK, PLACE, Network, TableDenoiser, bound, chi_square
from .real_models import HOSTS, build

ON = {"name": "proseco", "order": "random", "fill": "hazard", "temperature": 1.0, "end": "budget"}


@pytest.mark.parametrize(
    ("sampling", "ours"),
    [
        ({}, {"name": "mdlm", "steps": 128}),
        ({"steps": 64, "corrector_steps": 3, "nucleus_p": 0.9},
         {**ON, "steps": 64, "top_p": 0.9, "rounds": 3, "every": 1, "step_on": 0}),
        ({"corrector_steps": 1, "corrector_every_n_steps": 4, "corrector_start_iter": 9},
         {**ON, "steps": 128, "rounds": 1, "every": 4, "step_on": 8}),
    ],
)  # fmt: skip
def test_its_settings_are_ours(sampling: dict[str, Any], ours: dict[str, Any], tmp_path: Path, capsys: Any) -> None:
    assert settings(sampling) == ours
    resolve(SamplerConfig(**ours))
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml({"sampling": {"corrector_top_k": 0, **sampling}}))
    assert cli.main(["import", str(tmp_path / "config.yaml")]) == 0
    assert capsys.readouterr().out.startswith(f"sampler={ours['name']} ")


@pytest.mark.parametrize(
    ("key", "value"), [("corrector_sampling", "select_top_k"), ("corrector_prior_is_argmax", False)]
)
def test_what_has_no_counterpart_is_refused(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"sampling.{key} = {value} has no counterpart"):
        settings({"corrector_steps": 2, key: value})


def folder() -> Path:
    if "PRISM_HOST_PROSECO" not in os.environ:
        pytest.skip("PRISM_HOST_PROSECO names no checkout")
    return Path(os.environ["PRISM_HOST_PROSECO"])


@pytest.fixture(scope="module")
def diffusion() -> Iterator[Any]:
    """The module ``diffusion`` of the checkout."""
    with imported(folder()) as module:
        yield module


@pytest.mark.real_host
@pytest.mark.parametrize(
    "sampling",
    [{"steps": 4, "corrector_steps": 1}, {"steps": 4, "corrector_steps": 3, "corrector_every_n_steps": 2},
     {"steps": 6, "corrector_steps": 2, "corrector_start_iter": 4, "nucleus_p": 0.8}],
    ids=str,
)  # fmt: skip
def test_its_own_law(diffusion: Any, sampling: dict[str, Any]) -> None:
    """Of 20,000 texts, all 27 that there are, on a table of posteriors."""
    own: Any = OmegaConf.to_container(OmegaConf.load(folder() / "configs/config.yaml"), resolve=False)
    rows, known = 20_000, {key: value for key, value in own["sampling"].items() if key.startswith("corrector_")}
    host = diffusion.Diffusion.__new__(diffusion.Diffusion)
    nn.Module.__init__(host)
    told = {**known, "nucleus_p": 1.0, "use_cache": True, "use_float64": True, "batch_size": rows, **sampling}
    host.config = OmegaConf.create({"sampling": told, "model": {"length": LENGTH}, "backbone": "dit", "guidance": None})
    host.backbone, host.mask_index, host.vocab_size, host.neg_infinity = Backbone(), MASK, 4, -1e6
    host.noise = sys.modules["noise_schedule"].LogLinearNoise()
    host.parameterization, host.diffusion, host.T, host.time_conditioning = "subs", "absorbing_state", 0, False
    host.register_buffer("place", torch.zeros(1))
    type(host).device = torch.device("cpu")
    torch.manual_seed(0)
    theirs, _ = host._diffusion_sample(disable_pbar=True)
    ours = generate(TableDenoiser(), torch.full((rows, LENGTH), MASK), SamplerConfig(**settings(told))).tokens
    statistic, df = chi_square(*((texts * PLACE).sum(-1) for texts in (theirs, ours)))
    print(f"{sampling}: chi-square {statistic:.1f}, df {df}, bound {bound(df):.1f}")
    assert df > 10 and statistic < bound(df)


class Backbone(Network):
    """Called as the host calls its own."""

    def forward(self, tokens: torch.Tensor, sigma: Any = None, cond: Any = None, **more: Any) -> torch.Tensor:
        return super().forward(tokens)


@pytest.mark.real_host
def test_a_published_checkpoint_by_its_name(tmp_path: Path) -> None:
    """Its own class with random weights, saved as on the hub: config, remote code, weights."""
    model: Any = build("proseco")
    model.config.auto_map = {"AutoConfig": "configuration_proseco.ProsecoConfig",
                             "AutoModelForMaskedLM": "modeling_proseco.Proseco"}  # fmt: skip
    model.save_pretrained(tmp_path)
    for file in (folder() / "models/hf").glob("*_proseco.py"):
        shutil.copy(file, tmp_path)
    told = json.loads((tmp_path / "config.json").read_text())
    assert told["model_type"] == "proseco" and told["hidden_dim"] == HOSTS["proseco"][5]["hidden_dim"]
    prism = enable(str(tmp_path), trust_remote_code=True)
    assert isinstance(prism.denoiser, MDLMDenoiser) and prism.denoiser.mask_id == told["vocab_size"] - 1
    tokens = torch.randint(3, 59, (2, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits, which = prism.denoiser.project(prism.denoiser(tokens), torch.arange(24))
        own = model(tokens, torch.zeros(2)).logits.flatten(0, 1)
    torch.testing.assert_close(logits[which][:, :-1], own[:, :-1])
    tokens[:, 4:] = prism.denoiser.mask_id
    found = prism.generate(tokens, sampler="proseco", steps=8)
    assert not (found.tokens == prism.denoiser.mask_id).any() and bool((found.forwards > 4).all())


@pytest.mark.real_host
def test_a_checkpoint_of_its_training(diffusion: Any, tmp_path: Path) -> None:
    """Its own DIT with random weights, saved as its Lightning module saves it, by ``prism import``."""
    dit = sys.modules["models.dit"]
    sizes = {"hidden_size": 32, "cond_dim": 16, "length": 24, "n_blocks": 2, "n_heads": 2, "dropout": 0.1}
    torch.manual_seed(0)
    config = {"model": {**sizes, "scale_by_sigma": True}, "training": {"guidance": None}, "parameterization": "subs"}
    backbone = dit.DIT(OmegaConf.create(config), 11).eval()
    for weights in backbone.parameters():
        nn.init.normal_(weights, std=0.2)
    state = {f"backbone.{key}": value for key, value in backbone.state_dict().items()}
    shadow = [p.detach().clone() for p in backbone.parameters()]
    more = {"hyper_parameters": {"config": SimpleNamespace()}, "loops": {"epoch": 1}}
    torch.save({"state_dict": state, "ema": {"decay": 0.9999, "shadow_params": shadow}, **more}, tmp_path / "last.ckpt")
    words = ["import", str(tmp_path / "last.ckpt"), f"out={tmp_path / 'ours'}", "mask_id=10", "length=24"]
    assert cli.main(words) == 0
    ours = PrismModel.from_pretrained(tmp_path / "ours")
    tokens = torch.randint(11, (2, 24), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found, which = ours.project(ours(tokens), torch.arange(tokens.numel()))
        own = backbone(tokens, torch.zeros(2)).flatten(0, 1)
    torch.testing.assert_close(found[which][:, :10], own[:, :10], atol=1e-4, rtol=1e-4)
