"""A host of the MDLM family, imported as its own main.py imports it: ours, or a checkout where the marker says so."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from prism_plugin.integrations.llada.generate import adapter_of
from prism_plugin.quality.head import attach_head, save_head

MODULES = ("main", "diffusion", "dataloader", "utils", "models", "noise_schedule")


@contextmanager
def imported(folder: Path) -> Iterator[ModuleType]:
    """The module ``diffusion`` of a checkout, first on the path; forgotten at the end."""
    sys.path.insert(0, str(folder))
    try:
        yield importlib.import_module("diffusion")
    finally:
        sys.path.remove(str(folder))
        for name in [name for name in sys.modules if name.split(".")[0] in MODULES]:
            del sys.modules[name]


@pytest.fixture(scope="module")
def mdlm_like() -> Iterator[ModuleType]:
    """The small host."""
    with imported(Path(__file__).parents[1] / "hosts" / "mdlm_like") as diffusion:
        yield diffusion


@pytest.fixture(scope="module")
def head(host: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a head with random weights, for the LLaDA of a module's fixture ``host``."""
    denoiser = adapter_of(host.model)(host.model, 59)
    torch.manual_seed(0)
    attach_head(denoiser, "mlp")
    folder = tmp_path_factory.mktemp("head")
    save_head(denoiser, folder)
    return str(folder)
