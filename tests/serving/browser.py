"""A headless Chromium, driven over a pipe (the DevTools protocol), with nothing to install besides."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip


class Browser:
    """One page of ``size`` pixels; as a context manager, so that nothing of it is left."""

    def __init__(self, size: tuple[int, int] = (1240, 1100)) -> None:
        self.size, self.number, self.rest = size, 0, b""

    def __enter__(self) -> "Browser":
        self.folder = tempfile.mkdtemp()
        give, self.out = os.pipe()
        self.back, take = os.pipe()

        def pipes() -> None:  # Chromium reads from 3 and writes to 4
            spare = os.dup(give), os.dup(take)
            os.dup2(spare[0], 3)
            os.dup2(spare[1], 4)

        command = [CHROMIUM, *FLAGS, f"--user-data-dir={self.folder}", f"--window-size={self.size[0]},{self.size[1]}"]
        silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen([*command, "about:blank"], preexec_fn=pipes, close_fds=False, **silent)
        os.close(give)
        os.close(take)
        target = self.tell("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.tell("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.out)
        os.close(self.back)
        shutil.rmtree(self.folder, ignore_errors=True)

    def tell(self, method: str, **given: Any) -> Any:
        """One command, and what it gave."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": given}
        if hasattr(self, "session"):
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self.rest:
                more = os.read(self.back, 1 << 20)
                assert more, "the browser has ended"
                self.rest += more
            one, self.rest = self.rest.split(b"\0", 1)
            answer = json.loads(one)
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    def open(self, url: str) -> None:
        """Load a page."""
        self.tell("Page.navigate", url=url)

    def ask(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self.tell("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, script: str, seconds: float = 60) -> None:
        """Until an expression is true."""
        end = time.monotonic() + seconds
        while not self.ask(f"document.readyState === 'complete' && Boolean({script})"):
            assert time.monotonic() < end, script
            time.sleep(0.05)

    def picture(self, file: str | Path) -> None:
        """Write what is seen, as PNG."""
        Path(file).write_bytes(base64.b64decode(self.tell("Page.captureScreenshot", format="png")["data"]))
