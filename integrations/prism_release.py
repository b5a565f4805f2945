"""Settings of PRISM's release (SeunggeunKimkr/PRISM 266d51e) as ours: its command line, its scripts, its configuration.

prism import sample_sudoku_prism.sh        # prints them, for prism sample and all else that takes key=value

The release's names are those of its ``configs/config.yaml``; what a sampler of it does is in its ``prob_path.py``.
"""

import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from prism_plugin.errors import CheckpointError, ConfigError, unknown

from . import proseco

DEFAULTS: dict[str, Any] = {
    "predictor": "topk_static", "sampler": "mdlm", "steps": 128, "nucleus_p": 1.0, "eta": 0.0, "num_remask": 0,
    "step_on": 0, "step_off": 1024, "loop_steps": 0, "t_on": 0.0, "t_off": 0.0, "alpha_on": 0.0, "dfm": False,
    "num_initial_masks": 1024,
}  # fmt: skip
"""``sampling.*`` of the release that decides what is drawn; ``noise_removal`` only fills what is left at the end."""

STATIC = {"topk_prob": "confidence", "topk_prob_margin": "margin", "mdlm": "random"}
CACHED = {"mdlm", "remdm-conf", "remdm-cap", "remdm-rescale", "remdm-loop", "forward-backward"}
OWN = {
    "ar": "a token a step from the left",
    "token-critic": "a critic of drawn texts",
    "topk_hybrid_score": "two scores",
}


def settings(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of ``SamplerConfig`` that do what ``sampling.*`` of the release's configuration does, defaults filled in.

    Raises ConfigError for what has no counterpart here, naming the key.
    """
    given = {**DEFAULTS, **{key: value for key, value in sampling.items() if key in DEFAULTS}}
    chosen, steps = given["sampler"], int(given["steps"])
    if given["loop_steps"]:
        raise ConfigError(
            f"sampling.loop_steps = {given['loop_steps']}: the release remasks at random there, before its pass; "
            "choose sampler=prism-loop, which remasks by quality."
        )
    found: dict[str, Any] = {"steps": steps}
    if given["nucleus_p"] < 1:
        found["top_p"] = float(given["nucleus_p"])
    if given["dfm"]:
        return {"name": "dfm", **found}
    if given["predictor"] == "topk_static" and given["num_initial_masks"] % steps:
        found["alpha"] = "even"
    if given["predictor"] == "topk_static" and chosen == "prism":
        found["step_on"] = int(given["step_on"])
        if given["step_off"] < steps:
            found["step_off"] = int(given["step_off"])
        if given["eta"] > 0:
            return {"name": "prism-text", "top_p": 1.0, **found, "eta": float(given["eta"])}
        if given["num_remask"] > 0:
            return {"name": "prism", **found, "num_remask": int(given["num_remask"])}
        return {"name": "random", **found}
    if given["predictor"] == "topk_static" and chosen in STATIC:
        if chosen != "mdlm" and (given["step_on"] > 0 or given["step_off"] < steps):
            raise ConfigError(
                "sampling.step_on and step_off change the order of filling in mid-text: only prism has a window here."
            )
        return (
            {"name": STATIC[chosen], **found, "confidence_of": "untempered"}
            if chosen != "mdlm"
            else {"name": "random", **found}
        )
    if given["predictor"] == "ddpm_cache" and chosen in CACHED:
        if chosen in ("remdm-cap", "remdm-rescale", "remdm-loop"):
            found["eta"] = float(given["eta"])
        if chosen == "remdm-loop":
            on, off = 1 - float(given["t_on"]), 1 - float(given["t_off"])
            found |= {"loop_on": on, "loop_off": off, "alpha_on": float(given["alpha_on"])}
        return {"name": chosen, **found}
    if chosen in OWN:
        raise ConfigError(f"sampling.sampler = {chosen} ({OWN[chosen]}) has no counterpart here.")
    raise unknown("sampling.sampler", chosen, CACHED if given["predictor"] == "ddpm_cache" else {"prism", *STATIC})


def read(path: str | Path) -> dict[str, Any]:
    """``settings`` of a shell script, a file of words, or a YAML of the release; CheckpointError where it is none.

    With keys of a corrector they are ProSeCo's.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from error
    if Path(path).suffix in (".yaml", ".yml"):
        tree: Any = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
        sampling = tree.get("sampling", tree)
    else:
        sampling = from_words(_words(text))
    own = any(key.startswith("corrector_") for key in sampling)
    return proseco.settings(sampling) if own else settings(sampling)


def from_words(words: Iterable[str]) -> dict[str, Any]:
    """The ``sampling.*`` of a command line, as numbers and words."""
    chosen = [word.lstrip("+").removeprefix("sampling.") for word in words if word.lstrip("+").startswith("sampling.")]
    return OmegaConf.to_container(OmegaConf.from_dotlist(chosen))  # type: ignore[return-value]


def _words(script: str) -> list[str]:
    """Words of a shell script, its plain variables put in; nothing of it is run."""
    known: dict[str, str] = {}
    found = []
    for word in shlex.split(re.sub(r"\\\s*(\n|$)", " ", script), comments=True):
        for name, value in known.items():
            word = word.replace(f"${{{name}}}", value)
        name, equals, value = word.partition("=")
        if equals and name.isidentifier():
            known[name] = value
        found.append(word)
    return found
