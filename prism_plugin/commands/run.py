"""``prism run``: a host's own script with PRISM in it; ``integrations.script`` does it."""

import traceback
import warnings
from dataclasses import dataclass, field, fields
from typing import Annotated

import typer

from ..errors import ConfigError, PrismError
from ..sampling.config import SamplerConfig
from . import Command

HELP = """\
settings (key=value), before SCRIPT:
  head=FOLDER         a trained head; without one the score is self-likelihood
  sampler=NAME        any sampler of `prism info samplers` (prism-llada)
  sampler.KEY=VALUE   any of its numbers and parts; steps, block_length and
                      temperature are those of the script's own calls

SCRIPT is generate.py, chat.py or eval_llada.py of LLaDA or Fast-dLLM, a script
that defines their `generate` or imports it; or one of dLLM's that samples by its
MDLMSampler (examples/llada/sample.py, …). All behind it is the script's.

examples:
  prism run head=heads/llada sampler.num_remask=1 LLaDA/chat.py
  prism run sampler=confidence Fast-dLLM/llada/generate.py
  prism run head=heads/llada dllm/examples/llada/sample.py --steps 64"""

app = typer.Typer()


@dataclass
class RunConfig:
    """Settings of ``prism run``; see ``HELP``."""

    head: str = ""
    sampler: SamplerConfig = field(default_factory=SamplerConfig)


@app.command(
    "run", cls=Command, epilog=HELP, context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False}
)
def run(
    words: Annotated[list[str], typer.Argument(metavar="[key=value]... SCRIPT [ARG]...", show_default=False)],
) -> None:
    """Run a script of LLaDA's, Fast-dLLM's or dLLM's with PRISM in place of its own sampling."""
    from ..config import load

    at = next((number for number, word in enumerate(words) if word.endswith(".py") and "=" not in word), None)
    if at is None:
        raise ConfigError(f"{' '.join(words)}: no SCRIPT, a file whose name ends in .py, behind the settings.")
    config = load(words[:at], RunConfig)
    named = any(word.startswith(("sampler=", "sampler.name=")) for word in words[:at])
    given = {
        f.name: getattr(config.sampler, f.name) for f in fields(SamplerConfig) if f.name not in ("name", "options")
    }
    given = {name: value for name, value in given.items() if value is not None} | config.sampler.options
    for name in ("steps", "block_length", "temperature"):
        if name in given:
            raise ConfigError(f"sampler.{name} is for the script's own call of generate to say; leave it out here.")
    from ..integrations.script import run_script

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            run_script(words[at], words[at + 1 :], config.head, config.sampler.name if named else "", **given)
    except PrismError:
        raise
    except Exception as error:  # the script's own, as Python would show it
        traceback.print_exc()
        raise typer.Exit(1) from error
