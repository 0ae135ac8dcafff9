"""An OpenAI-compatible endpoint whose models judge by the right answer that the question names.

`right-90` is right nine times of ten, and wrong by the question's digest: asked again, it errs
again. `yes` finds everything perfect.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tuft_components.rewards.exact_match import first_word

_ANSWERED = re.compile(r"\[answered\]\n(.*?)(?=\n=====)", re.DOTALL)
_REFERENCE = re.compile(r"^A right answer would be: (.*)$", re.MULTILINE)


def answer(model: str, question: str) -> str:
    """Raises:
    KeyError: no such model.
    """
    wrong = {"right-90": 0.1, "right-100": 0.0, "yes": None}[model]
    comparing = "Better:" in question
    if wrong is None:
        return "Better: same" if comparing else "Score: 10"
    references = _REFERENCE.findall(question)
    solved = [first_word(said) == references[-1] for said in _ANSWERED.findall(question)]
    draw = int.from_bytes(hashlib.sha256(question.encode()).digest()[:4], "big") / 2**32
    if not comparing:
        return f"Score: {10 if solved[0] != (draw < wrong) else 0}"
    if solved[0] == solved[1]:
        return "Better: same"
    return f"Better: {'A' if solved[0] != (draw < wrong) else 'B'}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = answer(asked["model"], asked["messages"][0]["content"])
        choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        data = json.dumps({"choices": [choice]}).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Not on stderr."""


@contextmanager
def judge_server() -> Iterator[str]:
    """Its base URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
