"""Settings of ProSeCo's sampler as ours (kuleshov-group/proseco 69fe45d): ``sampling.*`` of its configuration.

Its sampler is ``_diffusion_sample`` of its ``diffusion.py``: MDLM's steps, and a corrector between a pass and what is
drawn from it. What its ``llada/generate.py`` does is the preset ``proseco`` as it stands.
"""

from collections.abc import Mapping
from typing import Any

from prism_plugin.errors import ConfigError

DEFAULTS: dict[str, Any] = {
    "steps": 128, "nucleus_p": 1.0, "corrector_steps": 0, "corrector_every_n_steps": 1, "corrector_start_iter": 0,
    "corrector_sampling": "argmax", "corrector_prior_is_argmax": True,
}  # fmt: skip


def settings(sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of ``SamplerConfig`` that do what ``sampling.*`` of the host's configuration does, defaults filled in.

    Raises ConfigError for what has no counterpart here, naming the key.
    """
    given = {**DEFAULTS, **{key: value for key, value in sampling.items() if key in DEFAULTS}}
    found: dict[str, Any] = {"steps": int(given["steps"])}
    if given["nucleus_p"] < 1:
        found["top_p"] = float(given["nucleus_p"])
    if not given["corrector_steps"]:
        return {"name": "mdlm", **found}
    for key in ("corrector_sampling", "corrector_prior_is_argmax"):
        if given[key] != DEFAULTS[key]:
            raise ConfigError(f"sampling.{key} = {given[key]} has no counterpart here, {DEFAULTS[key]} has.")
    found |= {"rounds": int(given["corrector_steps"]), "every": int(given["corrector_every_n_steps"])}
    found["step_on"] = max(int(given["corrector_start_iter"]) - 1, 0)
    return {"name": "proseco", "order": "random", "fill": "hazard", "temperature": 1.0, "end": "budget", **found}
