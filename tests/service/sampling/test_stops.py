"""How sequences end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.service.sampling.harness import MakeEngine, ask, info_of, only, run, transformers_only
from tuft.contracts.operations import SamplingParams
from tuft.errors import InvalidRequest
from tuft.modeling.loading import load_base
from tuft.sampling.detokenizer import load_detokenizer
from tuft.sampling.engine import Engine
from tuft.sampling.stops import Detokenizer, StopCondition
from tuft.sampling.transformers_engine import TransformersEngine

PROMPT = [5, 17, 300, 42]


@pytest.fixture
def detokenizer(tiny_model_folder: Path) -> Detokenizer:
    made = load_detokenizer(tiny_model_folder)
    assert made is not None
    return made


def encode(folder: Path, text: str) -> list[int]:
    from transformers import AutoTokenizer

    ids: list[int] = AutoTokenizer.from_pretrained(folder).encode(text, add_special_tokens=False)
    return ids


def ends_at(tokens: list[int], detokenizer: Detokenizer, *stop: str) -> int | None:
    """How many tokens the sequence has when it ends."""
    condition = StopCondition(SamplingParams(max_tokens=9, stop_strings=list(stop)), detokenizer)
    for count, token in enumerate(tokens, start=1):
        if condition.reached(token):
            return count
    return None


def test_stop_string_ends_with_the_token_that_completes_it(
    tiny_model_folder: Path, detokenizer: Detokenizer
) -> None:
    tokens = encode(tiny_model_folder, "tree houße -> x\n\nuser: dog")
    for stop in ("ouß", "->", "\n\nuser", "e h", "ß", "dog"):
        count = ends_at(tokens, detokenizer, stop)
        assert count is not None
        assert stop in detokenizer.decode(tokens[:count])
        assert stop not in detokenizer.decode(tokens[: count - 1])
    assert ends_at(tokens, detokenizer, "sun", "cat") is None
    assert ends_at(tokens, detokenizer, "sun", "->") == ends_at(tokens, detokenizer, "->")


def test_every_split_of_a_stop_string_over_tokens_is_seen(
    tiny_model_folder: Path, detokenizer: Detokenizer
) -> None:
    single = {detokenizer.decode([token]): token for token in range(512)}
    text = "say stop. 日本 now"
    for tokens in (
        [token for char in text for token in encode(tiny_model_folder, char)],
        encode(tiny_model_folder, text),
    ):
        for stop in ("stop", "p. ", "本", "日本 n", "now"):
            count = ends_at(tokens, detokenizer, stop)
            assert count is not None
            assert stop in detokenizer.decode(tokens[:count])
            assert stop not in detokenizer.decode(tokens[: count - 1])
    assert "s" in single


def test_special_tokens_have_text(tiny_model_folder: Path, detokenizer: Detokenizer) -> None:
    tokens = encode(tiny_model_folder, "dog<|end|>sun")
    count = ends_at(tokens, detokenizer, "<|end|>")
    assert count == tokens.index(0) + 1


def test_bytes_that_never_make_a_character_do_not_hide_a_stop(
    tiny_model_folder: Path, detokenizer: Detokenizer
) -> None:
    lead = encode(tiny_model_folder, "日")[0]
    assert detokenizer.decode([lead]) == "\ufffd"
    tokens = [lead, lead, *encode(tiny_model_folder, "dog")]
    assert ends_at(tokens, detokenizer, "dog") == len(tokens)


def test_stop_tokens(engine: Engine) -> None:
    free = only(run(engine, ask(PROMPT, seed=2, max_tokens=30))[0])
    stop = int(free.tokens[10])
    first = free.tokens.tolist().index(stop)
    ended = only(run(engine, ask(PROMPT, seed=2, max_tokens=30, stop_tokens=[stop]))[0])
    assert ended.tokens.tolist() == free.tokens.tolist()[: first + 1]
    assert len(ended.logprobs) == first + 1
    assert (ended.stop_reason, free.stop_reason) == ("stop", "length")


def test_stop_on_the_last_allowed_token_is_a_stop(engine: Engine) -> None:
    free = only(run(engine, ask(PROMPT, seed=2, max_tokens=5))[0]).tokens.tolist()
    first = free.index(free[4]) + 1
    ended = only(run(engine, ask(PROMPT, seed=2, max_tokens=first, stop_tokens=[free[4]]))[0])
    assert (len(ended.tokens), ended.stop_reason) == (first, "stop")


def test_stop_strings_in_the_engine(engine: Engine, folder: Path) -> None:
    detokenizer = load_detokenizer(folder)
    assert detokenizer is not None
    free = only(run(engine, ask(PROMPT, seed=2, max_tokens=30))[0]).tokens.tolist()
    stop = detokenizer.decode(free[8:10])[:3]
    result = run(engine, ask(PROMPT, seed=2, max_tokens=30, num_samples=2, stop_strings=[stop]))[0]
    ended = result.sequences[0]
    count = ends_at(free, detokenizer, stop)
    assert count is not None
    assert count <= 10
    assert (ended.tokens.tolist(), ended.stop_reason) == (free[:count], "stop")


@transformers_only
def test_eos_is_an_ordinary_token_unless_asked_for(engine: Engine) -> None:
    """Token 0 is the model's EOS; so hot that every token is equally likely."""
    hot: dict[str, Any] = {"temperature": 1e30, "seed": 1, "max_tokens": 100, "num_samples": 16}
    free = run(engine, ask(PROMPT, **hot))[0].sequences
    assert {len(each.tokens) for each in free} == {100}
    assert any(0 in each.tokens.tolist() for each in free)
    ended = run(engine, ask(PROMPT, stop_tokens=[0], **hot))[0].sequences
    assert "stop" in {each.stop_reason for each in ended}


def test_context_ends_a_sequence(engine: Engine) -> None:
    result = only(run(engine, ask([1] * 250, max_tokens=100))[0])
    assert (len(result.tokens), result.stop_reason) == (6, "length")


def test_prompt_that_fills_the_context_can_still_be_scored(engine: Engine) -> None:
    result = run(engine, ask([1] * 256, max_tokens=1, prompt_logprobs=True, topk_sample=2))[0]
    assert (len(only(result).tokens), only(result).stop_reason) == (0, "length")
    topk = only(result).topk
    assert topk is not None
    assert topk[0].shape == (0, 2)
    assert result.prompt_logprobs is not None
    assert len(result.prompt_logprobs) == 256


@transformers_only
def test_stop_strings_need_a_tokenizer(folder: Path, make_engine: MakeEngine) -> None:
    model: Any = load_base(folder, "float32", "cpu")
    engine = TransformersEngine(model, info_of(model), None, max_sequences=2, max_cells=1024)
    with pytest.raises(InvalidRequest, match="no tokenizer"):
        engine.submit(ask(PROMPT, stop_strings=["x"]))
    assert len(only(run(engine, ask(PROMPT, stop_tokens=[600]))[0]).tokens) == 8


def test_folder_without_tokenizer_has_none(tmp_path: Path) -> None:
    assert load_detokenizer(tmp_path) is None
