"""Where Hydra finds the overlays of ``+prism=...``, in the hosts that PRISM knows."""

import sys

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class PrismSearchPath(SearchPathPlugin):
    """Adds the overlays where the program is a known host; any other Hydra program is left as it is.

    Hydra calls it inside ``hydra.main``, after main.py imported its modules, before it reads the overrides. A name
    without an overlay fails in a host; in a program that is none Hydra would take ``+prism=default`` for a plain value
    and the program would sample its own way, so that is refused here.
    """

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """See Hydra's SearchPathPlugin."""
        from prism_plugin.integrations import mdlm

        module = sys.modules.get("diffusion")
        if not mdlm.is_host(module):
            asked = [word for word in sys.argv[1:] if word.startswith(("+prism=", "++prism="))]
            if asked:
                from prism_plugin.errors import ConfigError

                raise ConfigError(
                    f"{asked[0]}: this program is neither MDLM nor ReMDM, which PRISM can switch its sampler in; it "
                    "would sample its own way. Leave the override out, or use prism_plugin.enable in Python."
                )
        else:
            from prism_plugin.integrations.mdlm.sample import offer_overlays

            mdlm.switch_on(module.Diffusion)
            offer_overlays()
