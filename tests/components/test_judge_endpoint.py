"""A judge behind an OpenAI-compatible endpoint: over HTTP, to a server on this machine whose
answers are scripted."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.components.samples import transition
from tuft_components.batches import read_batch
from tuft_components.errors import BadConfiguration, BadData, TransientFailure
from tuft_components.feedback.step import STEP, FeedbackOutputs
from tuft_components.rewards import reward_function
from tuft_components.trajectories import write_trajectories

Answer = tuple[int, Any]


def said(text: str | None, **more: Any) -> Answer:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop", **more}
    return 200, {"choices": [choice], "usage": {"total_tokens": 42}}


class Endpoint:
    """Answers request after request from `answers`, the last one again and again."""

    def __init__(self) -> None:
        self.answers: list[Answer] = [said("Score: 5")]
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.headers: dict[str, str] = {}
        self.models: Answer = (200, {"data": [{"id": "judge-1"}]})
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._send(*endpoint.models)

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                assert self.path == "/v1/chat/completions"
                with endpoint._lock:
                    endpoint.requests.append(body)
                    endpoint.keys.append(self.headers.get("authorization"))
                    answers = endpoint.answers
                    answer = answers.pop(0) if len(answers) > 1 else answers[0]
                self._send(*answer)

            def _send(self, status: int, body: Any) -> None:
                data = body.encode() if isinstance(body, str) else json.dumps(body).encode()
                self.send_response(status)
                for name, value in endpoint.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: Any) -> None:
                """Not on stderr."""

        return Handler


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    made = Endpoint()
    yield made
    made.close()


Feedback = Callable[..., FeedbackOutputs]


@pytest.fixture
def feedback(tmp_path: Path, endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> Feedback:
    """The step, on two episodes of one group, which answered x and y."""
    monkeypatch.setenv("JUDGE_KEY", "secret-1")
    rows = [transition(sample=n, completion_text=text) for n, text in enumerate("xy")]
    write_trajectories(str(tmp_path / "t"), rows, {})

    def run(reward: str = "judge", work_uri: str = "", **args: Any) -> FeedbackOutputs:
        ours = {"endpoint": f"{endpoint.url}/", "model": "judge-1", "key_env": "JUDGE_KEY"}
        given = {**ours, "backoff_s": 0.0, "concurrency": 1, **args}
        return STEP.execute(
            {"reward": reward, "reward_args": given, "work_uri": work_uri},
            {"trajectories": str(tmp_path / "t")},
            {"batch": str(tmp_path / "b")},
        )

    return run


def rewards(tmp_path: Path) -> list[float]:
    return [round(row.reward, 6) for row in read_batch(str(tmp_path / "b"))]


def test_scores_of_an_endpoint(endpoint: Endpoint, feedback: Feedback, tmp_path: Path) -> None:
    endpoint.answers = [said("Score: 9"), said("Score: 2")]
    outputs = feedback(request={"max_tokens": None, "max_completion_tokens": 99})
    assert rewards(tmp_path) == [0.9, 0.2]
    assert outputs.metrics["judge_questions"] == 2
    assert outputs.metrics["judge_tokens"] == 84
    asked = endpoint.requests[0]
    assert asked["model"] == "judge-1"
    assert asked["messages"][0]["content"].startswith("You are a strict judge.")
    assert asked["max_completion_tokens"] == 99
    assert "max_tokens" not in asked
    assert endpoint.keys == ["Bearer secret-1"] * 2


def test_nothing_kept_has_the_key(endpoint: Endpoint, feedback: Feedback, tmp_path: Path) -> None:
    feedback(work_uri=str(tmp_path / "work"))
    kept = [path for path in (tmp_path / "work").rglob("*") if path.is_file()]
    assert {path.parent.name for path in kept} >= {"judgements", "records"}
    assert not any(b"secret-1" in path.read_bytes() for path in kept)


def test_a_retried_step_asks_nothing_twice(
    endpoint: Endpoint, feedback: Feedback, tmp_path: Path
) -> None:
    endpoint.answers = [said("Score: 9"), (401, {"error": "no more money"})]
    with pytest.raises(BadConfiguration, match=r"it refuses the key \(401: .*no more money"):
        feedback(work_uri=str(tmp_path / "work"))
    endpoint.answers = [said("Score: 2")]
    outputs = feedback(work_uri=str(tmp_path / "work"))
    assert rewards(tmp_path) == [0.9, 0.2]
    assert outputs.metrics["judge_cached"] == 1
    assert len(endpoint.requests) == 3
    again = feedback(work_uri=str(tmp_path / "work"))
    assert again.metrics["judge_questions"] == 0
    assert len(list((tmp_path / "work").glob("judgements/*"))) == 1


def test_pairs_by_an_endpoint(endpoint: Endpoint, feedback: Feedback, tmp_path: Path) -> None:
    endpoint.answers = [said("Better: B"), said("Better: A")]
    outputs = feedback("judge_pairwise")
    shown = endpoint.requests[0]["messages"][0]["content"]
    x_first = shown.index("[answered]\nx\n") < shown.index("[answered]\ny\n")
    assert rewards(tmp_path) == ([0.0, 1.0] if x_first else [1.0, 0.0])
    assert outputs.mean_reward == 0.5
    assert outputs.metrics["judge_pairs"] == 1


def test_busy_is_waited_out(endpoint: Endpoint, feedback: Feedback, tmp_path: Path) -> None:
    endpoint.answers = [(429, "slow down"), (503, "starting"), said("Score: 9"), said("Score: 2")]
    endpoint.headers = {"retry-after": "0"}
    feedback()
    assert rewards(tmp_path) == [0.9, 0.2]
    assert len(endpoint.requests) == 4


def test_a_judge_that_stays_away_is_transient(endpoint: Endpoint, feedback: Feedback) -> None:
    endpoint.answers = [(502, "bad gateway")]
    with pytest.raises(TransientFailure, match="in 3 requests; the last time: 502: bad gateway"):
        feedback(retries=2)
    endpoint.close()
    with pytest.raises(TransientFailure, match=r"in 1 requests; the last time: ConnectError"):
        feedback(retries=0)


def test_an_answer_that_does_not_come_is_transient(
    endpoint: Endpoint, feedback: Feedback, monkeypatch: pytest.MonkeyPatch
) -> None:
    with endpoint._lock, pytest.raises(TransientFailure, match="ReadTimeout"):
        feedback(retries=1, timeout_s=0.1)


def test_one_question_that_is_refused_costs_no_other(
    endpoint: Endpoint, feedback: Feedback, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    endpoint.answers = [(400, {"error": "context length exceeded"}), said("Score: 2")]
    outputs = feedback(tries=3)
    assert rewards(tmp_path) == [0.2, 0.2]
    assert outputs.metrics["judge_without_verdict"] == 1
    assert len(endpoint.requests) == 2
    assert "no verdict to 1 of 2 questions" in caplog.text


@pytest.mark.parametrize("text", [None, "", "I'd rather not", "Score: NaN", "Score: " + "9" * 400])
def test_nonsense_is_neutral(
    endpoint: Endpoint, feedback: Feedback, tmp_path: Path, text: str | None
) -> None:
    endpoint.answers = [said(text)]
    feedback(max_nonsense=1)
    assert rewards(tmp_path) == [0.5, 0.5]
    with pytest.raises(BadData, match="2 of 2 questions in 3 tries"):
        feedback()


def test_a_score_that_is_cut_off_is_none(
    endpoint: Endpoint, feedback: Feedback, tmp_path: Path
) -> None:
    endpoint.answers = [said("Score: 1", finish_reason="length"), said("Score: 2")]
    feedback()
    assert rewards(tmp_path) == [0.2, 0.2]


@pytest.mark.parametrize("body", ["<html>", [], {"choices": []}, {"choices": [{"message": 3}]}])
def test_what_is_no_chat_completion_is_told(
    endpoint: Endpoint, feedback: Feedback, body: Any
) -> None:
    endpoint.answers = [(200, body)]
    with pytest.raises(BadData, match="gave no chat completion"):
        feedback()


def test_a_wrong_place_is_told(endpoint: Endpoint, feedback: Feedback) -> None:
    endpoint.answers = [(404, "no such model")]
    with pytest.raises(BadConfiguration, match=r"are endpoint and model right\? \(404: no such"):
        feedback()


def test_preflight_looks_for_the_model(endpoint: Endpoint) -> None:
    def check(model: str) -> Any:
        judge: Any = reward_function("judge", {"endpoint": endpoint.url, "model": model})
        return judge.check()

    assert check("judge-1") == f"the judge judge-1 is at {endpoint.url}"
    with pytest.raises(BadConfiguration, match="no model 'judge-2'; there are: judge-1"):
        check("judge-2")
    endpoint.models = (403, "who are you")
    with pytest.raises(BadConfiguration, match="refuses the key"):
        check("judge-1")
    endpoint.models = (500, "")
    with pytest.raises(TransientFailure, match="answers 500"):
        check("judge-1")
    endpoint.models = (404, "")
    assert "has no list of models" in check("judge-1")
    endpoint.close()
    with pytest.raises(TransientFailure, match="can't be reached"):
        check("judge-1")
