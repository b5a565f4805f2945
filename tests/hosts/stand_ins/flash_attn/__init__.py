"""The part of flash-attn that MDLM's DiT calls, in plain PyTorch on any device."""

from . import flash_attn_interface
from .layers import rotary

__all__ = ["flash_attn_interface", "rotary"]
