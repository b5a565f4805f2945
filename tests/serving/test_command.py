"""``prism serve`` as a process: it says where it listens, and ends what it has begun when SIGTERM comes."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from prism_plugin.cli import main

BODY = {"prompt": "def read(path):\n", "max_tokens": 64, "sampler": {"steps": 64}}


@pytest.fixture
def server() -> Iterator[tuple[subprocess.Popen, str]]:
    command = [sys.executable, "-m", "prism_plugin", "serve", "model=code", "port=0", "slots=2", "--quiet"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    line = process.stdout.readline()
    found = re.fullmatch(r"Serving code: (http://127\.0\.0\.1:\d+)\n", line)
    assert found, line + process.stdout.read()
    yield process, found[1]
    process.kill()
    process.wait()


def ask(url: str, body: dict) -> bytes:
    head = {"content-type": "application/json"}
    request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode(), head)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return answer.read()


def figure(url: str, name: str) -> float:
    with urllib.request.urlopen(f"{url}/metrics", timeout=60) as answer:
        return float(re.search(rf"^{name} (\S+)$", answer.read().decode(), re.MULTILINE)[1])


def until(url: str, name: str, wanted: float) -> None:
    end = time.monotonic() + 60
    while figure(url, name) != wanted:
        assert time.monotonic() < end, name
        time.sleep(0.02)


def test_sigterm_ends_what_was_begun_and_a_client_that_hangs_up_frees_its_slot(server: tuple) -> None:
    process, url = server
    assert ask(url, {**BODY, "sampler": {"steps": 2}})
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as client:
        body = json.dumps({**BODY, "stream": True, "sampler": {"steps": 1024}}).encode()
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
                       b"content-length: %d\r\n\r\n" % len(body) + body)  # fmt: skip
        until(url, "prism_held_slots", 1.0)
    until(url, "prism_held_slots", 0.0)
    assert figure(url, "prism_hung_up_total") == 1

    answers: list[bytes] = []

    def one(seed: int) -> None:
        answers.append(ask(url, {**BODY, "seed": seed, "stream": seed == 1}))

    clients = [threading.Thread(target=one, args=[seed]) for seed in range(4)]
    for client in clients:
        client.start()
    until(url, "prism_held_slots", 2.0)
    process.send_signal(signal.SIGTERM)
    for client in clients:
        client.join(timeout=60)
    assert process.wait(timeout=60) == 0
    assert process.stdout.read() == ""
    assert len(answers) == 4
    for answer in answers:
        assert answer.endswith(b"[DONE]\n\n") or json.loads(answer)["choices"][0]["text"]


@pytest.mark.parametrize("given, said", [
    ("slots=0", "slots = 0: allowed slots >= 1."),
    ("port=70000", "port = 70000: allowed 0 <= port <= 65535."),
    ("timeout=0", "allowed timeout > 0"),
    ("dtype=float33 port=0", "dtype = 'float33': allowed"),
    ("sampler.stps=1", "Nearest: sampler.steps"),
    ("prt=1", "Nearest: port"),
])  # fmt: skip
def test_settings_that_cannot_be(given: str, said: str, capsys: pytest.CaptureFixture) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        assert main(["serve", *given.split()]) == 2
    finally:
        signal.signal(signal.SIGTERM, before)
    assert said in capsys.readouterr().err
