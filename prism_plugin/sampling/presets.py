"""Methods as one line each: a preset names its parts and numbers, everything else keeps its default."""

from typing import Any

from ..registry import Registry

presets: Registry[dict[str, Any]] = Registry("preset")

_greedy = {"order": "confidence", "temperature": 0.0, "confidence_of": "untempered"}
_dit = {"guard": "gate", "refill": "cancel"}
_remdm = {"score": "random", "select": "bernoulli", "fill": "hazard"}
_fast = {"fill_least": 1, "temperature": 0.0, "confidence_of": "untempered"}
_noise = {"method": "redraw", "score": "random", "select": "share", "remask_share": 1.0, "act": "posterior"}
_dream = {"temperature": 0.0, "top_p_rule": "inclusive"}

_PRESETS: dict[str, dict[str, Any]] = {
    # fill only
    "mdlm": {"fill": "hazard"},
    "random": {"fill": "count"},
    "confidence": {"order": "confidence"},
    "margin": {"order": "margin"},
    "entropy": {"order": "entropy"},
    "dream-origin": {"fill": "hazard", **_dream},
    "dream-maskgit": {"order": "confidence", **_dream},
    "threshold": {"order": "threshold", "fill_bound": 0.9, **_fast},
    "factor": {"order": "factor", "fill_bound": 1.0, **_fast},
    "eb": {"order": "entropy_bound", "fill_bound": 0.1, "fill_least": 1},
    "rdd": {
        "method": "go_back", "max_remasks": 1, "order": "threshold", "fill_bound": 0.9, "block_length": 32,
        "end": "filled", **_fast,
    },
    "prophet": {"order": "commit", "temperature": 0.0, "confidence_of": "untempered"},
    # revision without training
    "random-remask": {"score": "random", **_dit},
    "self-likelihood": {"score": "self_likelihood", **_dit},
    "self-likelihood-mean": {
        "score": "self_likelihood_mean", "select": "staged", "num_remask": 16, "alpha": "cosine", "order": "confidence",
        "refill": "cancel",
    },
    "remdm-conf": {"score": "written", "select": "bernoulli_softmax", "fill": "hazard"},
    "remdm-cap": {"rate": "cap", "eta": 0.04, **_remdm},
    "remdm-rescale": {"rate": "rescale", "eta": 0.015, **_remdm},
    "remdm-loop": {"alpha": "plateau", "rate": "plateau", "eta": 0.02, **_remdm},
    "remdm-llada": {
        "score": "written", "num_remask": 1, "refill": "fresh", "order": "confidence", "alpha": "plateau",
        "loop_on": 0.4375, "step_on": 0.4375, "loop_off": 0.9375, "step_off": 0.9375, "alpha_on": 0.875,
    },
    "dfm": {"alpha": "dfm", "rate": "dfm", **_remdm},
    "forward-backward": {"rate": "forward_backward", **_remdm},
    "p2-self": {"method": "fill_and_revise", "score": "self_likelihood", "select": "schedule", "fill": "all"},
    "rcr": {"method": "fill_and_revise", "score": "written", "select": "schedule", "fill": "all"},
    "saber": {
        "method": "fill_and_revise", "score": "self_likelihood", "select": "eighth",
        "guard": "fewer+unfinished", "order": "above_mean", "end": "filled", **_fast, "fill_least": 2,
    },
    "t2t": {
        "score": "disagreement", "select": "below", "tau": 0.5, "act": "overwrite", "guard": "repeat",
        "order": "threshold", "fill_bound": 0.7, "end": "stable", **_fast,
    },
    "t2m": {
        "score": "disagreement", "select": "below", "tau": 0.1, "guard": "share", "max_remasks": 1,
        "order": "threshold", "fill_bound": 0.7, "end": "filled", **_fast,
    },
    "wino": {
        "method": "shadow", "score": "shadow", "select": "below", "tau": 0.9, "guard": "fewer_than_last",
        "order": "threshold_capped", "fill_bound": 0.6, "block_length": 128, "end": "filled", **_fast,
    },
    "tolerator": {
        "score": "random", "select": "share", "remask_share": 0.8, "eta_schedule": "half_cosine", "refill": "fresh",
        "lock_after": 10, "fill_share": 0.5, "step_on": 0.5, "order": "confidence", "temperature": 0.3,
    },
    "core": {
        "method": "joint_probe", "score": "support", "every": 0.125, "order": "confidence", "temperature": 0.0,
        "confidence_of": "untempered",
    },
    "threshold-remask": {
        "method": "fill_and_revise", "score": "written", "select": "below", "tau": 0.9, "guard": "fewer", "fill": "all",
        "order": "confidence", "end": "filled", "temperature": 0.0, "confidence_of": "untempered",
    },
    "hierarchy-remask": {
        "score": "confidence", "select": "below", "tau": 0.4, "refill": "stale", "fill": "more", "order": "hierarchy",
        "fill_bound": 0.9, "end": "filled", **_fast,
    },
    "gibbs": {"method": "two_pass", "score": "random", "fill_share": 0.75},
    "cavity-evidence": {"score": "cavity_evidence", "select": "below", "guard": "plan", "fill_share": 0.75},
    "shadow-evidence": {
        "method": "shadow_first", "score": "shadow_evidence", "select": "below", "guard": "plan", "fill_share": 0.75,
    },
    # by a model trained to correct its own fills
    "proseco": {
        "method": "argmax_fill", "score": "disagreement", "select": "below", "tau": 1.0, "act": "overwrite", "every": 2,
        "reach": "text", "order": "confidence", "end": "filled", "temperature": 0.0, "confidence_of": "untempered",
    },
    # by a model of uniform noise
    "uniform": _noise,
    "duo": {**_noise, "alpha": "loglinear_tail"},
    "psi": {**_noise, "alpha": "loglinear_tail", "rate": "cap", "eta": 0.04},
    "gidd-correct": {
        "method": "redraw", "score": "redraw", "num_remask": 1, "act": "redraw", "alpha": "held", "end": "stable",
        "temperature": 0.1,
    },
    # by a learned critic
    "token-critic": {"method": "fill_and_judge", "score": "critic", "select": "schedule", "fill": "all"},
    # by a policy that judges masks and tokens alike
    "remedi": {"method": "keep_best", "score": "policy"},
    # by a learned quality
    "g-star": {"method": "fill_and_judge", "score": "quality", "select": "schedule", "fill": "all"},
    "prism": {"score": "quality", **_dit},
    "prism-share": {
        "score": "quality", "select": "share", "remask_share": 0.03, "eta_schedule": "inverse_cosine",
        "order": "confidence", **_dit,
    },
    "prism-text": {"score": "quality", "select": "binomial", "eta": 0.01, "step_on": 0.5, "top_p": 0.9, **_dit},
    "prism-loop": {
        "method": "revise_then_loop", "score": "quality", "select": "binomial", "eta": 0.01,
        "step_on": 0.4, "step_off": 0.8, "fill_share": 0.8, **_dit,
    },
    "prism-llada": {"score": "quality", **_greedy},
    "prism-code": {"score": "quality", "select": "centred", "num_remask": 12, **_greedy},
    "prism-2pass": {"method": "two_pass", "score": "quality", "select": "drawn"},
    "prism-correct": {
        "method": "two_pass", "score": "quality", "select": "below", "guard": "share", "max_remasks": 2,
        "order": "threshold", "end": "stable", **_fast,
    },
    "prism-adaptive": {
        "score": "evidence", "select": "discoveries", "tau": 1.0, "guard": "plan", "fill_share": 0.75, "end": "stable",
    },
    "prism-evidence": {"score": "evidence", "select": "below", "guard": "plan", "fill_share": 0.75},
}  # fmt: skip

for _name, _parts in _PRESETS.items():
    presets(_name)(_parts)
