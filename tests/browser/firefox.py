"""Firefox as its distribution ships it, by WebDriver BiDi (W3C): Playwright's own Firefox is another program."""

import base64
import itertools
import json
import queue
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

PREFERENCES = {
    "app.update.enabled": False,
    "browser.shell.checkDefaultBrowser": False,
    "datareporting.policy.dataSubmissionEnabled": False,
    "media.autoplay.default": 0,
    "toolkit.telemetry.enabled": False,
}
LISTENING = re.compile(r"WebDriver BiDi listening on (ws://\S+)")


class Firefox:
    """One tab. Errors of scripts and protocol are RuntimeErrors; `errors` has what the page logged as an error."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.errors: list[str] = []
        self._ids = itertools.count(1)
        self.send("session.new", capabilities={"alwaysMatch": {}})
        self.send("session.subscribe", events=["log.entryAdded"])
        self.context = self.send("browsingContext.getTree")["contexts"][0]["context"]

    def send(self, method: str, **params: object) -> Any:
        """Send a command and return its result."""
        number = next(self._ids)
        self.connection.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self.connection.recv(timeout=60))
            if message.get("method") == "log.entryAdded":
                entry = message["params"]
                if entry["level"] == "error":
                    self.errors.append(entry["text"])
            elif message.get("id") == number:
                if message["type"] == "error":
                    raise RuntimeError(f"{method}: {message['error']}: {message['message']}")
                return message["result"]

    def open(self, url: str, width: int, height: int) -> None:
        """Load a page in a window of that size, in CSS pixels."""
        viewport = {"width": width, "height": height}
        self.send("browsingContext.setViewport", context=self.context, viewport=viewport)
        self.send("browsingContext.navigate", context=self.context, url=url, wait="complete")

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, a promise included; of an element its reference."""
        found = self.send(
            "script.evaluate",
            expression=expression,
            target={"context": self.context},
            awaitPromise=True,
            userActivation=False,
        )
        if found["type"] == "exception":
            raise RuntimeError(found["exceptionDetails"]["text"])
        result = found["result"]
        if result["type"] == "array":
            return [one.get("value") for one in result["value"]]
        return {"sharedId": result["sharedId"]} if "sharedId" in result else result.get("value")

    def until(self, expression: str, timeout: float = 60) -> Any:
        """The value of an expression as soon as it is truthy.

        Raises:
            TimeoutError: it was not, for that many seconds.
        """
        end = time.monotonic() + timeout
        while not (found := self.evaluate(expression)):
            if time.monotonic() > end:
                raise TimeoutError(f"{expression}; errors of the page: {self.errors}")
            time.sleep(0.1)
        return found

    def click(self, element: str) -> None:
        """Click with the mouse in the middle of the element of an expression, as soon as there is one."""
        node = self.until(element)
        self.evaluate(f"{element}.scrollIntoView({{ block: 'center', behavior: 'instant' }})")
        move = {"type": "pointerMove", "x": 0, "y": 0, "origin": {"type": "element", "element": node}}
        steps = [move, {"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        actions = [{"type": "pointer", "id": "mouse", "actions": steps}]
        self.send("input.performActions", context=self.context, actions=actions)

    def press(self, *keys: str) -> None:
        """Press keys one after another; special ones by their code point in WebDriver."""
        steps = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        actions = [{"type": "key", "id": "keyboard", "actions": steps}]
        self.send("input.performActions", context=self.context, actions=actions)

    def choose_file(self, element: str, path: Path) -> None:
        """Choose a file in the file input of an expression."""
        node = self.until(element)
        self.send("input.setFiles", context=self.context, element=node, files=[str(path)])

    def screenshot(self, path: Path) -> None:
        """Save what the window shows as a PNG file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        found = self.send("browsingContext.captureScreenshot", context=self.context)
        path.write_bytes(base64.b64decode(found["data"]))


@contextmanager
def running_firefox(program: str, profile: Path) -> Iterator[Firefox]:
    """A headless Firefox with a fresh profile.

    Raises:
        TimeoutError: it did not listen within a minute.
    """
    settings = [f'user_pref("{name}", {json.dumps(value)});\n' for name, value in PREFERENCES.items()]
    (profile / "user.js").write_text("".join(settings))
    command = [program, "--headless", "--remote-debugging-port=0", "--profile", str(profile), "--no-remote"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    lines: queue.Queue[str] = queue.Queue()
    assert process.stderr
    reader = threading.Thread(target=lambda stream: [lines.put(line) for line in stream], args=(process.stderr,))
    reader.start()
    try:
        end = time.monotonic() + 60
        while True:
            try:
                found = LISTENING.search(lines.get(timeout=max(end - time.monotonic(), 0)))
            except queue.Empty:
                raise TimeoutError("Firefox does not listen for WebDriver BiDi") from None
            if found:
                break
        with connect(f"{found[1]}/session", max_size=2**26) as connection:
            yield Firefox(connection)
    finally:
        process.terminate()
        process.wait(30)
        reader.join()
        process.stderr.close()
