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


def compare(diffusion, steps, sampler, preset):
    import noise_schedule

    theirs = host_states(diffusion.Diffusion, noise_schedule.LogLinearNoise(), ROWS, steps, sampler)
    ours = our_states(ROWS, steps, SamplerConfig(preset, steps=steps))
    for step, (first, second) in enumerate(zip(theirs, ours, strict=True)):
        statistic, df = chi_square(first, second)
        print(f"{sampler} T={steps} step {step + 1}: chi-square {statistic:.1f}, df {df}, bound {bound(df):.1f}")
        assert statistic < bound(df)


@pytest.mark.parametrize("steps", [1, 2, 4, 8])
def test_ddpm_cache_and_our_mdlm_draw_the_same_texts(diffusion, steps):
    compare(diffusion, steps, "mdlm", "mdlm")


@pytest.mark.parametrize("steps", [2, 4, 8])
def test_remdm_conf_and_our_preset_draw_the_same_texts(diffusion, steps):
    if not mdlm.is_remdm(diffusion.Diffusion):
        pytest.skip("MDLM has no remasking sampler")
    compare(diffusion, steps, "remdm-conf", "remdm-conf")
