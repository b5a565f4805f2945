"""Files that are whole or not there: written beside their place, then renamed."""

import errno
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .errors import CheckpointError, ConfigError


@contextmanager
def write_atomic(path: str | Path) -> Iterator[Path]:
    """Give a temporary path in the folder of ``path``, made where need be; rename it onto ``path`` when the block ends
    well.

    The file has the mode that ``open`` would leave, and a link stays one. On an exception the temporary file is removed
    and ``path`` is left as it was. Raises ConfigError where a device or pipe stands there: it is never replaced.
    """
    path = Path(os.path.realpath(path))
    _regular(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.chmod(_mode(path))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _regular(path: Path) -> None:
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ConfigError(f"{str(path)!r} is a device or a pipe: name a file to write.")


def _mode(path: Path) -> int:
    if path.exists():
        return stat.S_IMODE(path.stat().st_mode)
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o666 & ~mask


def output_folder(path: str | Path, what: str = "output folder", keep: bool = True) -> Path:
    """Make a folder and prove that it can be written to, before any work is done; without ``keep`` only prove it.

    Raises ConfigError naming the folder and the reason.
    """
    folder = Path(path)
    try:
        if keep:
            folder.mkdir(parents=True, exist_ok=True)
        there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
        if any(len(os.fsencode(name)) > 255 for name in folder.parts):
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        with write_atomic(there / f".writable.{os.getpid()}") as probe:  # two processes may try at once
            probe.touch()
        (there / f".writable.{os.getpid()}").unlink()
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"{what} {str(folder)!r} cannot be written: {reason}. Name another folder.") from error
    return folder


def file_to_write(path: str, overwrite: bool, word: str = "overwrite=true") -> Path:
    """The path of a file that is to be written, proved writable before any work; nothing is left there.

    Raises ConfigError where it cannot be, or where a file is there that ``overwrite`` does not give up, naming the
    ``word`` that does.
    """
    file = Path(path)
    if "\0" in path:
        raise ConfigError(f"{path!r} is no name of a file: it holds a zero byte.")
    output_folder(file.parent, keep=False)
    if file.is_dir():
        raise ConfigError(f"{path!r} is a folder: name a file to write.")
    _regular(file)
    if file.exists() and not overwrite:
        raise ConfigError(f"{path!r} is there already: {word} replaces it, or name another file.")
    return file


MODEL_FILES = (
    "config.json", "prism_config.json", "model.safetensors", "head.safetensors", "adapter_config.json",
    "adapter_model.safetensors",
)  # fmt: skip
"""What makes a folder a model, a head, or both; it is whole where one of the first two is there."""


def finished(folder: str | Path) -> bool:
    """Whether a folder holds a model or a head."""
    return any((Path(folder) / name).exists() for name in MODEL_FILES[:2])


def folder_to_write(path: str | Path, overwrite: bool) -> Path:
    """An output folder for a model, proved writable before any work; nothing is left there.

    Raises ConfigError where it cannot be written, or holds a finished model that ``overwrite`` does not give up.
    """
    folder = output_folder(path, keep=False)
    if finished(folder) and not overwrite:
        raise ConfigError(
            f"{str(path)!r} holds a finished model: overwrite=true replaces it, or name another folder with out=…."
        )
    return folder


@contextmanager
def replace_model(folder: str | Path) -> Iterator[Path]:
    """Give an empty folder inside ``folder``; what is in it takes the place of the model there when the block ends
    well.

    So a disk that fills up loses no model: of the old one nothing is taken away before all of the new one is written.
    What makes a folder whole leaves first and comes last; on an exception ``folder`` is left as it was.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    written = folder / f".{os.getpid()}.tmp"
    written.mkdir()
    try:
        yield written
        for name in MODEL_FILES:
            (folder / name).unlink(missing_ok=True)
        for path in sorted(written.iterdir(), key=lambda path: path.name in MODEL_FILES[:2]):
            if path.is_dir():
                shutil.rmtree(folder / path.name, ignore_errors=True)
            os.replace(path, folder / path.name)
    finally:
        shutil.rmtree(written, ignore_errors=True)


@cache
def hub_answers() -> bool:
    """Whether the Hugging Face hub can be reached; where it cannot, only what is in its cache is used from now on.

    Asked once, for three seconds: the hub's own client tries again for half a minute, every time.
    """
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        get_session().head(constants.ENDPOINT, timeout=3)
    except Exception:  # no network, no name, no answer: each client has types of its own
        constants.HF_HUB_OFFLINE = True
        os.environ["HF_HUB_OFFLINE"] = "1"  # for whatever is imported later
        return False
    return True


def local_folder(name: str | Path, files: Iterable[str] = ()) -> Path:
    """A folder as it is, or a repository of the Hugging Face hub (``user/name``) in its cache, fetched where need be.

    Of a repository only ``files``, or what a head consists of, is fetched. Raises CheckpointError where it is neither.
    """
    if Path(name).is_dir():
        return Path(name)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", str(name)):
        raise CheckpointError(f"no folder {str(name)!r}, and no hub id either: that would be user/name.")
    from huggingface_hub import snapshot_download

    reached = hub_answers()
    wanted = [*files, "prism_config.json", "head.safetensors", "adapter_config.json", "adapter_model.safetensors"]
    try:
        return Path(snapshot_download(str(name), allow_patterns=wanted))
    except Exception as error:  # offline, unknown, private, mistyped: each has a type of its own
        if not reached:
            raise CheckpointError(f"no folder {str(name)!r}, and the hub cannot be reached.") from error
        reason = str(error).strip().split("\n")[0].rstrip(".")
        raise CheckpointError(f"no folder {str(name)!r}, and the hub gives no such repository: {reason}.") from error


def load_json(path: Path) -> dict:
    """Read a JSON object; CheckpointError where it is not there or not one."""
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise CheckpointError(f"{path} is not there.") from None
    except (ValueError, RecursionError) as error:
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
