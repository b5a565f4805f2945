"""What a server allows; of the standard library alone, so that ``prism serve --help`` needs nothing of the extra."""

from dataclasses import dataclass

from ..errors import ConfigError


@dataclass
class Limits:
    """What a server allows: texts written at a time and in the line, tokens of a text with its prompt (0: the model's
    own length), tokens written, steps, seconds a text, bytes a request. ConfigError for what is out of range.
    """

    slots: int = 8
    queue: int = 64
    max_length: int = 0
    max_tokens: int = 1024
    max_steps: int = 1024
    timeout: float = 600.0
    max_bytes: int = 1_000_000

    def __post_init__(self) -> None:
        least = {"slots": 1, "queue": 1, "max_length": 0, "max_tokens": 1, "max_steps": 1, "max_bytes": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ConfigError(f"{name} = {getattr(self, name)}: allowed {name} >= {low}.")
        if not self.timeout > 0:
            raise ConfigError(f"timeout = {self.timeout}: allowed timeout > 0, in seconds.")
