"""The server: the API of OpenAI for texts, ours for scoring, correcting and filling, and a page to watch it."""

import asyncio
import json
import logging
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from prometheus_client import generate_latest
from starlette.exceptions import HTTPException
from torch import Tensor

from .. import __version__
from ..api import Prism
from ..errors import ConfigError, DataError, PrismError, said, unknown
from ..sampling.config import described, resolve
from ..sampling.presets import presets
from ..sampling.state import lay_out
from ..text import GridCodec, cut, listed, need
from .asked import Chat, Completion, Continued, Correct, Infill, Score, Written
from .engine import Engine, Frame, Refused, Text
from .limits import Limits
from .metrics import Metrics

log = logging.getLogger(__name__)
PAGE = Path(__file__).parents[1] / "assets" / "serve.html"


@dataclass
class Work:
    """One request: its texts, where their frames arrive, and how an answer is made of each."""

    texts: list[Text]
    frames: "asyncio.Queue[Frame]"
    seed: int
    kind: str  # what the API calls such an answer
    stop: list[str] = field(default_factory=list)
    behind: bool = True  # the answer is what was written behind a prompt, else the whole text
    before: list[str] = field(default_factory=list)  # prompts that come back with the text (echo)
    after: str = ""  # and what stands behind it
    id: str = field(default_factory=lambda: uuid.uuid4().hex[:24])
    created: int = field(default_factory=lambda: int(time.time()))


class Server:
    """What the routes of ``create_app`` do."""

    def __init__(self, prism: Prism, name: str, limits: Limits) -> None:
        self.prism, self.name, self.limits, self.metrics = prism, name, limits, Metrics()
        self.codec = need(prism.codec, prism.denoiser)
        self.mask_id, self.grid = prism.denoiser.mask_id, isinstance(self.codec, GridCodec)
        most = prism.denoiser.max_length
        self.length = min(limits.max_length or most, most)
        self.engine: Engine | None = None
        self.paths: set[str] = set()
        self.piece = lru_cache(65536)(lambda token: self.codec.pieces(torch.tensor([token]))[0])

    def start(self) -> None:
        """Begin to serve; the first request may come."""
        limits = self.limits
        self.engine = Engine(
            self.prism.denoiser, self.codec.end_id, limits.slots, limits.queue, limits.timeout, self.metrics
        )
        self.metrics.queued.set_function(lambda: self.engine.queued)
        self.metrics.held.set_function(lambda: self.engine.held)

    # ---- requests as texts

    def refuse_other(self, model: str | None) -> None:
        """Refused where another model is asked for."""
        if model not in (None, self.name):
            raise Refused(404, f"model = {said(model)}: this server has {self.name!r}.")

    def config(self, asked: Written, preset: str | None = None) -> Any:
        """The sampler's settings, resolved. ConfigError for what is unknown, out of range or over the limit."""
        given: dict[str, Any] = {"name": asked.sampler} if isinstance(asked.sampler, str) else dict(asked.sampler)
        name = given.pop("name", preset)
        for key in ("temperature", "top_p", "logit_bias"):
            value = getattr(asked, key)
            if value is not None and key in given:
                raise ConfigError(f"{key} and sampler.{key} are both set: choose one.")
            if value is not None:
                given[key] = value
        if isinstance(given.get("logit_bias"), dict):  # the names of JSON are text
            bias = given["logit_bias"].items()
            given["logit_bias"] = {int(k) if isinstance(k, str) and k.isdecimal() else k: v for k, v in bias}
        config = resolve(self.prism.config(name, **given))
        if config.steps > self.limits.max_steps:
            raise ConfigError(f"sampler.steps = {config.steps}: this server allows at most {self.limits.max_steps}.")
        return config

    def room(self, given: int, new: int) -> None:
        """ConfigError where a text and what is to be written do not fit."""
        if given + new > self.length:
            raise ConfigError(
                f"{given} tokens are given and {new} are to be written: this server allows {self.length} together."
            )
        if new > self.limits.max_tokens:
            raise ConfigError(f"{new} tokens are to be written: this server allows at most {self.limits.max_tokens}.")

    def continued(self, asked: Continued, prompts: list[str], suffix: str | None, kind: str) -> Work:
        """The work of a completion or a chat."""
        new = getattr(asked, "max_completion_tokens", None) or asked.max_tokens
        stop = listed([] if asked.stop is None else asked.stop)
        if not all(stop):
            raise ConfigError("stop: an empty string came; allowed strings with something in them.")
        each = []
        for prompt in prompts:
            if self.grid:
                if new is not None or suffix is not None:
                    raise ConfigError("max_tokens, suffix: a grid is written where it is blank, and nowhere else.")
                each.append(self.codec.encode(prompt, 0))
                continue
            head = self.codec.literal(prompt)
            tail = [] if suffix is None else self.codec.literal(suffix, start=False)
            room = self.length - len(head) - len(tail)
            size = new if new is not None else max(1, min(self.limits.max_tokens, room))
            self.room(len(head) + len(tail), size)
            each.append(torch.tensor([*head, *[self.mask_id] * size, *tail], dtype=torch.long))
        echo = bool(getattr(asked, "echo", False)) and not self.grid
        work = self.work(asked, each, [row == self.mask_id for row in each], self.config(asked), kind, stop, asked.n)
        work.before = [prompt for prompt in prompts for _ in range(asked.n)] if echo else []
        work.after = suffix or "" if echo else ""
        return work

    def infill(self, asked: Infill) -> Work:
        """The work of filling holes."""
        tokens = self.codec.encode(asked.input, 0)
        holes = tokens == self.mask_id
        if not bool(holes.any()):
            raise DataError("input has no hole: [MASK] is one of one token, [MASK*20] one of twenty.")
        self.room(int((~holes).sum()), int(holes.sum()))
        work = self.work(asked, [tokens], [holes], self.config(asked), "infill")
        work.behind = False
        return work

    def correct(self, asked: Correct) -> Work:
        """The work of correcting a finished text."""
        tokens = torch.tensor(self.codec.literal(asked.input), dtype=torch.long)
        self.room(len(tokens), 0)
        free = ~self.codec.special(tokens)
        for number in asked.protected:
            if not 0 <= number < len(tokens):
                raise ConfigError(f"protected: token {number} came; allowed 0 to {len(tokens) - 1} in this text.")
            free[number] = False
        if not bool(free.any()):
            raise DataError("input: there is nothing in it that may be written.")
        work = self.work(asked, [tokens], [free], self.config(asked, "prism-correct"), "correct")
        work.behind = False
        return work

    def work(
        self, asked: Written, each: list[Tensor], free: list[Tensor], config: Any, kind: str, stop: Any = (), n: int = 1
    ) -> Work:
        """Texts in the line. Refused, ConfigError or DataError where they cannot be taken."""
        self.refuse_other(asked.model)
        if len(each) * n > self.limits.queue:
            raise ConfigError(f"{len(each) * n} texts in one request: this server allows {self.limits.queue}.")
        for editable in free:
            if not bool(editable.any()):
                raise DataError("there is nothing to write: no text holds a blank.")
            lay_out(editable[None], config)
        seed = secrets.randbelow(2**32) if asked.seed is None else asked.seed
        ends = (*self.codec.ends, *(self.codec.stop(text) for text in stop)) if kind != "correct" else ()
        frames: asyncio.Queue[Frame] = asyncio.Queue()
        loop = asyncio.get_running_loop()

        def tell(frame: Frame) -> None:
            with suppress(RuntimeError):  # the loop has ended, and whoever listened with it
                loop.call_soon_threadsafe(frames.put_nowait, frame)

        texts = [
            Text(
                tokens, editable, config, (seed + choice) % 2**32, tell, tuple(tuple(end) for end in ends if end),
                watched=asked.stream, index=number * n + choice,
            )
            for number, (tokens, editable) in enumerate(zip(each, free, strict=True))
            for choice in range(n)
        ]  # fmt: skip
        assert self.engine is not None
        self.engine.submit(texts)
        return Work(texts, frames, seed, kind, list(stop))

    # ---- frames as answers

    def read(self, work: Work, frame: Frame, final: int | None = None) -> str:
        """The answer in a frame, or what stands of it in the first ``final`` tokens."""
        text = frame.text
        tokens, given = frame.tokens[:final], text.tokens[:final]
        if work.behind:
            return cut(self.codec.answer(tokens, given == self.mask_id), work.stop)
        written = (given == self.mask_id) if work.kind == "infill" else self.codec.special(given)
        return self.codec.show(tokens, written)

    def choice(self, work: Work, frame: Frame) -> dict[str, Any]:
        """A finished text as a choice of the API."""
        answer = self.read(work, frame)
        reason = "stop" if self.written(work, frame)[1] else "length"
        if work.kind == "chat.completion":
            said_: dict[str, Any] = {"message": {"role": "assistant", "content": answer, "refusal": None}}
        elif work.behind:
            before = work.before[frame.text.index] if work.before else ""
            said_ = {"text": f"{before}{answer}{work.after}"}
        else:
            said_ = {"text": answer}
        return {"index": frame.text.index, **said_, "logprobs": None, "finish_reason": reason}

    def written(self, work: Work, frame: Frame) -> tuple[int, bool]:
        """How many tokens were written before the end, and whether the text came to one of its own."""
        if not work.behind or self.grid:
            return int(frame.text.editable.sum()), True
        ids = frame.tokens[frame.text.tokens == self.mask_id].tolist()
        for place in range(len(ids)):
            if any(tuple(ids[place : place + len(end)]) == end for end in frame.text.stop):
                return place, True
        whole = self.codec.answer(frame.tokens, frame.text.tokens == self.mask_id)
        return len(ids), bool(work.stop) and cut(whole, work.stop) != whole

    def usage(self, work: Work, ended: list[Frame]) -> dict[str, int]:
        """Tokens as the API counts them."""
        given = {}
        for frame in ended:
            given[id(frame.text.tokens)] = int((frame.text.tokens != self.mask_id).sum())
        prompt, written = sum(given.values()), sum(self.written(work, frame)[0] for frame in ended)
        return {"prompt_tokens": prompt, "completion_tokens": written, "total_tokens": prompt + written}

    def cost(self, work: Work, ended: list[Frame]) -> dict[str, Any]:
        """What the texts cost, and what gives them again."""
        return {
            "seed": work.seed,
            "accounts": [frame.account for frame in ended],
            "sampler": work.texts[0].config.settings(),
        }

    def envelope(self, work: Work, kind: str) -> dict[str, Any]:
        """What every answer begins with."""
        short = {"chat.completion": "chatcmpl", "text_completion": "cmpl"}.get(work.kind, work.kind)
        return {"id": f"{short}-{work.id}", "object": kind, "created": work.created, "model": self.name}

    async def answer(self, work: Work, request: Request) -> Response:
        """The whole answer; a client that hangs up before it frees its slots."""
        assert self.engine is not None
        gone = asyncio.ensure_future(_gone(request))
        whole = asyncio.ensure_future(_ended(work))
        try:
            await asyncio.wait({gone, whole}, return_when=asyncio.FIRST_COMPLETED)
            if not whole.done():
                self.metrics.hung_up.inc()
                return Response(status_code=499)
            ended = whole.result()
        finally:
            gone.cancel()
            whole.cancel()
            self.engine.drop(work.texts)
        choices = [self.choice(work, frame) for frame in ended]
        body = self.envelope(work, work.kind) | {"choices": choices}
        if not work.behind:
            body |= {"text": choices[0]["text"], "revisions": self.revisions(ended[0])}
        body |= {"usage": self.usage(work, ended), "prism": self.cost(work, ended)}
        return JSONResponse(body)

    def revisions(self, frame: Frame) -> list[dict[str, Any]]:
        """Where a finished text differs from what was given."""
        changed = (frame.tokens != frame.text.tokens).nonzero()[:, 0].tolist()
        was, now = frame.text.tokens.tolist(), frame.tokens.tolist()
        return [{"token": i, "was": self.shown(was[i]), "text": self.shown(now[i])} for i in changed]

    def shown(self, token: int) -> str | None:
        """The text of a token, None of a mask."""
        return None if token == self.mask_id else self.piece(token)

    async def stream(self, work: Work, events: bool, include_usage: bool) -> AsyncIterator[str]:
        """Server-sent events: data of the API for what is final, ``prism`` for what changes; ``[DONE]`` at the end."""
        assert self.engine is not None
        chat = work.kind == "chat.completion"
        kind = "chat.completion.chunk" if chat else work.kind
        sent = dict.fromkeys((text.index for text in work.texts), "")
        last: dict[int, Tensor] = {}
        ended: list[Frame] = []

        def chunk(index: int, piece: str, reason: str | None = None, **more: Any) -> str:
            said_ = {"delta": {"content": piece, **more} if piece or more else {}} if chat else {"text": piece}
            choice = {"index": index, **said_, "logprobs": None, "finish_reason": reason}
            return _event(self.envelope(work, kind) | {"choices": [choice]})

        whole = False
        try:
            for text in work.texts:
                if chat:
                    yield chunk(text.index, "", role="assistant")
                elif work.before:
                    yield chunk(text.index, work.before[text.index])
            while len(ended) < len(work.texts):
                frame = await work.frames.get()
                index = frame.text.index
                if frame.error is not None:
                    whole = True
                    yield _event(_fault(frame.error)[1])
                    return
                if events:
                    yield _event(self.changes(frame, last), "prism")
                over = frame.account is not None
                answer = ""
                if over:
                    ended.append(frame)
                    answer = self.read(work, frame)
                elif work.behind and not self.grid:
                    answer = _sure(self.read(work, frame, frame.final), work.stop)
                new = answer[len(sent[index]) :] if answer.startswith(sent[index]) else ""
                if new:
                    sent[index] += new
                    yield chunk(index, new)
                if over:
                    reason = self.choice(work, frame)["finish_reason"]
                    yield chunk(index, work.after, reason)
            ended.sort(key=lambda frame: frame.text.index)
            if events:
                yield _event(self.cost(work, ended), "prism")
            if include_usage:
                usage = {"usage": self.usage(work, ended)}
                yield _event(self.envelope(work, kind) | {"choices": []} | usage)
            yield "data: [DONE]\n\n"
            whole = True
        finally:
            self.engine.drop(work.texts)
            if not whole and len(ended) < len(work.texts):
                self.metrics.hung_up.inc()

    def changes(self, frame: Frame, last: dict[int, Tensor]) -> dict[str, Any]:
        """What is different from the frame before; of the first, every piece and whether it may be written."""
        index, tokens = frame.text.index, frame.tokens.tolist()
        about: dict[str, Any] = {"index": index, "step": frame.step, "final": frame.final}
        if index not in last:
            given = frame.text.tokens
            about["pieces"] = [self.shown(token) for token in given.tolist()]
            about["editable"] = frame.text.editable.tolist()
            last[index] = given
        before, was = last[index], last[index].tolist()
        doubted = torch.zeros_like(frame.text.editable) if frame.doubted is None else frame.doubted
        places = ((frame.tokens != before) | doubted).nonzero()[:, 0].tolist()
        about["changes"] = [
            {"token": i, "was": self.shown(was[i]), "text": self.shown(tokens[i]), "doubted": bool(doubted[i])}
            for i in places
        ]
        if frame.quality is not None:
            seen = (before != self.mask_id).tolist()
            rounded = (100 * frame.quality).round().int().tolist()
            about["quality"] = [share if there else None for share, there in zip(rounded, seen, strict=True)]
        if frame.account is not None:
            about["account"] = frame.account
        last[index] = frame.tokens
        return about

    async def score(self, asked: Score) -> dict[str, Any]:
        """The quality of every token of some texts."""
        self.refuse_other(asked.model)
        texts = listed(asked.input)
        for text in texts:
            self.room(len(self.codec.literal(text)), 0)
        if not 0 < len(texts) <= self.limits.queue:
            raise ConfigError(f"{len(texts)} texts in one request: this server allows 1 to {self.limits.queue}.")
        assert self.engine is not None
        found = []
        for first in range(0, len(texts), self.limits.slots):
            some = texts[first : first + self.limits.slots]
            found += await asyncio.wrap_future(self.engine.call(partial(self.prism.score, some)))
        data = [
            {
                "index": number,
                "tokens": [
                    {"text": piece, "quality": None if share != share else round(share, 4)}
                    for piece, share in zip(one.pieces, one.quality.tolist(), strict=True)
                ],
            }
            for number, one in enumerate(found)
        ]
        by = "self-likelihood" if self.prism.denoiser.head is None else "head"
        return {"object": "list", "model": self.name, "score": by, "data": data}

    def about(self) -> dict[str, Any]:
        """The model as ``/v1/models`` lists it."""
        limits: dict[str, float] = {
            "max_length": self.length,
            "max_tokens": self.limits.max_tokens,
            "max_steps": self.limits.max_steps,
        }
        limits |= {"slots": self.limits.slots, "queue": self.limits.queue, "timeout": self.limits.timeout}
        side = self.codec.task.grid if isinstance(self.codec, GridCodec) else 0
        own = {"limits": limits, "grid": side, "head": self.prism.denoiser.head is not None, "version": __version__}
        own |= {"sampler": self.prism.settings}
        return {"id": self.name, "object": "model", "created": 0, "owned_by": "prism", "prism": own}

    def samplers(self) -> dict[str, Any]:
        """Every preset that this model can run, with its settings."""
        found = []
        for name in presets:
            try:
                config = self.prism.config(name)
            except PrismError:
                continue
            settings = [
                {"key": o.key if not o.part else o.spelled, "value": o.value, "allowed": o.allowed, "line": o.line}
                for o in described(config)
            ]
            found.append({"name": name, "settings": settings})
        return {"object": "list", "default": self.prism.settings["name"], "data": found}


def create_app(prism: Prism, name: str, limits: Limits | None = None) -> FastAPI:
    """The server of a model that ``enable`` made ready, under a name. ConfigError where it has no tokenizer."""
    server = Server(prism, name, limits or Limits())

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        server.start()
        yield
        assert server.engine is not None
        await asyncio.to_thread(server.engine.close)

    app = FastAPI(title="prism", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(Door, server=server)

    async def fault(request: Request, error: Exception) -> Response:
        status, body = _fault(error)
        return JSONResponse(body, status, {"Retry-After": "1"} if status in (429, 503) else None)

    for kind in (PrismError, RequestValidationError, HTTPException):
        app.add_exception_handler(kind, fault)

    async def reply(work: Work, asked: Written, request: Request) -> Response:
        if not asked.stream:
            return await server.answer(work, request)
        options = getattr(asked, "stream_options", None)
        stream = server.stream(work, asked.events, options is not None and options.include_usage)
        return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    @app.post("/v1/completions")
    async def completions(asked: Completion, request: Request) -> Response:
        prompts = listed(asked.prompt)
        if not prompts:
            raise ConfigError("prompt: no text came; allowed a string, or a list of one or more.")
        return await reply(server.continued(asked, prompts, asked.suffix, "text_completion"), asked, request)

    @app.post("/v1/chat/completions")
    async def chat(asked: Chat, request: Request) -> Response:
        prompt = server.codec.chat(asked.messages)
        return await reply(server.continued(asked, [prompt], None, "chat.completion"), asked, request)

    @app.post("/v1/infill")
    async def infill(asked: Infill, request: Request) -> Response:
        return await reply(server.infill(asked), asked, request)

    @app.post("/v1/correct")
    async def correct(asked: Correct, request: Request) -> Response:
        return await reply(server.correct(asked), asked, request)

    @app.post("/v1/score")
    async def score(asked: Score) -> dict[str, Any]:
        return await server.score(asked)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [server.about()]}

    @app.get("/v1/samplers")
    async def samplers() -> dict[str, Any]:
        return server.samplers()

    @app.get("/health")
    async def health() -> Response:
        well = server.engine is not None and server.engine.thread.is_alive() and not server.engine.closing
        return JSONResponse({"status": "ok" if well else "ending", "model": name}, 200 if well else 503)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(generate_latest(server.metrics.registry), media_type="text/plain; version=0.0.4")

    @app.get("/")
    async def page() -> Response:
        return HTMLResponse(PAGE.read_text(encoding="utf-8"))

    server.paths = {route.path for route in app.routes if hasattr(route, "path")}
    return app


class Door:
    """Reads what comes, refuses what is too long, and counts the answers and their seconds."""

    def __init__(self, app: Any, server: Server) -> None:
        self.app, self.server = app, server

    async def __call__(self, scope: Any, receive: Callable, send: Callable) -> None:
        """See the class."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        most, started, status = self.server.limits.max_bytes, time.perf_counter(), 0
        body, more = b"", True
        while more and len(body) <= most:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        waiting = [{"type": "http.request", "body": body, "more_body": False}]

        async def given() -> Any:
            return waiting.pop() if waiting else await receive()

        async def sent(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            if len(body) > most:
                error = Refused(413, f"the request is longer than {most} bytes, the most that this server allows.")
                await JSONResponse(_fault(error)[1], error.status)(scope, receive, sent)
            else:
                await self.app(scope, given, sent)
        finally:
            path = scope["path"] if scope["path"] in self.server.paths else "other"
            self.server.metrics.requests.labels(path, str(status or 499)).inc()
            self.server.metrics.seconds.labels(path).observe(time.perf_counter() - started)


def _fault(error: Exception) -> tuple[int, dict[str, Any]]:
    """HTTP's status of an error, and what the API says of it."""
    status, message = 500, "the model failed; the server's log says more."
    if isinstance(error, RequestValidationError):
        status, message = 400, " ".join(map(_invalid, error.errors()[:3]))
    elif isinstance(error, HTTPException):
        status, message = error.status_code, f"{error.detail}: GET /openapi.json lists what this server answers."
    elif isinstance(error, Refused):
        status, message = error.status, str(error)
    elif isinstance(error, PrismError):
        status, message = 400, str(error)
    else:
        log.error("a text failed", exc_info=error)
    kind = "server_error" if status >= 500 else "rate_limit_error" if status == 429 else "invalid_request_error"
    return status, {"error": {"message": message, "type": kind, "param": None, "code": status}}


FIELDS = {name for kind in (Completion, Chat, Infill, Correct, Score) for name in kind.model_fields}


def _invalid(fault: dict[str, Any]) -> str:
    """A fault of a field in one line: what came, what is allowed."""
    where = ".".join(str(part) for part in fault["loc"] if part != "body")
    if fault["type"] == "extra_forbidden":
        return str(unknown("field", where, FIELDS))
    if fault["type"] == "json_invalid":
        return f"the body is no JSON: {fault['ctx']['error']} at character {where}."
    if fault["type"] == "missing":
        return f"{where or 'the body'} is missing."
    return f"{where or 'the body'} = {said(fault.get('input'))}: {fault['msg']}."


def _event(content: dict[str, Any], name: str = "") -> str:
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(content, ensure_ascii=False)}\n\n"


def _sure(text: str, stop: list[str]) -> str:
    """A text without what more tokens could change: half a character, or the beginning of a stop string."""
    text = text.rstrip("\ufffd")
    most = max((size for one in stop for size in range(1, len(one)) if text.endswith(one[:size])), default=0)
    return text[: len(text) - most]


async def _ended(work: Work) -> list[Frame]:
    """The last frames of all texts, in order; raises what one has come to grief by."""
    ended: list[Frame] = []
    while len(ended) < len(work.texts):
        frame = await work.frames.get()
        if frame.error is not None:
            status, body = _fault(frame.error)
            raise Refused(status, body["error"]["message"])
        if frame.account is not None:
            ended.append(frame)
    return sorted(ended, key=lambda frame: frame.text.index)


async def _gone(request: Request) -> None:
    """Until the client has hung up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
