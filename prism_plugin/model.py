"""Our own masked diffusion model with its quality head: one folder on disk, one ``Denoiser`` in memory.

    config.json         shape of the backbone, the task it was trained on
    model.safetensors   its weights
    prism_config.json   the head: kind, sizes, how it was trained
    head.safetensors    its weights
"""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .backbone import Backbone, BackboneConfig
from .denoiser import Denoiser, Output, share_masked
from .errors import CheckpointError
from .files import output_folder, write_atomic
from .quality.head import HeadConfig, make_head

ASSETS = Path(__file__).parent / "assets"


class PrismModel(Denoiser):
    """A backbone of ours as a Denoiser, with or without a head (``head`` is None until one is attached)."""

    hidden_at = "pre_norm"

    def __init__(self, config: BackboneConfig, task: str) -> None:
        super().__init__()
        self.backbone, self.task = Backbone(config), task
        self.vocab_size, self.mask_id = config.vocab_size, config.mask_id
        self.hidden_size, self.max_length = config.hidden_size, config.length
        self.head: nn.Module | None = None
        self.head_config: HeadConfig | None = None
        self.trained: dict[str, object] = {}

    def forward(self, tokens: Tensor, padding: Tensor | None = None) -> Output:
        """See ``Denoiser.forward``."""
        return Output(*self.backbone(tokens, share_masked(tokens, self.mask_id, padding), padding))

    def project(self, output: Output, index: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the rows of ``index`` only, (N, V); -1 stays padding."""
        length = output.hidden.shape[1]
        hidden = output.hidden.flatten(0, 1)[index.clamp(min=0), None]
        logits = self.backbone.logits(hidden, output.time[index.clamp(min=0) // length])[:, 0]
        own = torch.arange(index.numel(), device=index.device)
        return logits, own.masked_fill(index < 0, -1)

    def attach_head(self, name: str) -> None:
        """Put a fresh head of that name on the model; raises ConfigError where it does not fit."""
        self.head_config = HeadConfig(name, self.hidden_size, self.backbone.config.cond_size)
        self.head = make_head(self.head_config, self)

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the folder described above; every file is whole or absent."""
        written = output_folder(folder)
        _save_json(written / "config.json", {"task": self.task, "backbone": asdict(self.backbone.config)})
        _save_weights(written / "model.safetensors", self.backbone)
        if self.head is not None and self.head_config is not None:
            save_head(written, self.head, self.head_config, self.trained)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "PrismModel":
        """Load a folder, or one of the embedded models by name (``sudoku``, ``sudoku4``), in eval mode.

        Raises CheckpointError saying which file or tensor is missing, extra, damaged or of another shape.
        """
        folder = ASSETS / folder if str(folder) in embedded() else Path(folder)
        described = load_json(folder / "config.json")
        try:
            model = cls(BackboneConfig(**described["backbone"]), described["task"])
        except (KeyError, TypeError) as error:
            raise CheckpointError(f"{folder / 'config.json'}: not a PRISM model's config ({error}).") from error
        load_weights(model.backbone, folder / "model.safetensors")
        if (folder / "prism_config.json").exists():
            model.head, model.head_config, model.trained = load_head(folder, model)
        return model.eval()


def embedded() -> list[str]:
    """Names of the models that are shipped with the package."""
    return sorted(p.parent.name for p in ASSETS.glob("*/config.json"))


def save_head(folder: str | Path, head: nn.Module, config: HeadConfig, trained: dict[str, object]) -> None:
    """Write ``prism_config.json`` and ``head.safetensors``; ``trained`` says how the head was made."""
    written = output_folder(folder)
    _save_json(written / "prism_config.json", {"head": asdict(config), "trained": trained})
    _save_weights(written / "head.safetensors", head)


def load_head(folder: str | Path, denoiser: Denoiser) -> tuple[nn.Module, HeadConfig, dict[str, object]]:
    """A trained head in eval mode, its config and how it was trained.

    Raises ConfigError where it does not fit the denoiser, CheckpointError where the files are damaged or missing.
    """
    folder = Path(folder)
    described = load_json(folder / "prism_config.json")
    try:
        config = HeadConfig(**described["head"])
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / 'prism_config.json'}: not a PRISM head's config ({error}).") from error
    head = make_head(config, denoiser)
    load_weights(head, folder / "head.safetensors")
    return head.eval(), config, described.get("trained", {})


def load_json(path: Path) -> dict:
    """Read a JSON object; CheckpointError where it is not there or not one."""
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not there. Embedded models: {', '.join(embedded()) or 'none'}.") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}.") from None


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a safetensors file into a module; CheckpointError, before a weight is changed, where they differ."""
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not there.") from None
    except Exception as error:  # safetensors raises its own type, built per release, for a damaged file
        raise CheckpointError(f"{path} is damaged: {error}. Copy it again.") from error
    wanted = module.state_dict()
    problems = [f"missing {name}" for name in wanted if name not in tensors]
    problems += [f"extra {name}" for name in tensors if name not in wanted]
    problems += [
        f"{name} is {tuple(tensors[name].shape)}, the model has {tuple(wanted[name].shape)}"
        for name in wanted
        if name in tensors and tensors[name].shape != wanted[name].shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(f"{path} does not fit: {'; '.join(problems[:3])}{more}.")
    module.load_state_dict(tensors)


def _save_json(path: Path, content: dict) -> None:
    with write_atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def _save_weights(path: Path, module: nn.Module) -> None:
    with write_atomic(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in module.state_dict().items()}, temporary)
