"""Files that are whole or not there: written beside their place, then renamed."""

import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .errors import CheckpointError, ConfigError


@contextmanager
def write_atomic(path: str | Path) -> Iterator[Path]:
    """Give a temporary path in the folder of ``path``; rename it onto ``path`` when the block ends well.

    On an exception the temporary file is removed and ``path`` is left as it was.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def output_folder(path: str | Path, what: str = "output folder") -> Path:
    """Make a folder and prove that it can be written to, before any work is done.

    Raises ConfigError naming the folder and the reason.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with write_atomic(folder / ".writable") as probe:
            probe.touch()
        (folder / ".writable").unlink(missing_ok=True)  # two processes may try at once
    except OSError as error:
        raise ConfigError(
            f"{what} {str(folder)!r} cannot be written: {error.strerror}. Name another folder."
        ) from error
    return folder


def local_folder(name: str | Path, files: Iterable[str] = ()) -> Path:
    """A folder as it is, or a repository of the Hugging Face hub (``user/name``) in its cache, fetched where need be.

    Of a repository only ``files``, or what a head consists of, is fetched. Raises CheckpointError where it is neither.
    """
    if Path(name).is_dir():
        return Path(name)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)):
        raise CheckpointError(f"no folder {str(name)!r}, and no hub id either: that would be user/name.")
    from huggingface_hub import snapshot_download

    wanted = [*files, "prism_config.json", "head.safetensors", "adapter_config.json", "adapter_model.safetensors"]
    try:
        return Path(snapshot_download(str(name), allow_patterns=wanted))
    except Exception as error:  # offline, unknown, private, mistyped: each has a type of its own
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise CheckpointError(f"no folder {str(name)!r}, and the hub gives no such repository: {reason}.") from error


def load_json(path: Path) -> dict:
    """Read a JSON object; CheckpointError where it is not there or not one."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not there.") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}.") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object but a {type(content).__name__}.")
    return content


def load_weights(module: nn.Module, path: Path) -> None:
    """Load a safetensors file into a module.

    CheckpointError, before a weight is changed, where a name, a shape or the kind of number differs, or where a weight
    is not finite.
    """
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
    problems += [
        f"{name} is {tensors[name].dtype}, the model has {wanted[name].dtype}"
        for name in wanted
        if name in tensors and tensors[name].is_floating_point() != wanted[name].is_floating_point()
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise CheckpointError(f"{path} does not fit: {'; '.join(problems[:3])}{more}.")
    refuse_not_finite(tensors, str(path))
    module.load_state_dict(tensors)


def refuse_not_finite(weights: Mapping[str, Tensor], where: str) -> None:
    """CheckpointError that names the first of the weights that holds NaN or inf."""
    for name, tensor in weights.items():
        if tensor.is_floating_point() and tensor.itemsize > 1 and tensor.numel() and not tensor.is_meta:
            low, high = tensor.detach().aminmax()  # one read, and NaN goes through
            if not (math.isfinite(low) and math.isfinite(high)):
                raise CheckpointError(f"{where}: {name} holds NaN or inf. Take an earlier checkpoint, or train anew.")


def save_json(path: Path, content: dict) -> None:
    """Write a JSON object, whole or not at all; ValueError where a number is not finite: JSON has no such."""
    with write_atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def save_weights(path: Path, weights: nn.Module | Mapping[str, Tensor]) -> None:
    """Write weights, a module's or by name, as safetensors, whole or not at all (CheckpointError: a full disk)."""
    named = weights.state_dict() if isinstance(weights, nn.Module) else weights
    try:
        with write_atomic(path) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in named.items()}, temporary)
    except SafetensorError as error:  # a full disk, say; what was there before is there still
        raise CheckpointError(f"{path} could not be written: {error}.") from error


def file_to_write(path: str) -> Path:
    """The path of a file to write, its folder made and proved writable before any work."""
    output_folder(Path(path).parent)
    if Path(path).is_dir():
        raise ConfigError(f"{path!r} is a folder: name a file to write.")
    return Path(path)
