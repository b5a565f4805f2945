"""What a request may hold. What is not listed here is refused, so that nothing is asked for in vain."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

Words = StrictStr | list[StrictStr]
Number = StrictFloat


class Asked(BaseModel):
    """Of every request. ``user`` and ``metadata`` are the client's own and change nothing."""

    model_config = ConfigDict(extra="forbid")

    model: StrictStr | None = Field(None, description="the served model's name, or left out")
    user: Any = None
    metadata: Any = None


class Written(Asked):
    """Of every request for a text that is written."""

    seed: StrictInt | None = Field(None, ge=0, lt=2**32, description="the same seed gives the same text; else drawn")
    temperature: Number | None = Field(None, description="of every draw, 0 takes the likeliest")
    top_p: Number | None = Field(None, description="nucleus of every draw")
    logit_bias: dict[int, Number] | None = Field(None, description="added to the logits of token ids")
    sampler: StrictStr | dict[str, Any] = Field(
        default_factory=dict, description='a preset\'s name, or settings: {"name": "prism", "steps": 32, "tau": 0.3}'
    )
    stream: StrictBool = Field(False, description="server-sent events: what is final, block by block")
    events: StrictBool = Field(False, description="with stream: an event `prism` after every pass, with all changes")


class StreamOptions(BaseModel):
    """Of a stream."""

    model_config = ConfigDict(extra="forbid")

    include_usage: StrictBool = False


class Continued(Written):
    """Of a text that is written behind another."""

    max_tokens: StrictInt | None = Field(None, ge=1, description="tokens to write; else all that fit and are allowed")
    stop: Words | None = Field(None, description="strings that end the text")
    n: StrictInt = Field(1, ge=1, description="texts of each prompt; number i is that of seed + i")
    stream_options: StreamOptions | None = None


class Completion(Continued):
    """``POST /v1/completions``."""

    prompt: Words = Field(description="texts to go on with; for a model of grids, grids")
    suffix: StrictStr | None = Field(None, description="what stands behind the text that is written")
    echo: StrictBool = Field(False, description="whether the prompt comes back before the text")


class Chat(Continued):
    """``POST /v1/chat/completions``."""

    messages: list[dict[str, Any]]
    max_completion_tokens: StrictInt | None = Field(None, ge=1, description="max_tokens by its newer name")


class Infill(Written):
    """``POST /v1/infill``: the holes of a text are written, all else stays."""

    input: StrictStr = Field(description="a text with holes: [MASK] is one token, [MASK*20] twenty")


class Correct(Written):
    """``POST /v1/correct``: the doubtful tokens of a finished text are rewritten."""

    input: StrictStr
    protected: list[StrictInt] = Field(
        default_factory=list, description="numbers of tokens, as /v1/score lists them, that may not be touched"
    )


class Score(Asked):
    """``POST /v1/score``: how likely each token of a text is right, without writing."""

    input: Words
