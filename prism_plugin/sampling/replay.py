"""A recorded run, step by step in the terminal, and as one page that needs nothing but a browser."""

import base64
import json
import zlib
from html import escape
from itertools import groupby
from pathlib import Path

import numpy as np
from rich.columns import Columns
from rich.console import Console, Group
from rich.panel import Panel
from rich.text import Text

from ..errors import ConfigError
from ..files import write_atomic
from .trace import CORRECTED, EVENTS, NOTHING, REMASKED, RESTORED, WRITTEN, Trace

TEMPLATE = Path(__file__).parents[1] / "assets" / "replay.html"
STYLES = {
    NOTHING: "",
    WRITTEN: "bold cyan",
    REMASKED: "bold white on red",
    CORRECTED: "bold black on green",
    RESTORED: "bold black on yellow",
}
DOUBTED = "bold red underline"
PROMPT = "bold"
MEANING = {
    WRITTEN: "in this step",
    REMASKED: "the token was removed",
    CORRECTED: "another token in its place",
    RESTORED: "the same token came back",
}


def pick(trace: Trace, row: int) -> int:
    """``row``, checked; ConfigError where the trace has fewer texts."""
    texts = trace.tokens.shape[1]
    if not 0 <= row < texts:
        raise ConfigError(f"row {row}: the trace has {texts} text{'s' if texts > 1 else ''}, allowed 0 to {texts - 1}.")
    return row


def doubted_next(trace: Trace) -> np.ndarray:
    """(F, B, L) bool: visible tokens of a frame that the next step removes."""
    return (
        np.roll(trace.doubted, -1, axis=0)
        & trace.visible
        & (np.arange(len(trace.tokens)) < len(trace.tokens) - 1)[:, None, None]
    )


# ---- terminal


def legend() -> Text:
    """What the colours of a frame mean."""
    line = Text()
    for kind, meaning in MEANING.items():
        line.append(f" {EVENTS[kind]} ", STYLES[kind]).append(f" {meaning}   ")
    return line.append("doubted", DOUBTED).append(" removed by the next step")


def styled(trace: Trace, row: int, number: int, event: np.ndarray, doubted: np.ndarray) -> list[tuple[str, str]]:
    """Word and style of every token of frame ``number``, "" for a mask; ``event`` and ``doubted`` are (F, L)."""
    words = {int(token): word for token, word in trace.about["words"].items()} | {trace.about["mask_id"]: ""}
    found = []
    for i, token in enumerate(trace.tokens[number, row].tolist()):
        kind = int(event[number, i])
        style = STYLES[kind] if trace.editable[row, i] else PROMPT
        found.append((words[token], DOUBTED if doubted[number, i] and kind == NOTHING else style))
    return found


def grid_frame(tokens: list[tuple[str, str]], grid: int) -> Text:
    """A Sudoku grid of ``styled`` tokens, boxes of side ``grid``."""
    side, text = grid * grid, Text()
    for i, (word, style) in enumerate(tokens):
        column, line = i % side, i // side
        text.append(word or ".", style)
        if column < side - 1:
            text.append(*((" │ ", "dim") if column % grid == grid - 1 else (" ", "")))
        elif line < side - 1:
            text.append("\n")
            if line % grid == grid - 1:
                text.append("─┼─".join(["─" * (2 * grid - 1)] * grid) + "\n", "dim")
    return text


def text_frame(tokens: list[tuple[str, str]]) -> Text:
    """A line of ``styled`` tokens; a long run of masks is shown by its length."""
    text = Text()
    for (masked, style), run in groupby(tokens, lambda token: (not token[0], token[1] if not token[0] else "")):
        found = list(run)
        if not masked:
            for word, its_style in found:
                text.append(word, its_style)
        else:
            text.append("▁" * len(found) if len(found) < 8 else f"▁{len(found)} masks▁", style or "dim")
    return text


def title(trace: Trace, number: int, event: np.ndarray) -> str:
    """One line about a frame."""
    if number == 0:
        return "start"
    counts = [(int((event[number] == kind).sum()), name) for kind, name in enumerate(EVENTS) if kind]
    return f"step {number}  " + ", ".join(f"{count} {name}" for count, name in counts if count)


def fitting(trace: Trace) -> int:
    """How many frames are pleasant to read in a terminal: 24 grids, fewer long texts."""
    return 24 if trace.about["grid"] else min(24, max(3, 6000 // trace.tokens.shape[2]))


def show(trace: Trace, row: int, console: Console, most: int = 0) -> None:
    """Print a text's steps; of more than ``most`` (0: all) those in which most was revised, in order."""
    event, doubted = (table[:, pick(trace, row)] for table in (trace.events(), doubted_next(trace)))
    revised = (event >= REMASKED).sum(axis=1)
    last = len(event) - 1
    chosen = list(range(last + 1))
    if most and last + 1 > most:
        chosen = sorted({0, last, *(int(i) for i in np.argsort(-revised[1:last], kind="stable")[: most - 2] + 1)})
    console.print(legend())
    panels = []
    for number in chosen:
        tokens = styled(trace, row, number, event, doubted)
        if trace.about["grid"]:
            short = "start" if number == 0 else f"step {number}"
            panels.append(
                Panel(
                    grid_frame(tokens, trace.about["grid"]),
                    title=short,
                    subtitle=_counts(event[number]),
                    expand=False,
                    border_style="dim",
                )
            )
        else:
            panels.append(Panel(text_frame(tokens), title=title(trace, number, event), border_style="dim"))
    console.print(Columns(panels) if trace.about["grid"] else Group(*panels))
    if len(panels) <= last:
        console.print(f"{len(panels)} of {last + 1} frames shown, those in which most was revised.", style="dim")


def _counts(event: np.ndarray) -> str:
    signs = {WRITTEN: ("+", "cyan"), REMASKED: ("-", "red"), CORRECTED: ("~", "green"), RESTORED: ("=", "yellow")}
    found = [(int((event == kind).sum()), sign, colour) for kind, (sign, colour) in signs.items()]
    return " ".join(f"[{colour}]{sign}{count}[/]" for count, sign, colour in found if count)


# ---- HTML


def page(trace: Trace, row: int, heading: str, note: str = "") -> str:
    """A self-contained page with slider, play button, colours and the history of every token."""
    pick(trace, row)
    frames, _, length = trace.tokens.shape
    about, event = trace.about, trace.events()[:, row]
    words = list(about["words"].values())
    place = {int(token): n for n, token in enumerate(about["words"], 1)} | {about["mask_id"]: 0, -1: 0}
    former = np.where(event == REMASKED, trace.former[:, row], trace.replaced()[:, row])
    wide = "<u2" if len(words) < 2**16 - 1 else "<u4"
    number = np.vectorize(place.__getitem__, otypes=[wide])
    levels = np.stack([trace.quality[:, row], trace.written[:, row]]).astype(np.float32)
    with np.errstate(invalid="ignore"):  # 255 stands for unknown, the rest is linear in the square root: fine near 0
        levels = np.where(np.isnan(levels), 255, np.round(254 * np.sqrt(levels.clip(0, 1)))).astype("u1")
    parts = [number(trace.tokens[:, row]), number(former), levels, event, trace.editable[row].astype("u1")]
    packed = zlib.compress(b"".join(part.astype(part.dtype, order="C").tobytes() for part in parts), 9)
    shown = {name: value for name, value in about["settings"].items() if name != "method"}
    head = {
        "frames": frames, "length": length, "grid": about["grid"], "words": words, "settings": shown,
        "wide": 2 if wide == "<u2" else 4, "note": note,
    }  # fmt: skip
    content = TEMPLATE.read_text(encoding="utf-8")
    head_json = json.dumps(head, ensure_ascii=False).replace("<", "\\u003c")
    for mark, value in (
        ("{{title}}", escape(heading)), ("{{head}}", head_json), ("{{data}}", base64.b64encode(packed).decode()),
    ):  # fmt: skip
        content = content.replace(mark, value)
    return content


def write_page(trace: Trace, row: int, path: str | Path, heading: str, note: str = "") -> None:
    """Write ``page`` to a file, whole or not at all."""
    content = page(trace, row, heading, note)
    with write_atomic(path) as temporary:
        temporary.write_text(content, encoding="utf-8")
