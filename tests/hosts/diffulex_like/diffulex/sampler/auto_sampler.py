"""A stand-in of Diffulex's table of samplers."""

from typing import Any, ClassVar


class AutoSampler:
    """By the name of a model, what makes its sampler."""

    SAMPLER_MAPPING: ClassVar[dict[str, Any]] = {}

    @classmethod
    def register(cls, name: str, made: Any, *, use_full_config: bool = False, exist_ok: bool = False) -> None:
        """Put a maker under a name."""
        if name in cls.SAMPLER_MAPPING and not exist_ok:
            raise ValueError(name)
        cls.SAMPLER_MAPPING[name] = (made, use_full_config)

    @classmethod
    def from_config(cls, config: Any) -> Any:
        """The sampler of an engine."""
        made, whole = cls.SAMPLER_MAPPING[config.model_name]
        sampler = made(config) if whole else made()
        sampler.tokenizer_vocab_size = config.tokenizer_vocab_size
        return sampler
