"""What a step's own process does to start fast.

Steps never need torch. Where it is installed all the same (a laptop with the service beside
it), the Tinker SDK and transformers would import it, which takes seconds in every step. So a
step's process imports them while torch is hidden from them: after the step's environment and
reward, so that these find torch if they want it, and not where torch is imported already.
"""

from __future__ import annotations

import os
import sys
from contextvars import ContextVar

_in_step_process: ContextVar[bool] = ContextVar("in_step_process", default=False)


def enter_step_process() -> None:
    """Called by the entry points of step processes: this process does one step and ends.

    In any other process (a notebook that calls a step's function) imports stay as they are.
    """
    _in_step_process.set(True)
    # Else transformers warns that without torch it offers tokenizers only; that is what we want.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")


def import_clients(*, tokenizers: bool) -> None:
    """In a step's process, import the Tinker SDK (and transformers' tokenizers) without torch.

    After this `import torch` works as before, but transformers offers no models in this process.
    """
    if not _in_step_process.get() or "torch" in sys.modules:
        return
    sys.modules["torch"] = None  # type: ignore[assignment]  # makes `import torch` raise ImportError
    try:
        import tinker  # noqa: F401

        if tokenizers:
            from transformers import AutoTokenizer  # noqa: F401
    finally:
        del sys.modules["torch"]
