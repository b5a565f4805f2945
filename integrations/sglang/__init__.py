"""SGLang's runtime for diffusion language models: ``--dllm-algorithm Prism``. See README.md.

``register`` is the entry point of the group ``sglang.srt.plugins``; nothing of SGLang is imported before it is called.
"""


def register() -> None:
    """Put the algorithm into the runtime's table, under its class name."""
    from sglang.srt.dllm import algorithm

    from .algorithm import Prism

    algorithm.algo_name_to_cls[Prism.__name__] = Prism
