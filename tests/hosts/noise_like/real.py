"""The models of Duo, SCDD and GIDD, with random weights: from a checkout, or of the same shape from ``models.py``."""

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import torch
import transformers  # noqa: F401  (before anything is mocked)
from torch import nn

from tests.hosts.noise_like import models

STAND_INS = Path(__file__).parents[1] / "stand_ins"
LENGTH, V = 12, 11
NET = {"hidden_size": 32, "cond_dim": 16, "n_blocks": 2, "n_heads": 2, "dropout": 0.0, "length": LENGTH,
       "scale_by_sigma": True}  # fmt: skip


class Lightning(nn.Module):
    """What the hosts ask of ``lightning.LightningModule`` outside of training."""

    device, dtype = torch.device("cpu"), torch.float32

    def save_hyperparameters(self) -> None:
        """Nothing is saved."""


@contextmanager
def checkout(host: str, *names: str) -> Iterator[list[Any]]:
    """Modules of the checkout that PRISM_HOST_<host> names; what they import and never call here is mocked."""
    folder = os.environ[f"PRISM_HOST_{host.upper()}"]
    lightning = mock.MagicMock()
    lightning.LightningModule = Lightning
    absent = ("timm", "timm.scheduler", "torchmetrics", "torchmetrics.aggregation", "dataloader", "metrics",
              "causal_conv1d", "mamba_ssm", "scipy", "scipy.integrate", "scipy.optimize", "scipy.stats",
              "models.unet", "models.autoregressive")  # fmt: skip
    before = set(sys.modules)
    stand_ins = {"lightning": lightning, **{name: mock.MagicMock() for name in absent}}
    stand_ins["timm.scheduler"].CosineLRScheduler = type("CosineLRScheduler", (), {})
    stand_ins["torchmetrics"] = ModuleType("torchmetrics")
    stand_ins["torchmetrics"].aggregation = SimpleNamespace(MeanMetric=nn.Module)  # type: ignore[attr-defined]
    stand_ins["torchmetrics"].MetricCollection = mock.MagicMock()  # type: ignore[attr-defined]
    with mock.patch.dict(sys.modules, stand_ins), mock.patch.object(sys, "path", [str(STAND_INS), folder, *sys.path]):
        try:
            yield [importlib.import_module(name) for name in names]
        finally:
            for name in set(sys.modules) - before - set(stand_ins):
                if str(getattr(sys.modules[name], "__file__", "")).startswith((folder, str(STAND_INS))):
                    del sys.modules[name]


def stirred(model: Any) -> Any:
    """Random weights everywhere: these networks begin with zeros in the layers that matter."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * (0.3 if parameter.ndim > 1 else 0.5))
        for name, parameter in model.named_parameters():  # what stands in the text is to decide
            parameter *= {"output_layer.linear.bias": 0.0, "vocab_embed": 4.0}.get(
                next((end for end in ("output_layer.linear.bias", "vocab_embed") if end in name), ""), 1.0
            )
    return model.eval()


def tokenizer(**more: Any) -> Any:
    """As much of one as the hosts ask for."""

    class Tokenizer:
        vocab_size, bos_token_id, eos_token_id, pad_token_id, mask_token_id = V, 0, 1, 1, None

        def __len__(self) -> int:
            return V

    made = Tokenizer()
    vars(made).update(more)
    return made


def namespace(**given: Any) -> Any:
    """A config as OmegaConf makes it."""
    from omegaconf import OmegaConf

    return OmegaConf.create(given)


def duo_config(**sampling: Any) -> Any:
    """Of Duo, as its Hydra composes it, the keys that are read."""
    return namespace(
        algo={"name": "duo_base", "backbone": "dit", "parameterization": "mean", "time_conditioning": True, "T": 0,
              "causal_attention": False, "loss_type": "elbo", "ignore_bos": False},
        model=NET, noise={"type": "log-linear", "eps": 1e-3}, prior={"type": "none"}, data={}, optim={"lr": 1e-3},
        training={"ema": 0, "antithetic_sampling": True, "sampling_eps": 1e-3, "class_dropout_p": 0.1},
        eval={"gen_ppl_eval_model_name_or_path": "", "perplexity_batch_size": 1},
        sampling={"predictor": "ancestral", "steps": 8, "noise_removal": "greedy", "use_float64": True,
                  "p_nucleus": 1.0,
                  "guid_weight": None, "psi": {"time_profile": "linear", "high_mode": "max-capped-0.3",
                                               "middle_mode": "pure-posterior", "low_mode": "pure-posterior",
                                               "high_frac": 1.0, "middle_frac": 0.0}, **sampling},
    )  # fmt: skip


def scdd_config(**changes: Any) -> Any:
    """Of SCDD."""
    return namespace(
        parameterization="scdd", backbone="dit", T=1000, subs_masking=False, time_conditioning=True, debug=False,
        model=NET, noise={"type": "loglinear", "sigma_min": 1e-4, "sigma_max": 20}, optim={"lr": 1e-3},
        forward={"name": "mix", "ratio": 0.2, "gamma": 1, "t_peak": 0.5},
        sampling={"predictor": "scdd", "steps": 8, "noise_removal": True, "nucleus_p": 1.0},
        training={"ema": 0, "antithetic_sampling": True, "importance_sampling": False, "change_of_variables": False,
                  "sampling_eps": 1e-3},
        eval={"gen_ppl_eval_model_name_or_path": "gpt2", "print_changes": False}, loader={"eval_batch_size": 64},
        **changes,
    )  # fmt: skip


def duo(kind: str, **sampling: Any) -> Any:
    """``algo.DUO_BASE``."""
    config = duo_config(**sampling)
    if kind == "stand-in":
        return stirred(models.Duo(config, tokenizer()))
    with checkout("duo", "algo") as (algo,):
        return stirred(algo.DUO_BASE(config, tokenizer()))


def scdd(kind: str) -> Any:
    """``diffusion.Diffusion``, the mask behind the tokenizer's ids."""
    config = scdd_config()
    if kind == "stand-in":
        return stirred(models.SCDD(config, tokenizer(mask_token=None)))
    with checkout("scdd", "diffusion") as (diffusion,), mock.patch("transformers.AutoTokenizer"):
        return stirred(diffusion.Diffusion(config, tokenizer(mask_token=None)))


def gidd(kind: str) -> Any:
    """``modeling_dit.DIT``, as transformers makes it of remote code."""
    sizes = {"vocab_size": V, "max_seq_len": LENGTH, "hidden_size": 32, "timestep_cond_dim": 16, "num_hidden_layers": 2,
             "num_attention_heads": 2, "p_uniform": 0.2}  # fmt: skip
    if kind == "stand-in":
        return stirred(models.GIDD(sizes))
    with checkout("gidd", "gidd.models.configuration_dit", "gidd.models.modeling_dit") as (configuration, modeling):
        return stirred(modeling.DIT(configuration.DITConfig(**sizes)))


MAKE = {"duo": duo, "scdd": scdd, "gidd": gidd}
