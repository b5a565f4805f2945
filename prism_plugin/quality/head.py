"""Heads that score visible tokens from hidden states, by name.

Every head maps hidden (B, L, D) and the time vector (B, C), or None where the model has none, to logits of quality
(B, L); one that reads the text has ``judge`` besides. It is trained on the states that the model gives, before or after
its final norm, and fits those only.
"""

import copy
import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, ConfigError, said
from ..files import load_json, load_weights, local_folder, output_folder, refuse_not_finite, save_json, save_weights
from ..models.backbone import AdaNorm, Backbone, BackboneConfig, Block, grid_relations, rotary_angles
from ..models.denoiser import Denoiser, Output, View
from ..models.lora import ADAPTER, load_lora, network
from ..registry import Registry


@dataclass
class HeadConfig:
    """Which head ('': the published one for the model), and the sizes of its input, 0 where the model's are taken.

    num_layers, num_heads: of the transformer blocks, of head ``dit`` (published: 0 for Sudoku, 1 for text; heads of 64)
    or ``two_stream`` (2; the heads of a model of ours). grid, norm: of ``two_stream``, the side of a Sudoku box, and
    whether it ends in a norm of its own, since the model's states are taken after theirs.
    """

    name: str = ""
    hidden_size: int = 0
    cond_size: int = 0
    num_layers: int = 0
    num_heads: int = 0
    grid: int = 0
    norm: bool = False


class Head(nn.Module):
    """Base of every head, made from its ``config``, in which every size is set.

    attends: whether a token's score depends on its row (the third argument of ``forward`` then says what is padding).
    reads_text: whether it has ``judge(denoiser, output, tokens, padding)``, which takes the place of ``forward``.
    share: what its blocks add to a forward pass, as a share of one.
    """

    attends = False
    reads_text = False
    share = 0.0

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


@heads("two_stream")
class TwoStreamHead(Head):
    """The posterior of every visible token had it been a mask, log p(x_i = y_i | the rest of y), by a second stream.

    The stream starts as the embedding of a mask in every place. Its row i looks at the text without token i: its first
    block at the embeddings of the tokens, which know nothing of each other, the others at the model's last states. The
    model's own output layer reads it, so that it says a whole posterior (two-stream attention, XLNet, arXiv 1906.08237;
    a mask behind the text for every token, WINO, arXiv 2507.18578).
    """

    reads_text = True

    def __init__(self, config: HeadConfig) -> None:
        super().__init__(config)
        size, length = config.hidden_size, config.grid**4 or 1
        shape = BackboneConfig(
            vocab_size=1, mask_id=0, length=length, grid=config.grid,
            hidden_size=size, num_layers=config.num_layers, num_heads=config.num_heads, cond_size=config.cond_size or 1,
        )  # fmt: skip
        self.start = nn.Parameter(torch.zeros(length, size))
        self.blocks = nn.ModuleList(Block(shape) for _ in range(config.num_layers))
        self.norm = AdaNorm(size, config.cond_size or 1) if config.norm else None

    def begin(self, denoiser: Denoiser) -> None:
        """Start as the model does: from its mask, on a model of ours also from its first and its last blocks."""
        masks = torch.full((1, len(self.start)), denoiser.mask_id, device=next(denoiser.parameters()).device)
        with torch.no_grad():
            self.start.copy_(denoiser.embedded(masks)[0])
        backbone = getattr(denoiser, "backbone", None)
        if isinstance(backbone, Backbone) and self.config.num_heads == backbone.config.num_heads:
            chosen = [*backbone.blocks[:1], *backbone.blocks[1:][1 - len(self.blocks) :]]
            for own, block in zip(self.blocks, chosen if len(self.blocks) > 1 else chosen[:1], strict=False):
                own.load_state_dict(copy.deepcopy(block.state_dict()))

    def forward(
        self, embedded: Tensor, hidden: Tensor, time: Tensor | None = None, padding: Tensor | None = None
    ) -> Tensor:
        """embedded and hidden (B, L, D), (B, C) and (B, L) bool -> (B, L, D), such as the model gives at masks."""
        length, size = hidden.shape[1:]
        if time is None:
            time = hidden.new_ones(len(hidden), 1)
        attend = None if padding is None else padding[:, None, None]
        if self.config.grid:
            positions = grid_relations(self.config.grid).to(hidden.device)
        else:
            positions = rotary_angles(length, size // self.config.num_heads, hidden.device)
        x = self.start.expand(len(hidden), length, size)
        blocks: list[Any] = list(self.blocks)
        for number, block in enumerate(blocks):
            x = block.without(x, embedded if number == 0 else hidden, time, positions[None], attend)
        return x if self.norm is None else self.norm(x, time)

    def judge(self, denoiser: Denoiser, output: Output, tokens: Tensor, padding: Tensor | None = None) -> Tensor:
        """Logits (B, L) f32 of the posterior of every visible token of ``tokens`` (B, L) int64, 0 at masks."""
        kind = self.start.dtype  # f32, whatever the host's is
        time = None if output.time is None else output.time.to(kind)
        stream = self(denoiser.embedded(tokens).to(kind), output.hidden.to(kind), time, padding)
        shown = output._replace(hidden=stream.to(output.hidden.dtype), logits=None)
        visible = tokens != denoiser.mask_id
        visible = visible if padding is None else visible & padding
        if torch.is_grad_enabled():
            index = visible.flatten().nonzero().squeeze(1)
            logits, rows = denoiser.project(shown, index)
            said = logits.float().log_softmax(-1)[rows, tokens.flatten()[index]]
            said = torch.zeros(tokens.numel(), device=said.device).index_copy(0, index, said).view_as(tokens)
        else:
            said = View(denoiser, shown).probability(tokens, visible).clamp(min=1e-30).log()
        return (said - torch.log1p(-said.exp().clamp(max=1 - 1e-6))).masked_fill(~visible, 0.0)


def attach_head(denoiser: Denoiser, config: HeadConfig | str = "") -> Head:
    """Put a fresh head on a denoiser, by default the published one; ConfigError where sizes do not fit the model's."""
    head = _fresh(denoiser, config)
    if isinstance(head, TwoStreamHead):
        head.begin(denoiser)
    denoiser.head = head
    return head


def put_head(denoiser: Denoiser, head: Any) -> None:
    """Put a head of one's own on a denoiser: any module that maps hidden (B, L, D) and time to logits (B, L), or one
    that reads the text.

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
    if getattr(head, "reads_text", False):
        denoiser.head = head
        head_hash(head)
        return
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
    held = dict(chain(head.named_parameters(), head.named_buffers()))  # state_dict would shut what FSDP2 has opened
    seen = tuple((n, id(t), t.data_ptr(), 0 if t.is_inference() else t._version) for n, t in held.items())
    if head not in _HASHES or _HASHES[head][0] != seen:
        digest = hashlib.sha256()
        for name, tensor in held.items():
            digest.update(name.encode())
            if hasattr(tensor, "full_tensor"):  # a shard of FSDP2, which also frees memory: so it is copied
                tensor = tensor.full_tensor()
            copied = tensor.detach().to("cpu", copy=True).contiguous()
            digest.update(copied.flatten().view(torch.uint8).numpy().tobytes())
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
    if config.num_layers and name not in ("dit", "two_stream"):
        raise ConfigError(f"head.num_layers = {config.num_layers}: head {name!r} has no blocks, head 'dit' has.")
    num_heads = config.num_heads or max(1, size // 64)
    config = replace(config, name=name, hidden_size=size, cond_size=cond, num_heads=num_heads)
    if name == "two_stream":
        backbone = getattr(denoiser, "backbone", None)
        if isinstance(backbone, Backbone):
            config = replace(config, num_heads=backbone.config.num_heads, grid=backbone.config.grid)
        config = replace(config, num_layers=config.num_layers or 2, norm=denoiser.hidden_at == "post_norm")
    head = heads[name](config)
    if config.num_layers:
        head.share = _weights(head, denoiser) / max(1, _weights(network(denoiser), denoiser))
    return head


def _weights(module: nn.Module, denoiser: Denoiser) -> int:
    """Numbers in the matrices of a module, but for those with a row a symbol: what it costs a token."""
    return sum(p.numel() for p in module.parameters() if p.dim() > 1 and p.shape[0] != denoiser.vocab_size)


FILES = ("prism_config.json", "head.safetensors")
FITS = ("vocab_size", "mask_id", "hidden_at", "fingerprint")
"""What must be the same of the model that a head was trained on and of the one that it is put on."""


def fingerprint(denoiser: Denoiser) -> str | None:
    """A hash of the model under the head: all shapes, and the first numbers of some of its weights, rounded to bf16.

    Whether it is held in f32 or bf16, with LoRA on it or not, on which device: the same. Weights with one row a symbol
    are left out: hosts pad them, and the vocabulary is compared for itself. None where weights are kept elsewhere and
    come when their layer runs (accelerate's offload).
    """
    if any(weight.is_meta for weight in denoiser.parameters()):
        return None
    tables: set[tuple[int, ...]] = {(denoiser.vocab_size,)}
    tables |= {module.weight.shape for module in denoiser.modules() if isinstance(module, nn.Embedding)}
    named = denoiser.named_parameters()
    return fingerprint_of((w.detach() for n, w in named if not n.startswith("head.") and "lora_" not in n), tables)


def identity(denoiser: Denoiser) -> dict[str, str | None]:
    """What tells a model and its head from others under the same names: ``fingerprint`` and ``head_hash``, or None."""
    return {
        "model": fingerprint(denoiser),
        "head": None if denoiser.head is None else head_hash(denoiser.head),
    }


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


def load_head(denoiser: Denoiser, folder: str | Path, fits: Iterable[str] = FITS) -> None:
    """Load a folder written by ``save_head``, or a hub id of one, onto a denoiser, which is left as it was where that
    fails. fits: which of ``FITS`` are compared.

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
    for name in fits:
        own = fingerprint(denoiser) if name == "fingerprint" else getattr(denoiser, name)
        if own is not None and made_for.get(name) not in (None, own):
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
