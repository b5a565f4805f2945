"""Where Hydra finds the overlays of ``+prism=...``, in the hosts that PRISM knows."""

import sys

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class PrismSearchPath(SearchPathPlugin):
    """Adds the overlays where the program is a known host; any other Hydra program is left as it is.

    Hydra calls it inside ``hydra.main``, after main.py imported its modules, before it reads the overrides. So in
    a program that is no host ``+prism=default`` fails loudly, as does a name without an overlay in one that is.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """See Hydra's SearchPathPlugin."""
        module = sys.modules.get("diffusion")
        if module is None:
            return
        from prism_plugin.integrations import mdlm

        if mdlm.is_host(module):
            from prism_plugin.integrations.mdlm.sample import offer_overlays

            mdlm.switch_on(module.Diffusion)
            offer_overlays()
