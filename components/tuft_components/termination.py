"""What a failed step leaves behind for people: on stderr, and where Kubernetes looks for it.

Kubernetes reads a container's last words from a file and shows them as the state of the pod; Argo
and Kubeflow show them beside the failed step. So they are short, and say what to do.
"""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path

from tuft_components.errors import exit_code_of

BUG_EXIT_CODE = 1
_DEFAULT_LOG = "/dev/termination-log"
_LONGEST = 4096
"""Bytes that Kubernetes keeps of a container's message."""


def last_words(step: str, error: BaseException) -> str:
    """One line for what was foreseen; for a bug also where it happened."""
    code = exit_code_of(error)
    if code is not None:
        return f"tuft-step {step} (exit code {int(code)}): {error}"
    frames = "".join(traceback.format_tb(error.__traceback__)[-3:])
    return (
        f"tuft-step {step} (exit code {BUG_EXIT_CODE}): a bug: {type(error).__name__}: {error}\n"
        f"{frames}"
    )


def leave_last_words(step: str, error: BaseException) -> None:
    """Write them to the termination log of this container, where there is one.

    TERMINATION_LOG names another file than /dev/termination-log.
    """
    path = Path(os.environ.get("TERMINATION_LOG") or _DEFAULT_LOG)
    if not (path.is_file() and os.access(path, os.W_OK)):
        return  # no container of Kubernetes
    text = last_words(step, error).encode()
    if len(text) > _LONGEST:
        text = text[: _LONGEST - 3].decode(errors="ignore").encode() + "…".encode()
    try:
        path.write_bytes(text)
    except OSError as failure:
        # The step's own error matters more, and goes to stderr in any case.
        sys.stderr.write(f"can't write {path}: {failure}\n")
