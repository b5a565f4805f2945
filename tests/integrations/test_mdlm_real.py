"""MDLM and ReMDM themselves: checkouts named by PRISM_HOST_MDLM and PRISM_HOST_REMDM, nothing of them edited.

    export PYTHONPATH=tests/hosts/stand_ins PRISM_HOST_MDLM=… PRISM_HOST_REMDM=…
    pytest -m real_host tests/integrations/test_mdlm_real.py

in an environment with the hosts' requirements (tests/hosts/stand_ins/README.md). `integrations/mdlm/run_real_host.sh`
trains, trains a head and samples on the host's command line.
"""

import os
from pathlib import Path

import pytest

from prism_plugin.integrations import mdlm
from prism_plugin.sampling.config import SamplerConfig

from .conftest import imported
from .mdlm_law import bound, chi_square, host_states, our_states

pytestmark = pytest.mark.real_host
ROWS = 100_000


@pytest.fixture(scope="module", params=["MDLM", "REMDM"])
def diffusion(request):
    """The module ``diffusion`` of a checkout."""
    folder = os.environ.get(f"PRISM_HOST_{request.param}")
    if not folder:
        pytest.skip(f"PRISM_HOST_{request.param} names no checkout")
    with imported(Path(folder)) as module:
        assert mdlm.is_host(module)
        assert mdlm.is_remdm(module.Diffusion) == (request.param == "REMDM")
        yield module


def compare(diffusion, steps, preset, host=None, ours=None, until=None):
    """Laws after every step (up to ``until``): the host's sampler of that name against our preset."""
    import noise_schedule

    theirs = host_states(diffusion.Diffusion, noise_schedule.LogLinearNoise(), ROWS, steps, preset, **(host or {}))
    seen = our_states(ROWS, steps, SamplerConfig(preset, steps=steps, **(ours or {})))
    for step, (first, second) in enumerate(zip(theirs[:until], seen[:until], strict=True)):
        statistic, df = chi_square(first, second)
        print(f"{preset} T={steps} step {step + 1}: chi-square {statistic:.1f}, df {df}, bound {bound(df):.1f}")
        assert statistic < bound(df)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_ddpm_cache_and_our_mdlm_draw_the_same_texts(diffusion, steps):
    compare(diffusion, steps, "mdlm")


@pytest.fixture
def remdm(diffusion):
    if not mdlm.is_remdm(diffusion.Diffusion):
        pytest.skip("MDLM has no remasking sampler")
    return diffusion


@pytest.mark.parametrize("steps", [2, 4, 8])
@pytest.mark.parametrize(("preset", "eta"), [("remdm-conf", 0.0), ("remdm-cap", 0.2), ("remdm-rescale", 0.5)])
def test_remdm_and_our_presets_draw_the_same_texts(remdm, preset, eta, steps):
    compare(remdm, steps, preset, host={"eta": eta}, ours={"eta": eta} if eta else None)  # conf has none


def test_remdm_loop_and_our_preset_draw_the_same_texts(remdm):
    # The host's grid ends at 1e-5, so that its times lie a little above ours: its bounds are set as far above.
    host = {"eta": 0.1, "t_on": 0.50001, "t_off": 0.25001, "alpha_on": 0.9}
    compare(remdm, 8, "remdm-loop", host, {"eta": 0.1, "loop_on": 0.5, "loop_off": 0.75, "alpha_on": 0.9})


def test_forward_backward_agrees_where_the_published_rule_stays_a_probability(remdm):
    compare(remdm, 8, "forward-backward", until=7)  # in the last step a weight of the published code is negative
