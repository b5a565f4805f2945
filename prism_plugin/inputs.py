"""What people hand over in Python: texts, token ids, tables of positions, keys. Each is taken as it is meant, or
refused in one line before any work; behind this door nothing is looked at again.
"""

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor

from .errors import ConfigError, DataError, said

TEXTS = (
    "allowed a string, messages of a chat ({'role': …, 'content': …}), token ids (B, L) or (L,), what a tokenizer of "
    "transformers gives, or a list of such"
)


class Texts(NamedTuple):
    """Texts as they came, one each: a string, messages, or ids (L,) int64. table: those ids as (B, L), where that is
    how they came, with their padding, True where a token is real.
    """

    each: list[Any]
    table: Tensor | None = None
    padding: Any = None


def read_texts(given: Any, padding: Any = None) -> Texts:
    """Whatever texts are given as; DataError for what is none."""
    if isinstance(given, Mapping):
        if "input_ids" in given:
            ids, padding = given["input_ids"], given.get("attention_mask") if padding is None else padding
            found = Texts([]) if isinstance(ids, str | Mapping) else read_texts(ids, padding)
            if not all(isinstance(one, Tensor) for one in found.each) or isinstance(ids, str | Mapping):
                raise DataError(f"input_ids = {said(ids)}: allowed token ids (B, L) or (L,), or a list of such.")
            return found
        if "role" in given:
            return read_texts([given], padding)
        raise DataError(f"texts: a {type(given).__name__} of {', '.join(map(str, given)) or 'nothing'}; {TEXTS}.")
    if isinstance(given, str):
        given = [given]
    if isinstance(given, bytes | bytearray | memoryview | set | frozenset) or not isinstance(given, Iterable):
        raise DataError(f"texts = {said(given)}: {TEXTS}.")
    if isinstance(given, Tensor) or (hasattr(given, "dtype") and getattr(given.dtype, "kind", "O") not in "OUS"):
        table = read_ids(given, "texts")
        if table.dim() not in (1, 2):
            raise DataError(f"texts: ids of shape {tuple(table.shape)} came; allowed (B, L), or (L,) for one text.")
        return _of_table(table, padding)
    each = list(given)
    if each and all(isinstance(one, Mapping) and "input_ids" not in one for one in each):
        each = [each]
    if each and all(_whole(one) for one in each):
        return _of_table(read_ids(each, "texts"), padding)
    each = [_one(one, f"texts[{number}]") for number, one in enumerate(each)]
    ids = [one for one in each if isinstance(one, Tensor)]
    if ids and len(ids) == len(each) and len({len(one) for one in ids}) == 1:
        return _of_table(torch.stack(ids), padding)
    if padding is not None and ids and len(ids) == len(each) and not isinstance(padding, Tensor):
        return Texts([row[mask] for row, mask in zip(ids, masks(padding, ids, "padding"), strict=True)])
    if padding is not None:
        raise DataError("padding belongs to token ids (B, L): strings and lists of any length have none.")
    return Texts(each)


def _of_table(table: Tensor, padding: Any) -> Texts:
    table = table[None] if table.dim() == 1 else table
    padding = None if padding is None else real(padding, table)
    padding = None if padding is None or bool(padding.all()) else padding
    return Texts([row if padding is None else row[padding[n]] for n, row in enumerate(table)], table, padding)


def real(given: Any, tokens: Tensor) -> Tensor:
    """Padding (B, L) bool over tokens (B, L), True where one is real. DataError where a row has none, or a gap."""
    found = mask(given, tokens, "padding")
    if found.numel():
        stretches = found[:, 0] + (found[:, 1:] & ~found[:, :-1]).sum(dim=1)
        if bool((stretches != 1).any()):
            row = int((stretches != 1).nonzero()[0])
            what = "a gap" if stretches[row] else "no token"
            raise DataError(f"padding leaves {what} in row {row}: allowed one stretch of real tokens (True) a row.")
    return found


def _whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _one(given: Any, name: str) -> Any:
    """One of several texts."""
    if isinstance(given, str):
        return given
    if isinstance(given, list | tuple) and given and all(isinstance(one, Mapping) for one in given):
        return list(given)
    if isinstance(given, Mapping) and "input_ids" in given:
        given = given["input_ids"]
    if isinstance(given, list | tuple | Tensor) or hasattr(given, "dtype"):
        ids = read_ids(given, name)
        if ids.dim() == 1:
            return ids
    raise DataError(f"{name} = {said(given)}: allowed a string, messages, or token ids (L,).")


def read_ids(given: Any, name: str) -> Tensor:
    """Whole numbers as int64, of any shape: a tensor, an array, or lists. DataError for anything else."""
    try:
        found = given if isinstance(given, Tensor) else torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise DataError(f"{name} = {said(given)}: allowed whole numbers, in rows of one length.") from None
    if not isinstance(given, Tensor) and not found.numel():
        found = found.long()  # an empty list says nothing of its kind
    if found.layout is not torch.strided or found.is_meta or found.is_quantized:
        raise DataError(
            f"{name}: a tensor of {found.layout} on {found.device} came; allowed a plain one, with its numbers."
        )
    if found.dtype == torch.bool or found.is_floating_point() or found.is_complex():
        raise DataError(f"{name}: {found.dtype} came; allowed whole numbers (torch.int64).")
    return found.detach().long()


def mask(given: Any, tokens: Tensor, name: str) -> Tensor:
    """A table (B, L) bool over tokens (B, L), on their device: of bool, or of 0 and 1; (L,) for one text. DataError for
    anything else: nothing is broadcast.
    """
    try:
        found = given if isinstance(given, Tensor) else torch.as_tensor(given)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise DataError(f"{name} = {said(given)}: allowed a table of True and False, {tuple(tokens.shape)}.") from None
    if found.dim() == 1 and len(tokens) == 1:
        found = found[None]
    if found.shape != tokens.shape or found.layout is not torch.strided or found.is_meta:
        raise DataError(f"{name}: {said(found)} came; allowed one True or False a token, {tuple(tokens.shape)}.")
    if found.dtype != torch.bool:
        if found.is_floating_point() or found.is_complex() or bool(((found != 0) & (found != 1)).any()):
            raise DataError(f"{name}: {said(found)} came; allowed True and False, or 1 and 0.")
        found = found.bool()
    return found.to(tokens.device)


def masks(given: Any, rows: Sequence[Tensor], name: str) -> list[Tensor]:
    """As ``mask``, for texts (L,) of any length: a list of (L,) bool, or one table where all are of one length."""
    if len(rows) == 1:
        return [mask(given, rows[0][None], name)[0]]
    plain = isinstance(given, Iterable) and not isinstance(given, str | bytes) and getattr(given, "ndim", 1) > 0
    each = list(given) if plain else []
    if len(each) != len(rows):
        raise DataError(f"{name} = {said(given)}: allowed one mask (L,) for each of the {len(rows)} texts.")
    return [
        mask(one, row[None], f"{name}[{number}]")[0] for number, (one, row) in enumerate(zip(each, rows, strict=True))
    ]


def count(value: Any, name: str, low: int, high: int) -> int:
    """A whole number in a range; ConfigError otherwise."""
    if not _whole(value) or not low <= value <= high:
        raise ConfigError(f"{name} = {said(value)}: allowed a whole number from {low} to {high}.")
    return int(value)


def switch(value: Any, name: str) -> bool:
    """True or False, by any of their usual spellings; ConfigError otherwise."""
    for meant, words in ((True, ("true", "1", "yes", "on")), (False, ("false", "0", "no", "off"))):
        if str(value).strip().lower() in words and isinstance(value, bool | int | str):
            return meant
    raise ConfigError(f"{name} = {said(value)}: allowed True or False.")


def place(value: Any) -> torch.device | None:
    """A device that this machine has, None as it is; ConfigError otherwise."""
    if value is None:
        return None
    try:
        if isinstance(value, str | torch.device):
            torch.zeros(1, device=value).cpu()  # it is there, and holds numbers
            return torch.device(value)
        reason = "no name"
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).strip().split("\n")[0][:80]
    raise ConfigError(f"device = {said(value)}: {reason}; allowed cpu, cuda, cuda:0, … as this machine has them.")


def precision(value: Any) -> torch.dtype | None:
    """A dtype that weights can have, also by its name, None as it is; ConfigError otherwise."""
    found = getattr(torch, value.removeprefix("torch."), None) if isinstance(value, str) else value
    if found is not None and isinstance(found, torch.dtype) and found.is_floating_point and found.itemsize > 1:
        return found
    if value is None:
        return None
    what = str(value) if isinstance(value, torch.dtype) else said(value)
    raise ConfigError(f"dtype = {what}: allowed torch.float32, bfloat16, float16, float64.")


def listed(given: Any, name: str) -> list[str]:
    """One string or several, none of them empty; None is none. ConfigError otherwise."""
    each = [given] if isinstance(given, str) else [] if given is None else given
    if not isinstance(each, list | tuple) or not all(isinstance(one, str) and one for one in each):
        raise ConfigError(f"{name} = {said(given)}: allowed a string, or a list of strings, none of them empty.")
    return list(each)


# ---- tokens against the model


def checked(tokens: Any, denoiser: Any, padding: Any = None) -> tuple[Tensor, Tensor | None]:
    """Tokens (B, L) int64 and padding (B, L) bool on the model's device, (L,) as a batch of one.

    DataError for another shape or type, an id outside the vocabulary, or padding that leaves a row no token or a gap;
    ConfigError for a text longer than the model's.
    """
    tokens = read_ids(tokens, "tokens")
    if tokens.dim() not in (1, 2):
        raise DataError(f"tokens: ids of shape {tuple(tokens.shape)} came; allowed (B, L), or (L,) for one text.")
    tokens = tokens[None] if tokens.dim() == 1 else tokens
    in_vocabulary(tokens, denoiser)
    short_enough(tokens.shape[1], denoiser)
    device = device_of(denoiser)
    return tokens.to(device), None if padding is None else real(padding, tokens).to(device)


def device_of(denoiser: Any) -> torch.device:
    """Where a model makes its logits: its output layer's device where it lies over several (accelerate's
    ``device_map``), else that of its weights; the CPU where it has none.
    """
    layer = denoiser.output_layer() if hasattr(denoiser, "output_layer") else denoiser
    placed = getattr(getattr(layer, "_hf_hook", None), "execution_device", None)  # of weights that are kept elsewhere
    if placed is not None:
        return torch.device(placed)
    return next((parameter.device for parameter in layer.parameters()), torch.device("cpu"))


def in_vocabulary(tokens: Tensor, denoiser: Any, name: str = "tokens") -> None:
    """DataError for an id that the model does not know."""
    if tokens.numel():
        low, high = (int(end) for end in tokens.aminmax())
        if low < 0 or high >= denoiser.vocab_size:
            wrong = low if low < 0 else high
            raise DataError(f"{name}: id {wrong} came; allowed 0 to {denoiser.vocab_size - 1}, the model's vocabulary.")


def short_enough(length: int, denoiser: Any) -> None:
    """ConfigError for a text longer than the model's."""
    if length > denoiser.max_length:
        raise ConfigError(f"a text of {length} tokens is longer than the model's {denoiser.max_length}.")


def keys(given: Any, rows: int) -> Tensor:
    """``request`` (B,) int64, by default the row numbers; DataError for another shape or type."""
    if given is None:
        return torch.arange(rows)
    found = read_ids(given, "request")
    if found.shape != (rows,):
        raise DataError(f"request: shape {tuple(found.shape)} came; allowed ({rows},), a whole number a text.")
    return found
