"""The page in a real browser: a text is written live, scrubbed, stopped, and what is refused is said."""

import threading
import time
from collections.abc import Iterator

import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

import uvicorn

from prism_plugin import enable
from prism_plugin.serving.app import create_app
from tests.serving.browser import CHROMIUM, Browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    app = create_app(enable("code"), "code")
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error", lifespan="on"))
    thread = threading.Thread(target=server.run)
    thread.start()
    end = time.monotonic() + 60
    while not server.started:
        assert time.monotonic() < end
        time.sleep(0.02)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()


TEXT = "[...document.querySelectorAll('#text .t')].map(span => span.textContent).join('')"


def test_a_text_is_watched_while_it_is_written(url: str) -> None:
    with Browser() as page:
        page.open(f"{url}/#run&light&pace=0&seed=3&steps=24&max_tokens=48")
        page.wait("finished && shown === frames.length - 1")
        assert page.ask("$('said').textContent") == ""
        written = page.ask(TEXT)
        assert written.startswith("def read(path):\n") and "\xa0" not in written
        assert page.ask("frames.length") == 25 and page.ask("state(24).written") > 0
        counted = page.ask("(({doubts, fixed, same}) => [doubts, fixed, same])(state(24))")
        assert counted[0] == page.ask("frames[24].account.remasked") >= counted[1] + counted[2]
        page.ask("go(0)")
        assert page.ask("document.querySelectorAll('#text .mask').length") == 48
        assert page.ask("document.documentElement.scrollWidth <= innerWidth")

        page.ask("$('seed').value = 4, $('steps').value = 1024, run(), true")  # too long to wait for: stop it
        page.wait("frames.length > 3 && frames.length < 1000")
        page.ask("$('stop').click()")
        page.wait("finished")
        assert page.ask("$('said').textContent") == "" and page.ask("frames.at(-1).account === undefined")

        page.ask("$('max_tokens').value = 500, run(), true")
        page.wait("$('said').textContent")
        assert "this server allows 128 together" in page.ask("$('said').textContent")


@pytest.mark.parametrize("mode", ["infill", "correct"])
def test_holes_are_filled_and_texts_corrected(url: str, mode: str) -> None:
    with Browser() as page:
        page.open(f"{url}/#run&dark&pace=0&seed=1&steps=16&mode={mode}")
        page.wait("finished && shown === frames.length - 1")
        assert page.ask("$('said').textContent") == ""
        assert page.ask("frames.at(-1).account !== undefined") and page.ask(TEXT).startswith("def ")
