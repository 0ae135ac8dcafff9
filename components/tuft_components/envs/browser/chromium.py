"""One headless Chromium with any number of pages, driven over a pipe.

Its DevTools protocol is JSON, and a pipe needs no driver program, no library and no open port. And
Chromium ends by itself when the pipe is closed, however we end: none is ever left behind.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from tuft_components.envs.registry import CHROMIUM
from tuft_components.errors import BadConfiguration

_START_S, _END_S = 60.0, 5.0
_LONGEST = 64 << 20  # bytes of one message

# Pages are local and come with packages. `--no-sandbox`: Chromium refuses to run as root, and in
# most containers, with its sandbox. In exchange it finds no host: pages reach nothing outside.
_FLAGS = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--disable-dev-shm-usage",  # 64 MB in containers
    "--disable-gpu",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--disable-breakpad",
    "--disable-crash-reporter",
    # The last would be a process for each window.
    "--disable-features=Translate,MediaRouter,OptimizationHints,PreloadTopChromeWebUI",
    "--disable-popup-blocking",
    "--metrics-recording-only",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-service-autorun",
    "--password-store=basic",
    "--use-mock-keychain",
    "--mute-audio",
    "--lang=en-US",  # dates are typed as there
    # Pages that nobody looks at run as fast as others.
    "--disable-background-timer-throttling",
    "--disable-backgrounding-occluded-windows",
    "--disable-renderer-backgrounding",
)


def chromium_program() -> str:
    """The path of the Chromium or Chrome that is on PATH.

    Raises:
        BadConfiguration: there is none.
    """
    for name in CHROMIUM.split("|"):
        found = shutil.which(name)
        if found:
            # Debian's /usr/bin/chromium is a shell script that finds flags for a desktop.
            real = Path("/usr/lib/chromium/chromium")
            return str(real) if found == "/usr/bin/chromium" and real.exists() else found
    raise BadConfiguration("no Chromium on PATH. To install: apt-get install chromium")


class PageGone(ConnectionError):
    """The page, or the whole browser, is no more."""


class PageError(Exception):
    """A script in the page raised, or the browser refused."""


class Chromium:
    """A running browser. Use it in the event loop that it was started in."""

    def __init__(self, pid: int, profile: Path) -> None:
        self.pid = pid
        self.alive = True
        self._profile = profile
        self._numbers = count(1)
        self._waiting: dict[int, tuple[str, asyncio.Future[Any]]] = {}
        self._pages: dict[str, Page] = {}

    @classmethod
    async def start(cls) -> Chromium:
        """Raises:
        BadConfiguration: there is none, or it does not start; with what it said.
        """
        program = chromium_program()
        profile = Path(tempfile.mkdtemp(prefix="tuft-chromium-"))
        pid, commands, answers = _spawn(program, profile)
        browser = cls(pid, profile)
        await browser._connect(commands, answers)
        try:
            await browser.call("Browser.getVersion", timeout_s=_START_S)
        except BaseException as error:
            said = (profile / "stderr").read_text(errors="replace")[-600:].strip()
            await browser.close()
            if not isinstance(error, (PageGone, TimeoutError)):
                raise
            raise BadConfiguration(f"{program} does not start: {said or error}") from error
        return browser

    async def _connect(self, commands: int, answers: int) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=_LONGEST)
        self._read_end, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(answers, "rb", 0)
        )
        self._write_end, _ = await loop.connect_write_pipe(
            asyncio.BaseProtocol, os.fdopen(commands, "wb", 0)
        )
        self._listening = asyncio.create_task(self._listen(reader))

    async def call(
        self,
        method: str,
        params: Mapping[str, Any] | None = None,
        *,
        session: str = "",
        timeout_s: float = 30.0,
    ) -> dict[str, Any]:
        """A command of the DevTools protocol.

        Raises:
            PageGone: the page or the browser is no more. PageError: the browser refused.
            TimeoutError: no answer, as from a page that is busy for ever.
        """
        if not self.alive:
            raise PageGone("the browser is gone")
        number = self._tell(method, params or {}, session)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[number] = (session, answer)
        try:
            return await asyncio.wait_for(answer, timeout_s)
        except TimeoutError:
            raise TimeoutError(f"no answer to {method} within {timeout_s:g} s") from None
        finally:
            self._waiting.pop(number, None)

    async def new_page(self, *, width: int = 500, height: int = 320) -> Page:
        """A page in a context of its own: it shares neither storage nor process with others."""
        context = (await self.call("Target.createBrowserContext"))["browserContextId"]
        try:
            return await self._page_in(context, {"width": width, "height": height})
        except BaseException:
            # Whatever it was, also an interruption: the context would stay open.
            if self.alive:
                self._tell("Target.disposeBrowserContext", {"browserContextId": context})
            raise

    async def _page_in(self, context: str, size: Mapping[str, int]) -> Page:
        where = {"url": "about:blank", "browserContextId": context, "newWindow": True}
        target = (await self.call("Target.createTarget", {**where, **size}))["targetId"]
        attach = {"targetId": target, "flatten": True}
        session = (await self.call("Target.attachToTarget", attach))["sessionId"]
        page = self._pages[session] = Page(self, context, session)
        for domain in ("Page", "Inspector"):  # dialogs and crashes are told
            await page.call(f"{domain}.enable")
        await page.call("Emulation.setFocusEmulationEnabled", {"enabled": True})
        return page

    async def close(self) -> None:
        """Ends all its pages; what does not end by itself is killed."""
        self._write_end.close()
        self._read_end.close()
        self._listening.cancel()
        self._gone()
        deadline = time.monotonic() + _END_S
        while not _reaped(self.pid):
            if time.monotonic() > deadline:
                _kill_group(self.pid)
                deadline += _END_S
            await asyncio.sleep(0.01)
        _kill_group(self.pid)  # helpers that outlived it
        await asyncio.to_thread(shutil.rmtree, self._profile, ignore_errors=True)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                self._heard(json.loads((await reader.readuntil(b"\0"))[:-1]))
        except (asyncio.IncompleteReadError, OSError):
            pass  # it ended
        finally:
            self._gone()

    def _heard(self, message: dict[str, Any]) -> None:
        if "id" in message:
            _, answer = self._waiting.get(message["id"], ("", None))
            if answer is None or answer.done():
                return
            if "error" in message:
                answer.set_exception(PageError(message["error"]["message"]))
            else:
                answer.set_result(message.get("result", {}))
            return
        method, params = message["method"], message.get("params", {})
        session = message.get("sessionId", "")
        if method == "Page.javascriptDialogOpening" and session in self._pages:
            # It would wait for ever; the page is told "OK".
            self._tell("Page.handleJavaScriptDialog", {"accept": True}, session)
        elif method in ("Target.detachedFromTarget", "Inspector.targetCrashed"):
            self._lost(params.get("sessionId", session))

    def _tell(self, method: str, params: Mapping[str, Any], session: str = "") -> int:
        """Send a command; the number that its answer will have."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": dict(params)}
        if session:
            message["sessionId"] = session
        self._write_end.write(json.dumps(message).encode() + b"\0")
        return number

    def _lost(self, session: str) -> None:
        page = self._pages.pop(session, None)
        if page is not None:
            page.alive = False
        for waiting_session, answer in list(self._waiting.values()):
            if waiting_session == session and not answer.done():
                answer.set_exception(PageGone("the page crashed or was closed"))

    def _gone(self) -> None:
        self.alive = False
        for page in self._pages.values():
            page.alive = False
        for _, answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(PageGone("the browser is gone"))


class Page:
    """A page of the browser; `alive` until it is closed, crashes, or the browser ends."""

    def __init__(self, browser: Chromium, context: str, session: str) -> None:
        self._browser, self._context, self._session = browser, context, session
        self.alive = True

    async def call(
        self, method: str, params: Mapping[str, Any] | None = None, *, timeout_s: float = 30.0
    ) -> dict[str, Any]:
        """As `Chromium.call`, of this page."""
        if not self.alive:
            raise PageGone("the page is gone")
        return await self._browser.call(method, params, session=self._session, timeout_s=timeout_s)

    async def evaluate(self, script: str, *, timeout_s: float = 30.0) -> Any:
        """The JSON value of an expression; a promise is waited for.

        Raises:
            As `call`. PageError: the script raised.
        """
        wanted = {"expression": script, "returnByValue": True, "awaitPromise": True}
        answer = await self.call("Runtime.evaluate", wanted, timeout_s=timeout_s)
        if "exceptionDetails" in answer:
            details = answer["exceptionDetails"]
            raised = details.get("exception", {}).get("description") or details["text"]
            raise PageError(f"the page raised {raised.splitlines()[0]}")
        return answer["result"].get("value")

    async def close(self) -> None:
        """Also one that is busy for ever."""
        if self.alive:
            self.alive = False
            wanted = {"browserContextId": self._context}
            await self._browser.call("Target.disposeBrowserContext", wanted)


def _spawn(program: str, profile: Path) -> tuple[int, int, int]:
    """Its process id, and our ends of the pipes for commands and answers."""
    command_out, command_in = os.pipe()
    answer_out, answer_in = os.pipe()
    # It reads from 3 and writes to 4: ours must not be among these numbers meanwhile.
    theirs = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 10) for each in (command_out, answer_in)]
    log = str(profile / "stderr")
    actions: Sequence[tuple[Any, ...]] = [
        (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
        (os.POSIX_SPAWN_OPEN, 2, log, os.O_WRONLY | os.O_CREAT, 0o600),
        (os.POSIX_SPAWN_DUP2, theirs[0], 3),
        (os.POSIX_SPAWN_DUP2, theirs[1], 4),
    ]
    arguments = [program, *_FLAGS, f"--user-data-dir={profile / 'profile'}", "about:blank"]
    try:
        pid = os.posix_spawn(program, arguments, os.environ, file_actions=actions, setpgroup=0)
    finally:
        for each in (command_out, answer_in, *theirs):
            os.close(each)
    return pid, command_in, answer_out


def _reaped(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
