"""MDLM and ReMDM (kuleshov-group): ``+prism=default`` on the host's own command line turns PRISM on. See README.md.

Imports nothing heavy: Hydra loads it inside every host.
"""

import functools
from types import ModuleType
from typing import Any


def is_host(module: ModuleType | None) -> bool:
    """Whether an imported module named ``diffusion`` is MDLM's or ReMDM's, not somebody else's."""
    host = getattr(module, "Diffusion", None)
    names = ("_sample", "_ddpm_caching_update", "restore_model_and_sample", "restore_model_and_semi_ar_sample")
    return all(hasattr(host, name) for name in names)


def is_remdm(host: type) -> bool:
    """Whether a ``Diffusion`` class is ReMDM's, whose update carries the confidences along."""
    return hasattr(host, "_dfm_caching_update")


def is_on(host: Any) -> bool:
    """Whether ``switch_on`` was here before."""
    return "sampled_by_prism" in vars(host)


def switch_on(host: Any) -> None:
    """Let a host class sample with PRISM wherever its configuration has a ``prism`` node, else as before."""
    if is_on(host):
        return
    plain, semi_ar = host._sample, host.restore_model_and_semi_ar_sample

    @functools.wraps(plain)
    def sample(self, num_steps=None, eps=1e-5):
        if self.config.get("prism") is None:
            return plain(self, num_steps, eps)
        from .sample import sample as prism_sample

        return prism_sample(self, num_steps or self.config.sampling.steps)

    @functools.wraps(semi_ar)
    def refuse(self, *args, **kwargs):
        if self.config.get("prism") is not None:
            from .adapter import check_host

            check_host(self)
        return semi_ar(self, *args, **kwargs)

    host.sampled_by_prism = True
    host._sample, host.restore_model_and_semi_ar_sample = sample, refuse
