"""Chromium, driven over two pipes by the DevTools protocol; no library is needed."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import time

PROGRAM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = [
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-sync",
    "--hide-scrollbars",
    "--mute-audio",
    # What would be sent all the same reaches nobody, and is seen.
    "--host-resolver-rules=MAP * ~NOTFOUND",
    *(["--no-sandbox"] if os.geteuid() == 0 else []),
]
PATIENCE = 90
KEYS = {"Tab": 9, "Enter": 13, " ": 32}


def _high(number):
    moved = fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(number)
    return moved


class Browser:
    """One tab."""

    def __init__(self, folder):
        (folder / "downloads").mkdir()
        (folder / "profile").mkdir()
        self.downloads = folder / "downloads"
        # Above 9, so that none of them is in the way of 3 and 4.
        to_it, self._writing = map(_high, os.pipe())
        self._reading, from_it = map(_high, os.pipe())
        # Chromium reads commands from 3 and writes answers to 4.
        command = f'exec "$@" 3<&{to_it} 4>&{from_it} {to_it}<&- {from_it}>&-'
        self._process = subprocess.Popen(
            [
                "bash",
                "-c",
                command,
                "bash",
                PROGRAM,
                *FLAGS,
                f"--user-data-dir={folder / 'profile'}",
            ],
            pass_fds=(to_it, from_it),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            env={**os.environ, "HOME": str(folder)},
        )
        os.close(to_it)
        os.close(from_it)
        self._rest, self._count, self._session, self.events = b"", 0, None, []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.call("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.downloads))
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def close(self):
        """Ends it, and all that it started."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._writing)
        os.close(self._reading)

    def call(self, method, **params):
        """Asks for something and waits for the answer; what else is told is kept."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writing, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._count:
                assert "error" not in answer, (method, answer)
                return answer["result"]
            self.events.append(answer)

    def _next(self):
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._reading], [], [], PATIENCE)
            assert ready, "the browser says nothing"
            content = os.read(self._reading, 1 << 16)
            assert content, "the browser has ended"
            self._rest += content
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def run(self, script):
        """The value of a JavaScript expression in the page."""
        found = self.call(
            "Runtime.evaluate",
            expression=script,
            returnByValue=True,
            awaitPromise=True,
            userGesture=True,
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def open(self, path, *, width=1280, height=900, dark=False):
        """Opens a file at a size, in light or dark, and waits until it is there."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=path.as_uri())
        self.until(
            "document.readyState === 'complete' && document.getElementById('title').textContent"
        )

    def until(self, script):
        """Waits until an expression is true."""
        limit = time.monotonic() + PATIENCE
        while not self.run(f"Boolean({script})"):
            assert time.monotonic() < limit, script
            time.sleep(0.05)

    def press(self, key):
        """Presses a key, as a person does."""
        code = KEYS.get(key, ord(key.upper()[0]))
        text = {"Enter": "\r", "Tab": ""}.get(key, key)
        common = {"key": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self.call("Input.dispatchKeyEvent", type="keyUp", **common)

    def click(self, selector):
        """Clicks with the mouse on the middle of an element that is visible."""
        place = self.run(
            f"(() => {{ const e = document.querySelector({json.dumps(selector)});"
            "e.scrollIntoView({block: 'center'}); const r = e.getBoundingClientRect();"
            "const x = r.x + r.width / 2, y = r.y + r.height / 2;"
            "const top = document.elementFromPoint(x, y);"
            "return [x, y, e === top || e.contains(top)]; })()"
        )
        assert place[2], f"{selector} is hidden by something"
        for kind in ("mousePressed", "mouseReleased"):
            self.call(
                "Input.dispatchMouseEvent",
                type=kind,
                x=place[0],
                y=place[1],
                button="left",
                clickCount=1,
            )

    def picture(self, path):
        """Takes a picture of all of the page."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=False)
        path.write_bytes(base64.b64decode(shot["data"]))

    def told(self, *methods):
        """What happened of these kinds."""
        self.run("1")
        return [event["params"] for event in self.events if event.get("method") in methods]

    def complaints(self):
        """Errors and warnings of the page: of its console, its scripts and its policy."""
        said = [
            entry
            for entry in self.told("Runtime.consoleAPICalled")
            if entry["type"] in ("error", "warning", "assert")
        ]
        return said + self.told("Runtime.exceptionThrown", "Log.entryAdded")

    def requests(self):
        """Addresses that were asked for."""
        return [entry["request"]["url"] for entry in self.told("Network.requestWillBeSent")]

    def downloaded(self, count=1):
        """The files that were saved, once there are so many."""
        limit = time.monotonic() + PATIENCE
        while True:
            files = [path for path in self.downloads.iterdir() if path.suffix == ".json"]
            if len(files) >= count:
                return sorted(files)
            assert time.monotonic() < limit, "nothing was downloaded"
            time.sleep(0.05)
