"""``prism serve``: a model behind the API of OpenAI, and a page on which a text is watched while it is written."""

import signal
import socket
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Optional

import typer

from ..errors import ConfigError
from ..sampling.config import SamplerConfig
from ..serving.limits import Limits
from . import Command, Settings, console

HELP = """\
settings (key=value):
  model=code          embedded model, folder of `prism train`, or a host's model
  head=FOLDER         a quality head trained for it
  name=NAME           what clients call the model; by default as given
  sampler=NAME        what requests start from, by default what suits the head;
                      sampler.steps=32 … its settings
  host=127.0.0.1 port=8000        where to listen; 0 takes a free port
  slots=8             texts written at a time; all others wait
  queue=64            texts that may wait; whoever comes then is told so (429)
  max_tokens=1024 max_steps=1024  the most that a request may ask for
  max_length=0        of a text with its prompt; 0 is the model's own
  timeout=600         seconds a text, waiting included
  max_bytes=1000000   of a request
  drain=60            seconds for what is being written when SIGTERM comes
  device=cuda dtype=bfloat16      of a model that is named
  cache=prefix        keep keys and values (backbones of ours)
  trust_remote_code=true          code that a host's checkpoint brings may run

examples:
  prism serve model=code
  prism serve model=runs/prism sampler.block_length=32 port=8080 slots=16
  curl localhost:8000/v1/completions -H 'content-type: application/json' \\
    -d '{"prompt": "def read(path):\\n", "max_tokens": 48, "seed": 1}'"""

app = typer.Typer()


@dataclass
class ServeConfig(Limits):
    """Settings of ``prism serve``: the server's limits, and where and with what it runs; see ``HELP``."""

    model: str = "code"
    head: str = ""
    name: str = ""
    host: str = "127.0.0.1"
    port: int = 8000
    drain: int = 60
    device: str = ""
    dtype: str = ""
    cache: str = "none"
    trust_remote_code: bool = False
    mask_id: Optional[int] = None
    sampler: SamplerConfig = field(default_factory=SamplerConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.port <= 65535:
            raise ConfigError(f"port = {self.port}: allowed 0 <= port <= 65535.")
        if self.drain < 0:
            raise ConfigError(f"drain = {self.drain}: allowed drain >= 0, in seconds.")


@app.command("serve", cls=Command, epilog=HELP)
def serve(settings: Settings = None) -> None:
    """Serve a model: OpenAI's API, scores and corrections, and a page to watch it."""
    from ..config import load, names_sampler
    from ..sampling.config import resolve

    config = load(settings or (), ServeConfig)
    own = not names_sampler(settings or ())
    if not own:
        resolve(config.sampler)  # before anything is loaded
    missing = [name for name in ("fastapi", "uvicorn", "prometheus_client") if find_spec(name) is None]
    if missing:
        raise ConfigError(f"prism serve needs {', '.join(missing)}: pip install 'prism-plugin[serve]'.")
    import uvicorn

    from ..serving.app import create_app

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # before the server listens, and after it has drained
    try:
        listening = socket.create_server((config.host, config.port))
    except OSError as error:
        reason = str(error.strerror).split(" (")[0]
        raise ConfigError(f"host = {config.host}, port = {config.port}: {reason}; port=0 takes a free one.") from error
    prism = _enabled(config, own)
    if prism.codec is None:
        raise ConfigError(f"model = {config.model!r} has no tokenizer, and a server is asked for text.")
    served = create_app(prism, config.name or config.model, config)
    host, port = listening.getsockname()[:2]
    console.result(f"Serving {config.name or config.model}: http://{host}:{port}")
    sys.stdout.flush()
    running = uvicorn.Config(
        served, log_level="error" if console.silent else "info", access_log=False, lifespan="on",
        timeout_graceful_shutdown=config.drain, server_header=False,
    )  # fmt: skip
    uvicorn.Server(running).run(sockets=[listening])


def _enabled(config: ServeConfig, own: bool) -> Any:
    """The model, with its ``own`` preset or the one that is named."""
    import torch

    from ..api import enable

    dtype = getattr(torch, config.dtype, None) if config.dtype else None
    if config.dtype and not isinstance(dtype, torch.dtype):
        raise ConfigError(f"dtype = {config.dtype!r}: allowed float32, bfloat16, float16.")
    given = config.sampler.settings()
    name = given.pop("name")
    return enable(
        config.model, head=config.head or None, mask_id=config.mask_id, dtype=dtype, device=config.device or None,
        trust_remote_code=config.trust_remote_code, cache=config.cache, sampler=None if own else name, **given,
    )  # fmt: skip
