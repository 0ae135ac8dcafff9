"""vLLM's asynchronous engine behind a synchronous caller: its event loop runs in a thread."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypeVar

from tuft.errors import ConfigError, TuftError

T = TypeVar("T")

# vLLM kills what has not ended by then.
_CLOSE_S = 1.0


class VllmEnded(TuftError):
    """vLLM's processes died: this sampler must be started again."""


class VllmLink:
    """Starts vLLM and runs coroutines with it; one caller's thread.

    Raises:
        ConfigError: vLLM refuses these arguments.
        VllmEnded: its processes did not come up; the log above says why.
    """

    def __init__(self, arguments: Mapping[str, Any]) -> None:
        self._loop = asyncio.new_event_loop()
        self._events: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._tasks: set[Future[None]] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="vllm", daemon=True)
        self._thread.start()
        self._llm: Any = None  # vLLM is an optional package
        try:
            self._llm = self.call(_start(arguments))
            if arguments["worker_extension_cls"]:
                self.call(self._llm.collective_rpc("repair_cpu_runner"))
        finally:
            if self._llm is None:
                self._end_loop()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine to its end."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def start(self, coroutine: Coroutine[Any, Any, None]) -> Future[None]:
        """Run a coroutine beside the caller; what it raises is raised by `poll`."""
        task = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        self._tasks.add(task)
        task.add_done_callback(self._note_end)
        return task

    def tell(self, event: Callable[[], None]) -> None:
        """From a coroutine: have `poll` call `event` in the caller's thread."""
        self._events.put(event)

    def poll(self, timeout_s: float) -> None:
        """Call what was told; wait for the first at most this long.

        Raises:
            VllmEnded: see there.
        """
        try:
            event = self._events.get(timeout=timeout_s) if timeout_s else self._events.get_nowait()
            while True:
                event()
                event = self._events.get_nowait()
        except queue.Empty:
            return

    async def generate(
        self, request_id: str, prompt: Mapping[str, Any], params: Any, lora: Any
    ) -> AsyncGenerator[Any, None]:
        """vLLM's outputs of one sequence. Closing it early ends the sequence.

        Raises:
            VllmEnded: see there.
        """
        from vllm.v1.engine.exceptions import EngineDeadError

        outputs = self._llm.generate(prompt, params, request_id, lora_request=lora)
        try:
            async with aclosing(outputs):
                async for output in outputs:
                    yield output
        except EngineDeadError as error:
            raise VllmEnded("vLLM's engine process died; the log above says why") from error

    def add_lora(self, number: int, name: str, folder: Path) -> Any:
        """Read a PEFT folder into vLLM, which needs it no longer then: its LoRARequest.

        Raises:
            ValueError: vLLM can't serve it; in vLLM's words.
            VllmEnded: see there.
        """
        from vllm.lora.request import LoRARequest

        request = LoRARequest(name, number, str(folder))
        self._require(self.call(self._asking(lambda: self._llm.add_lora(request))), request)
        return request

    async def remove_lora(self, lora: Any) -> None:
        """Free its memory. Nothing may sample with it."""
        await self._asking(lambda: self._llm.remove_lora(lora.lora_int_id))

    async def abort(self, request_ids: Sequence[str]) -> None:
        """End sequences; their generators end with the reason "abort"."""
        await self._asking(lambda: self._llm.abort(request_ids))

    async def pin_lora(self, lora: Any) -> None:
        """Keep it in its slot for ever."""
        await self._asking(lambda: self._llm.pin_lora(lora.lora_int_id))

    def close(self) -> None:
        """End vLLM's processes."""
        for task in list(self._tasks):
            task.cancel()
        self.call(_shut_down(self._llm))
        self._end_loop()

    @staticmethod
    def _require(loaded: bool, request: Any) -> None:
        if not loaded:
            raise ValueError(f"vLLM has an adapter {request.lora_int_id} already")

    async def _asking(self, ask: Callable[[], Awaitable[T]]) -> T:
        from vllm.v1.engine.exceptions import EngineDeadError

        try:
            return await ask()
        except EngineDeadError as error:
            raise VllmEnded("vLLM's engine process died; the log above says why") from error
        except Exception as error:  # vLLM gives what failed in its process as plain exceptions
            raise ValueError(str(error)) from error

    def _note_end(self, task: Future[None]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            self._events.put(lambda: _raise(error))

    def _end_loop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_CLOSE_S)


async def _start(arguments: Mapping[str, Any]) -> Any:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    try:
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))
    except (ValueError, NotImplementedError) as error:
        # The second is what vLLM says of models and settings that this device can't have.
        raise ConfigError(f"vLLM can't start: {error}") from error
    except RuntimeError as error:
        raise VllmEnded(f"vLLM can't start: {error}") from error


async def _shut_down(llm: Any) -> None:
    llm.shutdown(timeout=_CLOSE_S)
    # Its own tasks end with the next turns of the loop.
    await asyncio.sleep(0)


def _raise(error: BaseException) -> None:
    raise error
