"""The server's answers, by the embedded models: what the API says, what is refused, streams, pages and figures."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import torch

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")
pytest.importorskip("httpx", reason="httpx, which FastAPI's test client needs, is not installed")

from fastapi.testclient import TestClient

from prism_plugin import enable
from prism_plugin.serving.app import Limits, create_app

BLOCKS = {"name": "prism", "block_length": 8, "steps": 48, "guard": "none", "num_remask": 1}
PROMPT = "def read(path):\n"


@pytest.fixture(scope="module")
def prism():
    return enable("code", steps=8)


@pytest.fixture(scope="module")
def client(prism) -> Iterator[TestClient]:
    with TestClient(create_app(prism, "code", Limits(slots=4, queue=8, max_steps=64))) as client:
        yield client


def stream(client: TestClient, path: str, **body: Any) -> list[tuple[str, Any]]:
    """Events by their names, "" for those of the API."""
    found = []
    with client.stream("POST", path, json={**body, "stream": True}) as answer:
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
        for event in answer.read().decode().strip().split("\n\n"):
            *head, data = event.split("\n")
            data = data.removeprefix("data: ")
            name = head[0].removeprefix("event: ") if head else ""
            found.append((name, data if data == "[DONE]" else json.loads(data)))
    assert found[-1] == ("", "[DONE]")
    return found[:-1]


def test_a_completion_is_what_generate_gives(client: TestClient, prism) -> None:
    body = {"model": "code", "prompt": PROMPT, "max_tokens": 24, "seed": 5, "n": 3, "stop": "("}
    answer = client.post("/v1/completions", json=body).json()
    wanted = prism.generate([PROMPT] * 3, max_new_tokens=24, stop="(", request=torch.tensor([5, 6, 7]))
    whole = prism.generate([PROMPT] * 3, max_new_tokens=24, request=torch.tensor([5, 6, 7])).texts
    assert [choice["text"] for choice in answer["choices"]] == wanted.texts
    reasons = ["stop" if "(" in text else "length" for text in whole]
    assert [choice["finish_reason"] for choice in answer["choices"]] == reasons
    assert answer["object"] == "text_completion" and answer["prism"]["seed"] == 5
    assert answer["usage"]["completion_tokens"] == 72 and answer["usage"]["prompt_tokens"] == 6
    assert answer["prism"]["accounts"][0]["remasked"] == int(wanted.remasked[0])


def test_a_seed_that_was_drawn_gives_the_text_again(client: TestClient) -> None:
    first = client.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 24}).json()
    again = {"prompt": ["x = ", PROMPT], "max_tokens": 24, "seed": first["prism"]["seed"]}
    assert client.post("/v1/completions", json=again).json()["choices"][1]["text"] == first["choices"][0]["text"]


def test_a_stream_sends_what_is_final_block_by_block_and_every_change(client: TestClient) -> None:
    body = {"prompt": PROMPT, "max_tokens": 32, "seed": 1, "sampler": BLOCKS}
    plain = client.post("/v1/completions", json=body).json()["choices"][0]["text"]
    events = stream(client, "/v1/completions", **body, events=True, stream_options={"include_usage": True})
    chunks = [data for name, data in events if not name and data["choices"]]
    pieces = [chunk["choices"][0]["text"] for chunk in chunks]
    assert "".join(pieces) == plain and sum(map(bool, pieces)) == 4
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 4 + ["length"]
    assert events[-1][1]["usage"]["completion_tokens"] == 32

    changes = [data for name, data in events if name == "prism" and "changes" in data]
    text = list(changes[0]["pieces"])
    doubted = 0
    for one in changes:
        for change in one["changes"]:
            assert text[change["token"]] == change["was"] or change["doubted"]
            text[change["token"]] = change["text"]
            doubted += change["doubted"]
        for place, piece in enumerate(text[: one["final"]]):
            assert piece is not None, place
    assert "".join(text) == PROMPT + plain
    assert doubted == changes[-1]["account"]["remasked"] > 0
    assert any("quality" in one for one in changes)
    assert events[-2][1]["seed"] == 1


def test_without_events_a_stream_holds_what_any_client_of_the_api_knows(client: TestClient) -> None:
    events = stream(client, "/v1/completions", prompt=[PROMPT, "x = "], max_tokens=8, n=2, seed=2)
    assert {name for name, _ in events} == {""}
    texts = dict.fromkeys(range(4), "")
    for _, data in events:
        texts[data["choices"][0]["index"]] += data["choices"][0]["text"]
    body = {"prompt": [PROMPT, "x = "], "max_tokens": 8, "n": 2, "seed": 2}
    plain = client.post("/v1/completions", json=body).json()["choices"]
    assert list(texts.values()) == [choice["text"] for choice in plain]


def test_a_stop_string_that_two_blocks_share_is_never_sent(client: TestClient) -> None:
    body = {"prompt": PROMPT, "max_tokens": 32, "sampler": {"block_length": 4, "steps": 16}}
    for seed in range(4):
        plain = client.post("/v1/completions", json={**body, "seed": seed}).json()["choices"][0]["text"]
        stop = plain[10:14]
        events = stream(client, "/v1/completions", **body, seed=seed, stop=stop)
        assert "".join(data["choices"][0]["text"] for _, data in events) == plain.split(stop)[0]
        assert events[-1][1]["choices"][0]["finish_reason"] == "stop"


def test_suffix_and_echo(client: TestClient) -> None:
    body = {"prompt": "def f(", "suffix": "    return y\n", "max_tokens": 12, "seed": 3, "echo": True}
    text = client.post("/v1/completions", json=body).json()["choices"][0]["text"]
    assert text.startswith("def f(") and text.endswith("    return y\n")
    echoed = stream(client, "/v1/completions", **body)
    assert "".join(data["choices"][0]["text"] for _, data in echoed) == text


def test_infill_correct_and_score_are_those_of_the_api_in_python(client: TestClient, prism) -> None:
    holes = "def add(a, b):\n    return[MASK*4]\n"
    answer = client.post("/v1/infill", json={"input": holes, "seed": 0}).json()
    assert answer["text"] == prism.infill(holes).texts[0] and len(answer["revisions"]) == 4

    wrong = "def first(items):\n    for item on items:\n        return itme\n"
    answer = client.post("/v1/correct", json={"input": wrong, "seed": 0, "sampler": {"tau": 0.3}}).json()
    assert answer["text"] == prism.correct(wrong, tau=0.3).texts[0] != wrong
    assert {(one["was"] is None, one["text"] is None) for one in answer["revisions"]} == {(False, False)}
    kept = list(range(len(prism.score(wrong).pieces)))[:-1]
    answer = client.post("/v1/correct", json={"input": wrong, "protected": kept, "sampler": {"tau": 0.3}}).json()
    assert all(one["token"] not in kept for one in answer["revisions"])

    answer = client.post("/v1/score", json={"input": [wrong, "x = 1\n"]}).json()
    for text, found in zip([wrong, "x = 1\n"], answer["data"], strict=True):
        judged = prism.score(text)
        assert [one["text"] for one in found["tokens"]] == judged.pieces
        assert [one["quality"] for one in found["tokens"]] == pytest.approx(judged.quality.tolist(), abs=1e-3)
    events = stream(client, "/v1/correct", input=wrong, seed=0, sampler={"tau": 0.3})
    assert events[0][1]["choices"][0]["text"] == prism.correct(wrong, tau=0.3).texts[0]


REFUSED = [
    ("/v1/completions", {"prompt": "x", "max_tokens": 1000}, 400, "this server allows 128 together"),
    ("/v1/completions", {"prompt": "x", "sampler": {"stps": 3}}, 400, "Nearest: sampler.steps"),
    ("/v1/completions", {"prompt": "x", "sampler": {"steps": 65}}, 400, "allows at most 64"),
    ("/v1/completions", {"prompt": "x", "sampler": "prsm"}, 400, "Nearest: prism"),
    ("/v1/completions", {"prompt": "x", "sampler": {"temperature": 1}, "temperature": 0}, 400, "choose one"),
    ("/v1/completions", {"prompt": "x", "temperature": -1}, 400, "sampler.temperature = -1"),
    ("/v1/completions", {"prompt": "x", "temperature": "hot"}, 400, "temperature = 'hot'"),
    ("/v1/completions", {"prompt": "x", "n": 9}, 400, "9 texts in one request: this server allows 8"),
    ("/v1/completions", {"prompt": [], "n": 1}, 400, "one or more"),
    ("/v1/completions", {"prompt": "x", "stop": ""}, 400, "an empty string"),
    ("/v1/completions", {"prompt": "x", "seed": -1}, 400, "seed = -1"),
    ("/v1/completions", {"prompt": "x", "sampler": {"block_length": 1, "steps": 4}}, 400, "every block needs a step"),
    ("/v1/completions", {"promt": "x"}, 400, "Nearest: prompt"),
    ("/v1/completions", {"prompt": "x", "logprobs": 3}, 400, "'logprobs' is not known"),
    ("/v1/completions", {"prompt": "é"}, 400, "is not known to task 'code'"),
    ("/v1/completions", {"prompt": "x", "model": "gpt"}, 404, "this server has 'code'"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "hi"}]}, 400, "chat template"),
    ("/v1/infill", {"input": "no hole"}, 400, "[MASK*20]"),
    ("/v1/correct", {"input": "x", "protected": [7]}, 400, "allowed 0 to 0"),
    ("/v1/correct", {"input": ""}, 400, "nothing in it"),
    ("/v1/score", {"input": ["x"] * 9}, 400, "allows 1 to 8"),
    ("/v1/nothing", {}, 404, "/openapi.json"),
]


@pytest.mark.parametrize("path, body, status, said", REFUSED)
def test_what_cannot_be_is_refused(client: TestClient, path: str, body: Any, status: int, said: str) -> None:
    answer = client.post(path, json=body)
    assert answer.status_code == status
    message = answer.json()["error"]["message"]
    assert said in message and "\n" not in message


def test_a_body_that_is_no_json_or_too_long(client: TestClient) -> None:
    answer = client.post("/v1/completions", content="{", headers={"content-type": "application/json"})
    assert answer.status_code == 400 and "no JSON" in answer.json()["error"]["message"]
    answer = client.post("/v1/completions", content="x" * 1_000_001)
    assert answer.status_code == 413 and "1000000 bytes" in answer.json()["error"]["message"]


def test_models_samplers_health_metrics_and_the_page(client: TestClient) -> None:
    about = client.get("/v1/models").json()["data"][0]
    assert about["id"] == "code" and about["prism"]["limits"]["max_length"] == 128
    listed = {one["name"]: one["settings"] for one in client.get("/v1/samplers").json()["data"]}
    assert {"prism", "prism-correct", "mdlm"} <= set(listed) and "uniform" not in listed
    assert {one["key"] for one in listed["prism-correct"]} >= {"steps", "temperature", "select.tau"}
    assert client.get("/health").json() == {"status": "ok", "model": "code"}
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert not any(outside in page.text for outside in ("http://", "https://", "src=", "@import"))

    def figures() -> dict[str, float]:
        lines = client.get("/metrics").text.splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

    before = figures()
    client.post("/v1/completions", json={"prompt": PROMPT, "max_tokens": 24, "seed": 1})
    after = figures()
    grown = {name: after[name] - before.get(name, 0.0) for name in after}
    assert grown['prism_requests_total{path="/v1/completions",status="200"}'] == 1
    assert grown["prism_forward_passes_total"] == grown["prism_forward_rows_total"] == 8
    assert grown['prism_tokens_total{kind="fills"}'] == 24 + grown['prism_tokens_total{kind="remasked"}']
    assert after["prism_held_slots"] == after["prism_queued_texts"] == 0


@pytest.fixture(scope="module")
def talker():
    """The model of code with its vocabulary as a tokenizer that has a chat template; a turn ends with ``~``."""
    from transformers import PreTrainedTokenizerFast

    from prism_plugin.tasks import get_task

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=get_task("code").tokenizer,
        mask_token="[MASK]",
        eos_token="~",
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}~{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    return enable("code", tokenizer=tokenizer, steps=8)


def test_a_chat(talker) -> None:
    said = [{"role": "user", "content": "read"}]
    body = {"messages": said, "max_completion_tokens": 24, "seed": 3, "sampler": {"block_length": 6}}
    with TestClient(create_app(talker, "talker")) as client:
        answer = client.post("/v1/chat/completions", json=body).json()
        wanted = talker.generate(said, max_new_tokens=24, block_length=6, request=torch.tensor([3])).texts[0]
        assert answer["choices"][0]["message"]["content"] == wanted
        assert answer["object"] == "chat.completion" and answer["choices"][0]["finish_reason"] in ("stop", "length")
        events = stream(client, "/v1/chat/completions", **body)
        deltas = [data["choices"][0]["delta"] for _, data in events]
        assert deltas[0]["role"] == "assistant" and deltas[-1] == {}
        assert "".join(delta.get("content", "") for delta in deltas) == wanted
        assert events[0][1]["object"] == "chat.completion.chunk"


def test_a_text_that_comes_to_its_end_is_stopped_there(talker) -> None:
    end = str(talker.codec.tokenizer.eos_token_id)
    blocks = {"block_length": 6}
    with TestClient(create_app(talker, "talker")) as client:
        for seed in range(3):
            body = {"prompt": "x", "max_tokens": 24, "seed": seed, "sampler": blocks, "logit_bias": {end: 16.0}}
            answer = client.post("/v1/completions", json=body).json()
            choice, written = answer["choices"][0], answer["usage"]["completion_tokens"]
            assert choice["finish_reason"] == "stop" and "~" not in choice["text"] and written < 24
            events = stream(client, "/v1/completions", **body)
            assert "".join(data["choices"][0]["text"] for _, data in events) == choice["text"]
            body |= {"sampler": {**blocks, "logit_bias": {end: 16.0}}, "logit_bias": None}
            assert client.post("/v1/completions", json=body).json()["choices"][0] == choice


def test_a_grid() -> None:
    grid = "1" + "." * 8 + "\n" + 8 * ("." * 9 + "\n")
    prism = enable("sudoku", steps=4)
    with TestClient(create_app(prism, "grids")) as client:
        answer = client.post("/v1/completions", json={"prompt": grid, "seed": 4}).json()
        wanted = prism.generate(grid, request=torch.tensor([4])).texts[0]
        assert answer["choices"][0]["text"] == wanted and wanted.startswith("1")
        refused = client.post("/v1/completions", json={"prompt": grid, "max_tokens": 3})
        assert refused.status_code == 400 and "grid" in refused.json()["error"]["message"]
        assert client.get("/v1/models").json()["data"][0]["prism"]["grid"] == 3
