"""The steps of MDLM and ReMDM-conf and our presets are one law, state by state; the small host stands for them here."""

import pytest

from prism_plugin.sampling.config import SamplerConfig

from .mdlm_law import bound, chi_square, host_states, our_states

ROWS = 20_000


@pytest.mark.parametrize("steps", [1, 2, 6])
@pytest.mark.parametrize(("host", "preset"), [("Diffusion", "mdlm"), ("RemaskingDiffusion", "remdm-conf")])
def test_every_step_of_the_preset_has_the_hosts_law(mdlm_like, host, preset, steps):
    theirs = host_states(getattr(mdlm_like, host), mdlm_like.LogLinear(), ROWS, steps, preset)
    ours = our_states(ROWS, steps, SamplerConfig(preset, steps=steps))
    for first, second in zip(theirs, ours, strict=True):
        statistic, df = chi_square(first, second)
        assert statistic < bound(df), f"chi-square {statistic:.1f} on {df} degrees of freedom"


def test_the_comparison_sees_a_different_law(mdlm_like):
    theirs = host_states(mdlm_like.Diffusion, mdlm_like.LogLinear(), ROWS, 2, "mdlm")
    ours = our_states(ROWS, 2, SamplerConfig("random", steps=2))
    statistic, df = chi_square(theirs[0], ours[0])
    assert statistic > 10 * bound(df)
