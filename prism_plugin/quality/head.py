"""Heads that score visible tokens from hidden states, by name.

Every head maps hidden (B, L, D) and the time vector (B, C), or None where the model has none, to logits of quality
(B, L). It is trained on the states that the model gives, before or after its final norm, and fits those only.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, ConfigError, said
from ..files import load_json, load_weights, local_folder, output_folder, refuse_not_finite, save_json, save_weights
from ..models.backbone import AdaNorm, BackboneConfig, Block, rotary_angles
from ..models.denoiser import Denoiser
from ..models.lora import ADAPTER, load_lora
from ..registry import Registry


@dataclass
class HeadConfig:
    """Which head ('': the published one for the model), and the sizes of its input, 0 where the model's are taken.

    num_layers, num_heads: of the transformer blocks of head ``dit`` (published: 0 for Sudoku, 1 for text; heads of 64).
    """

    name: str = ""
    hidden_size: int = 0
    cond_size: int = 0
    num_layers: int = 0
    num_heads: int = 0


class Head(nn.Module):
    """Base of every head, made from its ``config``, in which every size is set.

    attends: whether a token's score depends on its row (the third argument of ``forward`` then says what is padding).
    """

    attends = False

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config


heads: Registry[type[Head]] = Registry("head")


@heads("linear")
class LinearHead(Head):
    """LayerNorm and one linear map."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__(config)
        self.norm = nn.LayerNorm(config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, 1)

    def forward(self, hidden: Tensor, time: Tensor | None = None) -> Tensor:
        """(B, L, D) -> (B, L) logits."""
        return self.proj(self.norm(hidden)).squeeze(-1)


@heads("mlp")
class MLPHead(Head):
    """LayerNorm, Linear, GELU, Linear (PRISM release for LLaDA, on the state after the final norm)."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__(config)
        self.norm = nn.LayerNorm(config.hidden_size)
        self.proj1 = nn.Linear(config.hidden_size, config.hidden_size)
        self.proj2 = nn.Linear(config.hidden_size, 1)

    def forward(self, hidden: Tensor, time: Tensor | None = None) -> Tensor:
        """(B, L, D) -> (B, L) logits."""
        return self.proj2(nn.functional.gelu(self.proj1(self.norm(hidden)))).squeeze(-1)


@heads("dit")
class DiTHead(Head):
    """num_layers DiT blocks, LayerNorm, adaLN on the time vector, Linear (PRISM release, on the state before the norm).

    The blocks attend over the whole row; where the model has no time vector a constant takes its place.
    """

    def __init__(self, config: HeadConfig) -> None:
        super().__init__(config)
        size, cond = config.hidden_size, config.cond_size or 1
        shape = BackboneConfig(
            vocab_size=1, mask_id=0, length=1,
            hidden_size=size, num_layers=config.num_layers, num_heads=config.num_heads, cond_size=cond,
        )  # fmt: skip
        self.blocks = nn.ModuleList(Block(shape) for _ in range(config.num_layers))
        self.attends = config.num_layers > 0
        self.norm = AdaNorm(size, cond)
        self.proj = nn.Linear(size, 1)

    def forward(self, hidden: Tensor, time: Tensor | None = None, padding: Tensor | None = None) -> Tensor:
        """(B, L, D), (B, C) and (B, L) bool, True where a token is real -> (B, L) logits."""
        if time is None:
            time = hidden.new_ones(len(hidden), 1)
        attend = None if padding is None else padding[:, None, None]
        if self.blocks:
            angles = rotary_angles(hidden.shape[1], self.config.hidden_size // self.config.num_heads, hidden.device)
        for block in self.blocks:
            hidden = block(hidden, time, angles[None], attend)
        return self.proj(self.norm(hidden, time)).squeeze(-1)


def attach_head(denoiser: Denoiser, config: HeadConfig | str = "") -> Head:
    """Put a fresh head on a denoiser, by default the published one; ConfigError where sizes do not fit the model's."""
    head = denoiser.head = _fresh(denoiser, config)
    return head


def put_head(denoiser: Denoiser, head: Any) -> None:
    """Put a head of one's own on a denoiser: any module that maps hidden (B, L, D) and time to logits (B, L).

    Raises ConfigError where it is none, is not made of floats, or does not take the model's hidden states, and
    CheckpointError where its weights are not finite.
    """
    if not isinstance(head, nn.Module):
        raise ConfigError(f"head = {said(head)}: allowed a folder, a hub id, or a torch.nn.Module.")
    named = {**dict(head.named_parameters()), **dict(head.named_buffers())}
    whole = next((n for n, p in head.named_parameters() if not p.is_floating_point()), None)
    if whole is not None:
        raise ConfigError(f"head: {whole} is {named[whole].dtype}: allowed float32, bfloat16 and other floats.")
    refuse_not_finite(named, "head")
    like = next(head.parameters(), torch.zeros(()))
    hidden = like.new_zeros(1, 2, denoiser.hidden_size)
    time = like.new_zeros(1, denoiser.cond_size) if denoiser.cond_size else None
    try:
        with torch.no_grad():
            shape = tuple(head(hidden, time).shape)
    except Exception as error:  # whatever a module of anybody's raises
        reason = str(error).strip().split("\n")[0]
        raise ConfigError(
            f"head: {type(head).__name__} does not take hidden states {tuple(hidden.shape)} of this model and "
            f"{'no time' if time is None else f'a time {tuple(time.shape)}'}: {type(error).__name__}: {reason}"
        ) from error
    if shape != (1, 2):
        raise ConfigError(f"head: {type(head).__name__} gives {shape} for hidden states (1, 2, …): allowed (1, 2).")
    denoiser.head = head
    head_hash(head)


_HASHES: WeakKeyDictionary[nn.Module, tuple[Any, str, list[Tensor]]] = WeakKeyDictionary()


def head_hash(head: nn.Module) -> str:
    """A hash of a head's weights, read once: again only where one was written to, moved or replaced."""
    held = head.state_dict(keep_vars=True)
    seen = tuple((n, id(t), t.data_ptr(), 0 if t.is_inference() else t._version) for n, t in held.items())
    if head not in _HASHES or _HASHES[head][0] != seen:
        digest = hashlib.sha256()
        for name, tensor in held.items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
        _HASHES[head] = seen, digest.hexdigest()[:16], list(held.values())  # held, or another could get their ids
    return _HASHES[head][1]


def _fresh(denoiser: Denoiser, config: HeadConfig | str) -> Head:
    config = HeadConfig(config) if isinstance(config, str) else config
    size, cond = config.hidden_size or denoiser.hidden_size, config.cond_size or denoiser.cond_size
    if (size, cond) != (denoiser.hidden_size, denoiser.cond_size):
        made, has = (
            f"hidden size {hidden}" + (f" and time size {time}" if time else "")
            for hidden, time in ((size, cond), (denoiser.hidden_size, denoiser.cond_size))
        )
        raise ConfigError(f"the head was made for {made}, the model has {has}.")
    name = config.name or ("mlp" if denoiser.hidden_at == "post_norm" else "dit")
    if config.num_layers and name != "dit":
        raise ConfigError(f"head.num_layers = {config.num_layers}: head {name!r} has no blocks, head 'dit' has.")
    num_heads = config.num_heads or max(1, size // 64)
    return heads[name](replace(config, name=name, hidden_size=size, cond_size=cond, num_heads=num_heads))


FILES = ("prism_config.json", "head.safetensors")
FITS = ("vocab_size", "mask_id", "hidden_at", "fingerprint")
"""What must be the same of the model that a head was trained on and of the one that it is put on."""


def fingerprint(denoiser: Denoiser) -> str:
    """A hash of the model under the head: all shapes, and the first numbers of some of its weights, rounded to bf16.

    Whether it is held in f32 or bf16, with LoRA on it or not, on which device: the same. Weights with one row a symbol
    are left out: hosts pad them, and the vocabulary is compared for itself.
    """
    tables: set[tuple[int, ...]] = {(denoiser.vocab_size,)}
    tables |= {module.weight.shape for module in denoiser.modules() if isinstance(module, nn.Embedding)}
    named = denoiser.named_parameters()
    return fingerprint_of((w.detach() for n, w in named if not n.startswith("head.") and "lora_" not in n), tables)


def fingerprint_of(weights: Iterable[Tensor], tables: set[tuple[int, ...]]) -> str:
    """``fingerprint`` of weights in the order of their model, but for those whose shape or first size is in tables."""
    held = [one for one in weights if not {one.shape, one.shape[:1]} & tables]
    found = hashlib.sha256(str([tuple(w.shape) for w in held]).encode())
    for one in held[:: max(1, len(held) // 16)]:
        found.update(one.flatten()[:1024].to("cpu", torch.bfloat16).view(torch.int16).numpy().tobytes())
    return found.hexdigest()[:16]


def save_head(denoiser: Denoiser, folder: str | Path) -> None:
    """Write ``prism_config.json`` (what the head is, what it fits, how it was trained) and ``head.safetensors``."""
    folder, head = output_folder(folder), denoiser.head
    if not isinstance(head, Head):
        raise ConfigError("there is no head to save, or it is none of ours: attach_head makes one.")
    own = {name: getattr(denoiser, name) for name in FITS if name != "fingerprint"}
    described = {
        "head": asdict(head.config),
        "model": {**own, "fingerprint": fingerprint(denoiser)},
        "trained": denoiser.trained,
    }
    save_weights(folder / "head.safetensors", head)
    save_json(folder / "prism_config.json", described)  # last: a folder that has it is whole


def load_head(denoiser: Denoiser, folder: str | Path) -> None:
    """Load a folder written by ``save_head``, or a hub id of one, onto a denoiser, which is left as it was where that
    fails.

    Raises CheckpointError where the files are missing or damaged, or the model differs from the one it was made for.
    """
    folder = local_folder(folder)
    for file in FILES:
        if not (folder / file).exists():
            raise CheckpointError(f"{folder / file} is not there: a head is {' and '.join(FILES)}.")
    described = load_json(folder / "prism_config.json")
    made_for, trained = described.get("model", {}), described.get("trained", {})
    try:
        head = _fresh(denoiser, HeadConfig(**described["head"]))
        made_for, trained = dict(made_for), dict(trained)
    except ConfigError:
        raise
    except (KeyError, TypeError, ValueError, ArithmeticError, RuntimeError) as error:
        raise CheckpointError(f"{folder}/prism_config.json does not describe a head ({error}).") from error
    for name in FITS:
        own = fingerprint(denoiser) if name == "fingerprint" else getattr(denoiser, name)
        if made_for.get(name) not in (None, own):
            hint = (
                " Load it on the weights that it was trained on; if these are the same in another form (quantised, "
                f"say), take the line out of {folder / 'prism_config.json'}."
            )
            raise CheckpointError(
                f"the head in {folder} was trained for a model of {name} = {made_for[name]}, this one has {own}."
                + (hint if name == "fingerprint" else "")
            )
    load_weights(head, folder / "head.safetensors")
    if (folder / ADAPTER).exists():
        load_lora(denoiser, folder)
    denoiser.head = head.eval()
    denoiser.trained = trained
    head_hash(head)
