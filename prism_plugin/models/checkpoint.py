"""Our own masked diffusion model with its quality head: one folder on disk, one ``Denoiser`` in memory.

config.json         shape of the backbone, the task it was trained on
model.safetensors   its weights
prism_config.json   the head: kind, sizes, how it was trained
head.safetensors    its weights
"""

from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError, ConfigError
from ..files import load_json, load_weights, local_folder, output_folder, save_json, save_weights
from ..ops import live_rows
from ..quality.head import FILES as HEAD_FILES
from ..quality.head import load_head, save_head
from .backbone import Backbone, BackboneConfig
from .cache import BackboneCache, CacheConfig
from .denoiser import Denoiser, Embedding, Layout, Output, share_masked
from .noise import Noise

ASSETS = Path(__file__).parents[1] / "assets"
FILES = ("config.json", "model.safetensors")


class PrismModel(Denoiser):
    """A backbone of ours as a Denoiser, with or without a head (``head`` is None until one is attached)."""

    hidden_at = "pre_norm"
    gives = frozenset({"padding", "second_forward", "probe", "layout", "cache"})
    cache: BackboneCache | None

    def __init__(self, config: BackboneConfig, task: str) -> None:
        super().__init__()
        self.backbone, self.task = Backbone(config), task
        self.vocab_size, self.mask_id, self.noise = config.vocab_size, config.mask_id, Noise(config.uniform_noise)
        self.hidden_size, self.cond_size, self.max_length = config.hidden_size, config.cond_size, config.length

    def forward(self, tokens: Tensor, padding: Tensor | None = None, layout: Layout | None = None) -> Output:
        """See ``Denoiser.forward``; by the ``cache`` where there is one."""
        if self.cache is None or layout is not None:
            t = share_masked(tokens, self.mask_id, padding) if self.backbone.config.time_conditioning else None
            return Output(*self.backbone(tokens, t, padding, layout))
        hidden, time, share = self.cache.run(tokens, padding, self.mask_id)
        return Output(hidden, time, share=share)

    def new_cache(self, config: CacheConfig) -> BackboneCache:
        """See ``Denoiser.new_cache``."""
        return BackboneCache(self.backbone, config)

    def project(self, output: Output, index: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the rows of ``index`` only, (N, V); -1 stays padding."""
        rows, which = live_rows(index)
        return self.backbone.logits(*_listed(output, rows))[:, 0], which

    def embedded(self, tokens: Tensor) -> Tensor:
        """See ``Denoiser.embedded``."""
        return self.backbone.embedded(tokens, torch.arange(tokens.shape[1], device=tokens.device)[None])

    def output_embedding(self) -> Embedding:
        """See ``Denoiser.output_embedding``: behind the final norm."""
        layer = self.backbone.unembed
        return Embedding(self._normed, layer.weight, layer.bias, never=layer.weight.new_tensor([self.mask_id]).long())

    def _normed(self, output: Output, index: Tensor) -> Tensor:
        return self.backbone.norm(*_listed(output, index))[:, 0]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write the folder described above, config.json last: a folder that has it is whole."""
        written = output_folder(folder)
        save_weights(written / "model.safetensors", self.backbone)
        if self.head is not None:
            save_head(self, written)
        save_json(written / "config.json", {"task": self.task, "backbone": asdict(self.backbone.config)})

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> "PrismModel":
        """Load a folder, an embedded model by its name (``sudoku``, ``code``), or a repository of the Hugging Face hub
        by its id (``user/name``), in eval mode.

        Raises CheckpointError saying which file or tensor is missing, extra, damaged or of another shape.
        """
        try:
            source = ASSETS / folder if str(folder) in embedded() else local_folder(folder, FILES)
        except CheckpointError as error:
            known = ", ".join(embedded()) or "none"
            raise CheckpointError(f"no model at {str(folder)!r}: {error} Embedded models: {known}.") from error
        described = load_json(source / "config.json")
        try:
            model = cls(BackboneConfig(**described["backbone"]), described["task"])
        except ConfigError:
            raise
        except (KeyError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
            raise CheckpointError(f"{source / 'config.json'}: not a PRISM model's config ({error}).") from error
        load_weights(model.backbone, source / "model.safetensors")
        if any((source / name).exists() for name in HEAD_FILES):
            load_head(model, source)
        return model.eval()


def _listed(output: Output, index: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Hidden states (N, 1, D) at flat positions (N,), the times, and which of these is whose; one is everybody's."""
    assert output.time is not None, "our backbone always gives one"
    texts, length = output.hidden.shape[:2]
    hidden = output.hidden.flatten(0, 1).index_select(0, index)[:, None]
    return hidden, output.time, None if texts == 1 else index // length


def embedded() -> list[str]:
    """Names of the models that are shipped with the package."""
    return sorted(p.parent.name for p in ASSETS.glob("*/config.json"))
