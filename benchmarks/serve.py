"""``prism serve`` under load, on loopback: how long clients wait, who is lost, and how it ends.

    python benchmarks/serve.py [--quick] [--model NAME] [--slots N] [--threads N] [--json FILE] [--plot FILE]

A server in a process of its own; clients, each with one request at a time, in this one. Three parts:
  load      1 to 64 clients: texts a second, latency in seconds (median, 90%, 99%, most), mean rows of a forward pass;
            beside it the same texts by ``Prism.generate`` in the server's stead, so that what the server costs is seen
  hang-ups  of 32 streams every second one is cut after its first event: all others must come whole, and be what they
            were when nobody hung up, where products of another batch size round alike; the slots must be free again
  SIGTERM   with 24 requests under way: all must be answered, and the server leave with 0
Exits with 1 where a request is lost.
"""

import argparse
import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import torch

from prism_plugin import enable
from prism_plugin.plots import plain_ticks

CLIENTS = (1, 2, 4, 8, 16, 32, 64)
BODY = {"prompt": "def read(path):\n", "max_tokens": 48, "sampler": {"name": "prism", "steps": 16}}


class Server:
    """A server process, for as long as the context lasts."""

    def __init__(self, model: str, slots: int, threads: int) -> None:
        self.command = [
            sys.executable, "-m", "prism_plugin", "serve", f"model={model}", "port=0", f"slots={slots}", "queue=64",
            "--quiet",
        ]  # fmt: skip
        self.environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}

    def __enter__(self) -> "Server":
        self.process = subprocess.Popen(self.command, stdout=subprocess.PIPE, text=True, env=self.environment)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://\S+", line)
        if not found:
            raise SystemExit(f"the server did not start: {line}")
        self.url = found[0]
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def figures(self) -> dict[str, float]:
        """What /metrics says."""
        lines = httpx.get(f"{self.url}/metrics", timeout=60).text.splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}


async def ask(client: httpx.AsyncClient, seed: int, steps: int | None = None) -> tuple[float, str | None]:
    """Seconds, and the text; None where there was none."""
    body: dict[str, Any] = {**BODY, "seed": seed}
    if steps:
        body["sampler"] = {**BODY["sampler"], "steps": steps}  # type: ignore[dict-item]
    started = time.perf_counter()
    try:
        answer = await client.post("/v1/completions", json=body)
    except httpx.HTTPError:
        return time.perf_counter() - started, None
    text = answer.json()["choices"][0]["text"] if answer.status_code == 200 else None
    return time.perf_counter() - started, text


def client_of(server: Server) -> httpx.AsyncClient:
    """Without limits of its own."""
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=server.url, timeout=300, limits=limits)


async def load(server: Server, clients: int, requests: int) -> dict[str, Any]:
    """One row: so many clients, each with its next request when the last is answered."""
    seeds = iter(range(requests))
    found: list[tuple[float, str | None]] = []
    before = server.figures()
    async with client_of(server) as session:

        async def one() -> None:
            for seed in seeds:
                found.append(await ask(session, seed))

        started = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(clients)))
        spent = time.perf_counter() - started
    after = server.figures()
    seconds = sorted(took for took, _ in found)
    passes, rows = (after[f"prism_forward_{k}_total"] - before[f"prism_forward_{k}_total"] for k in ("passes", "rows"))
    at = {name: seconds[min(len(seconds) - 1, int(share * len(seconds)))] for name, share in SHARES.items()}
    lost = sum(text is None for _, text in found)
    return {
        "clients": clients,
        "requests": requests,
        "texts_s": requests / spent,
        **at,
        "rows": rows / passes,
        "lost": lost,
    }


SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "most": 1.0}


async def hang_ups(server: Server, streams: int) -> dict[str, Any]:
    """Streams of which every second is cut after its first event; the rest against a run in which none is."""
    async with client_of(server) as session:

        async def stream(seed: int, cut: bool) -> str | None:
            text, whole = "", False
            body = {**BODY, "seed": seed, "stream": True, "events": True}
            async with session.stream("POST", "/v1/completions", json=body) as answer:
                async for line in answer.aiter_lines():
                    if cut and line.startswith("event: prism"):
                        return None
                    if line == "data: [DONE]":
                        whole = True
                    elif line.startswith('data: {"id"'):
                        text += json.loads(line[6:])["choices"][0]["text"]
            return text if whole else None

        calm = await asyncio.gather(*(stream(seed, False) for seed in range(1, streams, 2)))
        found = await asyncio.gather(*(stream(seed, seed % 2 == 0) for seed in range(streams)))
    end = time.monotonic() + 60
    while (held := server.figures()["prism_held_slots"]) and time.monotonic() < end:
        await asyncio.sleep(0.05)
    kept = found[1::2]
    same = sum(text == wanted for text, wanted in zip(kept, calm, strict=True))
    return {
        "streams": streams,
        "cut": streams // 2,
        "lost": sum(text is None for text in kept),
        "same": same,
        "held": held,
    }


async def terminate(server: Server, requests: int) -> dict[str, Any]:
    """SIGTERM while so many requests are under way."""
    async with client_of(server) as session:
        tasks = [asyncio.ensure_future(ask(session, seed, steps=48)) for seed in range(requests)]
        while (figures := server.figures())["prism_held_slots"] + figures["prism_queued_texts"] < requests:
            await asyncio.sleep(0.01)
        started = time.perf_counter()
        server.process.send_signal(signal.SIGTERM)
        found = await asyncio.gather(*tasks)
        code = await asyncio.to_thread(server.process.wait, 120)
        spent = time.perf_counter() - started
    return {"requests": requests, "lost": sum(text is None for _, text in found), "seconds": spent, "exit": code}


def alone(model: str, requests: int, slots: int, threads: int) -> float:
    """Texts a second of the same requests in one call, without a server."""
    torch.set_num_threads(threads)
    prism = enable(model)
    sampler: dict[str, Any] = dict(BODY["sampler"])  # type: ignore[call-overload]
    name, new = sampler.pop("name"), int(BODY["max_tokens"])  # type: ignore[call-overload]
    given = {"max_new_tokens": new, "slots": slots, **sampler}
    prism.generate([BODY["prompt"]] * slots, name, **given)
    started = time.perf_counter()
    prism.generate([BODY["prompt"]] * requests, name, **given)
    return requests / (time.perf_counter() - started)


def plot(rows: list[dict[str, Any]], path: str) -> None:
    """Latency over clients."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    for name in ("p50", "p90", "p99"):
        axes.plot([row["clients"] for row in rows], [row[name] for row in rows], marker="o", label=name)
    axes.set(xlabel="clients", ylabel="seconds a request", xscale="log", yscale="log")
    plain_ticks(axes.xaxis, [row["clients"] for row in rows])
    plain_ticks(axes.yaxis)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="clients 1, 8 and 64 only")
    parser.add_argument("--model", default="code")
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--threads", type=int, default=1, help="of the server")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--plot", metavar="FILE")
    arguments = parser.parse_args()
    print(f"model {arguments.model}, slots {arguments.slots}, threads {arguments.threads}; not run on a GPU\n")
    print("clients requests  texts/s     p50     p90     p99    most   rows  lost")
    rows = []
    with Server(arguments.model, arguments.slots, arguments.threads) as server:
        asyncio.run(load(server, 1, 2))
        for clients in (1, 8, 64) if arguments.quick else CLIENTS:
            row = asyncio.run(load(server, clients, max(16, 2 * clients)))
            rows.append(row)
            print(
                f"{clients:7d} {row['requests']:8d} {row['texts_s']:8.2f} {row['p50']:7.2f} {row['p90']:7.2f} "
                f"{row['p99']:7.2f} {row['most']:7.2f} {row['rows']:6.2f} {row['lost']:5d}",
                flush=True,
            )
        cut = asyncio.run(hang_ups(server, 32))
        ended = asyncio.run(terminate(server, 24))
    plain = alone(arguments.model, 64, arguments.slots, arguments.threads)
    print(f"\nwithout a server, {arguments.slots} at a time: {plain:.2f} texts/s")
    print(
        f"hang-ups: {cut['cut']} of {cut['streams']} streams cut; of the rest {cut['lost']} lost, {cut['same']} as "
        f"before; {cut['held']:.0f} slots held at the end"
    )
    print(
        f"SIGTERM: {ended['requests']} requests under way, {ended['lost']} lost, exit code {ended['exit']} after "
        f"{ended['seconds']:.1f} s"
    )
    if arguments.json:
        content = {"load": rows, "without_server": plain, "hang_ups": cut, "sigterm": ended}
        Path(arguments.json).write_text(json.dumps(content, indent=1) + "\n")
    if arguments.plot:
        plot(rows, arguments.plot)
    if sum(row["lost"] for row in rows) + cut["lost"] + ended["lost"] or ended["exit"] or cut["held"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
