"""Stands for dLLM: names, signatures and results of what ``integrations/dllm`` meets, its rule written down again."""

from . import core, utils

__all__ = ["core", "utils"]
