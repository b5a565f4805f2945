"""The report of ``prism compare``: one page with nothing from outside, light and dark, and fit to print."""

import math
import shlex
from collections.abc import Callable, Sequence
from html import escape
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..files import write_atomic
from ..sampling import replay
from ..sampling.trace import EVENTS, Trace
from .rivals import best, lines, remarks, truth

STYLE = """
:root { color-scheme: light dark; --page:#fff; --ink:#1b2430; --soft:#66707e; --line:#dfe3e8; --mask:#eceff3;
 --written:#9cc4f5; --remasked:#e4584e; --corrected:#3fae62; --restored:#e3b23c; --still:#cfd6de;
 --c0:#2f5bd8; --c1:#c8472f; --c2:#1f8a52; --c3:#8a4fc9; --c4:#a86b00; --c5:#0c8599; --c6:#b02a6f; --c7:#5c6773 }
@media screen and (prefers-color-scheme: dark) { :root { --page:#14181e; --ink:#e6eaf0; --soft:#98a3b1;
 --line:#333b46; --mask:#20262e; --written:#2d5f9e; --still:#3d4754; --c0:#7ea2ff; --c1:#ff8a73; --c2:#5fce93;
 --c3:#c79bff; --c4:#e8b04c; --c5:#4fc6d8; --c6:#f27fb6; --c7:#aab4c0 } }
body { background:var(--page); color:var(--ink); font:15px/1.5 system-ui,sans-serif; max-width:68rem;
 margin:2rem auto; padding:0 1rem }
h1 { font-size:1.5rem } h2 { font-size:1.1rem; margin-top:2rem; break-after:avoid }
p { max-width:46rem } .soft { color:var(--soft) }
table { border-collapse:collapse; font-variant-numeric:tabular-nums; font-size:13px }
.wide { overflow-x:auto } td,th { padding:.25rem .6rem; text-align:right; border-bottom:1px solid var(--line);
 white-space:nowrap }
td:first-child,th:first-child { text-align:left } svg { width:100%; height:auto; display:block }
svg text { fill:var(--ink); font:12px system-ui,sans-serif } .axis { stroke:var(--line) }
.pair { display:grid; grid-template-columns:repeat(auto-fit,minmax(22rem,1fr)); gap:1.5rem }
.key { display:flex; flex-wrap:wrap; gap:.3rem 1rem; font-size:13px } .key i { display:inline-block; width:.8em;
 height:.8em; box-sizing:border-box; margin-right:.35em; border-radius:2px; vertical-align:-.05em }
pre { background:var(--mask); padding:.8rem; overflow-x:auto; border-radius:6px; white-space:pre-wrap }
@media print { body { max-width:none; margin:0; font-size:11px } h2,figure,svg,.pair>div { break-inside:avoid }
 .wide { overflow:visible } td,th { padding:.15rem .3rem; font-size:9.5px }
 * { print-color-adjust:exact; -webkit-print-color-adjust:exact } .pair { grid-template-columns:1fr 1fr } }
"""
WIDTH, HEIGHT, LEFT, BOTTOM = 460, 300, 52, 42
COLOURS = 8
"""Samplers after so many have the same colours again, with hollow marks and dashed lines."""


def write(found: dict[str, Any], shown: tuple[Trace, int], out: Path) -> None:
    """``report.html``, and ``replay.html`` of the text shown in it."""
    trace, row = shown
    with write_atomic(out / "report.html") as temporary:
        temporary.write_text(page(found, trace, row), encoding="utf-8")
    name = trace.about["settings"]["name"]
    replay.write_page(trace, row, out / "replay.html", f"Sampler {name}, step by step")


def page(found: dict[str, Any], trace: Trace, row: int) -> str:
    """All of the report."""
    chosen, given, real = best(found), found["settings"], found["real"]
    names = list(dict.fromkeys(unit["sampler"] for unit in found["rows"]))
    colour = {name: f"var(--c{n % COLOURS})" for n, name in enumerate(names)}
    metric = escape(str(found["metric"]))
    drawn = sorted({seed for row in found["rows"] for seed in row["seeds"]})
    seeds = f"seed{'s' * (len(drawn) > 1)} {', '.join(map(str, drawn))}"
    units = sorted(found["rows"], key=lambda unit: unit["budget"])
    curves = {name: [unit for unit in units if unit["sampler"] == name] for name in names}
    key = "".join(
        f'<span><i style="border:.15em solid {colour[name]};{f"background:{colour[name]}" * (n < COLOURS)}"></i>'
        f"{escape(name)}</span>" for n, name in enumerate(names)
    )  # fmt: skip
    about = f"{escape(given['model'])}, {units[0]['texts']} texts from {escape(given['data'] or 'its task, held out')}"
    shown = [*lines(found), *([truth(found)] if real else [])]
    heads = "".join(f"<th>{escape(head)}</th>" for head in shown[0])
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row.values()) + "</tr>" for row in shown)
    across = "difference" if trace.about["grid"] else "entropy"
    what = {"difference": "difference of two texts (share of positions)", "entropy": "entropy of a text, nats"}[across]
    command = f"prism sample model={given['model']} " + " ".join(
        shlex.quote(f"sampler{'' if key == 'name' else '.' + key}={value}")
        for key, value in chosen["settings"].items() if key != "seed"
    )  # fmt: skip
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Samplers at equal cost</title><style>{STYLE}</style></head><body>
<h1>Samplers at equal cost</h1>
<p class="soft">{about}; {seeds}. Score: {metric}, higher is better. Cost: forward passes a text, weighted
by how much of the text each went over; steps were scaled so that it comes nearest to the budget, and the cost reached
is shown. A sampler that ends when the text is full may miss it. Intervals: bootstrap over the texts, paired against
random-remask{"; one seed, so nothing is said of the spread over seeds" if len(drawn) == 1 else ""}.</p>
<div class="wide"><table><tr>{heads}</tr>{body}</table></div>
<p class="soft">Entropy (nats) and distinct-4 are means of a text; self-BLEU: of each text against the others;
difference: share of positions in which two texts differ, given ones included; remasked: revisions of a text; wasted:
those that brought the same token back; harmful: those that took the true token for another, where the truth is known;
spread of seeds: standard deviation of the seeds' means.</p>
<p class="key">{key}{"<span>✕ real text</span>" if real else ""}</p>
<div class="pair"><div><h2>Quality against cost</h2>
{chart(curves, colour, lambda u: u["cost"], "cost: weighted forward passes", metric)}</div>
<div><h2>Quality against diversity</h2>
{chart(curves, colour, lambda u: u[across], what, metric, (real[across], real["score"]) if real else None, join=False)}
</div></div>
{_calibration(found["calibration"])}
<h2>A text while it is corrected</h2>
<p class="soft">{escape(chosen["sampler"])}, {chosen["steps"]} steps. From left to right the positions of the text, from
top to bottom the steps. <a href="replay.html">replay.html</a> beside this page shows the words.</p>
{heat(trace, row)}
<h2>Settings to paste</h2>
<p class="soft">The best score of those within 5% of their budget: {escape(chosen["sampler"])}, {chosen["cost"]:.1f}
forward passes, {chosen["score"]:.3f}. Where intervals overlap, another may be as good. {escape(remarks(found))}</p>
<pre>{escape(command)}</pre>
</body></html>
"""


def chart(
    lines: dict[str, list[dict[str, Any]]], colour: dict[str, str], x_of: Callable[[dict[str, Any]], float],
    x_name: str, y_name: str, cross: tuple[float, float] | None = None, join: bool = True,
) -> str:  # fmt: skip
    """Scores with their intervals over ``x_of`` a unit, a colour a sampler; ``cross`` is where real text stands."""
    units = [unit for line in lines.values() for unit in line]
    across = [x_of(u) for u in units] + ([cross[0]] if cross else [])
    if join:  # budgets that lie close are drawn close
        across += [0.9 * min(across), 1.1 * max(across)]
    x_at = Scale(across, LEFT, WIDTH - 12)
    y_at = Scale([u[k] for u in units for k in ("low", "high")] + ([cross[1]] if cross else []), HEIGHT - BOTTOM, 12)
    parts = _axes(x_at, y_at, x_name, y_name)
    for number, (name, line) in enumerate(lines.items()):
        fill, dash = (colour[name], "") if number < COLOURS else ("var(--page)", ' stroke-dasharray="5 3"')
        places = [(x_at(x_of(unit)), unit) for unit in line]
        if join and len(places) > 1:
            points = " ".join(f"{x:.1f},{y_at(unit['score']):.1f}" for x, unit in places)
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour[name]}" stroke-width="1.5"{dash}/>')
        for x, unit in places:
            said = f"{name}, budget {unit['budget']}: {unit['score']:.3f}"
            parts.append(
                f'<g stroke="{colour[name]}"><title>{escape(said)}</title><line x1="{x:.1f}" x2="{x:.1f}" '
                f'y1="{y_at(unit["low"]):.1f}" y2="{y_at(unit["high"]):.1f}" opacity=".5"/>'
                f'<circle cx="{x:.1f}" cy="{y_at(unit["score"]):.1f}" r="4" fill="{fill}" stroke-width="1.5"/></g>'
            )
    if cross:
        x, y = x_at(cross[0]), y_at(cross[1])
        parts.append(f'<path d="M{x - 7:.1f},{y - 7:.1f}l14,14m0,-14l-14,14" stroke="var(--ink)" stroke-width="2.5"/>')
    return _svg(parts)


class Scale:
    """From values to a coordinate, with a margin and round ticks."""

    def __init__(self, values: Sequence[float], start: float, end: float) -> None:
        low, high = min(values), max(values)
        margin = 0.05 * (high - low) or 0.05 * abs(high) or 0.5
        self.low, self.high, self.start, self.end = low - margin, high + margin, start, end
        rough = (self.high - self.low) / 5
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * n for n in (1, 2, 5, 10) if unit * n >= rough)
        first = math.ceil(self.low / step)
        self.ticks = [n * step for n in range(first, math.floor(self.high / step) + 1)]

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def _axes(x_at: Scale, y_at: Scale, x_name: str, y_name: str) -> list[str]:
    parts = []
    for tick in x_at.ticks:
        x = x_at(tick)
        parts.append(f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="12" y2="{HEIGHT - BOTTOM}"/>')
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{tick:.4g}</text>')
    for tick in y_at.ticks:
        y = y_at(tick)
        parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - 12}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{tick:.4g}</text>')
    middle = (LEFT + WIDTH) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{x_name}</text>')
    high = (HEIGHT - BOTTOM) / 2
    return [*parts, f'<text transform="translate(11,{high}) rotate(-90)" text-anchor="middle">{y_name}</text>']


def _svg(parts: list[str], width: int = WIDTH, height: int = HEIGHT) -> str:
    return f'<svg viewBox="0 0 {width} {height}" role="img">{"".join(parts)}</svg>'


def _calibration(found: dict[str, Any] | None) -> str:
    heading = "<h2>Calibration of the head</h2>"
    if found is None:
        return heading + '<p class="soft">Not measured: it takes a head, and held-out texts of which all is known.</p>'
    x_at, y_at = Scale([0, 1], LEFT, WIDTH - 12), Scale([0, 1], HEIGHT - BOTTOM, 12)
    parts = _axes(x_at, y_at, "quality said", "share that is right")
    parts.append(
        f'<line x1="{x_at(0)}" y1="{y_at(0)}" x2="{x_at(1)}" y2="{y_at(1)}" stroke="var(--soft)" stroke-dasharray="4"/>'
    )
    for one in found["bins"]:
        radius = 2 + 8 * math.sqrt(one["count"] / found["tokens"])
        parts.append(
            f'<circle cx="{x_at(one["predicted"]):.1f}" cy="{y_at(one["right"]):.1f}" r="{radius:.1f}" '
            f'fill="var(--c0)" opacity=".7"><title>{one["count"]:.0f} tokens</title></circle>'
        )
    area = "" if found["auroc"] is None else f" AUROC {found['auroc']:.3f}."
    return (
        f'{heading}<div class="pair"><div>{_svg(parts)}</div><p class="soft">{found["tokens"]} tokens drawn into '
        f"held-out texts, an eighth of what was hidden; right: the true token.{area} On the dashed line "
        "the head says what is found; the size of a dot is the number of tokens. Where several tokens would do, "
        "right is less often found than fits.</p></div>"
    )


def heat(trace: Trace, row: int) -> str:
    """Positions across, steps down, what happened as colour; runs of one colour are one rectangle."""
    event, visible = trace.events()[:, row], trace.visible[:, row]
    kinds = np.where((event == 0) & visible, len(EVENTS), event)
    names = ["mask", *EVENTS[1:], "still"]
    frames, length = kinds.shape
    high = max(2.0, min(14.0, 400 / frames))
    parts = []
    for frame in range(frames):
        edges = [0, *(np.flatnonzero(np.diff(kinds[frame])) + 1).tolist(), length]
        for start, end in pairwise(edges):
            x, width = start * 920 / length, (end - start) * 920 / length
            parts.append(
                f'<rect x="{x:.2f}" y="{frame * high:.1f}" width="{width:.2f}" '
                f'height="{high:.1f}" fill="var(--{names[kinds[frame, start]]})"/>'
            )
    key = "".join(f'<span><i style="background:var(--{name})"></i>{name}</span>' for name in names)
    return f'<p class="key">{key}</p>' + _svg(parts, 920, math.ceil(frames * high))
