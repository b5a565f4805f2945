"""Methods as one line each: a preset names its parts and numbers, everything else keeps its default."""

from typing import Any

from ..registry import Registry

presets: Registry[dict[str, Any]] = Registry("preset")

for _name, _parts in {
    "mdlm": {"fill": "hazard"},
    "random": {"fill": "count"},
    "confidence": {"fill": "count", "order": "confidence"},
    "remdm-conf": {"score": "written", "select": "bernoulli_softmax", "fill": "hazard"},
    "random-remask": {"score": "random", "guard": "gate", "refill": "cancel"},
    "self-likelihood": {"score": "self_likelihood", "guard": "gate", "refill": "cancel"},
    "prism": {"score": "quality", "guard": "gate", "refill": "cancel"},
    "prism-text": {
        "score": "quality", "select": "binomial", "guard": "gate", "refill": "cancel",
        "eta": 0.01, "step_on": 0.5, "top_p": 0.9,
    },
    "prism-llada": {"score": "quality", "order": "confidence", "temperature": 0.0, "confidence_of": "untempered"},
    "prism-evidence": {"score": "evidence", "select": "below", "guard": "plan", "fill_share": 0.75},
}.items():
    presets(_name)(_parts)
