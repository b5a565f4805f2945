from . import eval, samplers, schedulers

__all__ = ["eval", "samplers", "schedulers"]
