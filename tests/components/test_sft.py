"""Rows, tokens, batches and learning rates of the step `sft`; its training is in tests/e2e."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.tiny_model import build_tokenizer
from tuft_components.errors import BadData
from tuft_components.sft import rows as rows_module
from tuft_components.sft.data import Rules, load
from tuft_components.sft.encoding import Encoded, Encoder
from tuft_components.sft.examples import Batches, Examples, held_out
from tuft_components.sft.rows import RowError
from tuft_components.sft.schedule import learning_rate
from tuft_components.sft.step import SftParams
from tuft_components.sft.training import datum_of

TOKENIZER = build_tokenizer()
TALK = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": "cat dog ->"},
    {"role": "assistant", "content": " dog"},
    {"role": "user", "content": "sun ice ->"},
    {"role": "assistant", "content": " ice"},
]
# As Qwen3's: reasoning stays in the last answer only.
FORGETFUL = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n"
    "{% if m['role'] == 'assistant' and loop.last %}thought: {{ m['content'] }}"
    "{% else %}{{ m['content'] }}{% endif %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
OTHER_PROMPT = (
    "{% for m in messages %}{{ m['role'] }}:{{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}answer:{% endif %}"
)


def spoken(encoded: Encoded) -> list[str]:
    """The stretches that are trained on, as text."""
    stretches: list[list[int]] = []
    before = False
    for token, trained in zip(encoded.tokens, encoded.trained, strict=True):
        if trained and not before:
            stretches.append([])
        if trained:
            stretches[-1].append(token)
        before = trained
    return [str(TOKENIZER.decode(stretch)) for stretch in stretches]


def whole(encoded: Encoded) -> str:
    return str(TOKENIZER.decode(encoded.tokens))


def test_a_conversation_trains_what_the_model_would_sample() -> None:
    """The line break that the template puts after each turn is not sampled."""
    encoded = Encoder(TOKENIZER).encode({"messages": TALK})
    assert spoken(encoded) == [" dog<|end|>", " ice<|end|>"]
    assert encoded.tokens == TOKENIZER.apply_chat_template(TALK, tokenize=True, return_dict=False)


def test_the_last_answer_only_and_nothing_behind_it() -> None:
    more = [*TALK, {"role": "user", "content": "tree house ->"}]
    encoded = Encoder(TOKENIZER, turns="last").encode({"messages": more})
    assert spoken(encoded) == [" ice<|end|>"]
    assert "tree" not in whole(encoded)


def test_prompt_and_completion() -> None:
    row = {"prompt": "cat dog ->", "completion": " dog"}
    encoded = Encoder(TOKENIZER).encode(row)
    assert (spoken(encoded), whole(encoded)) == ([" dog<|end|>"], "cat dog -> dog<|end|>")
    assert spoken(Encoder(TOKENIZER, append_eos=False).encode(row)) == [" dog"]
    assert spoken(Encoder(TOKENIZER).encode({**row, "completion": " dog<|end|>"})) == [
        " dog<|end|>"
    ]


def test_prompt_and_completion_of_messages() -> None:
    encoded = Encoder(TOKENIZER).encode({"prompt": TALK[:4], "completion": TALK[4:]})
    assert spoken(encoded) == [" ice<|end|>"]


def test_a_text_is_trained_but_for_its_first_token() -> None:
    encoded = Encoder(TOKENIZER).encode({"text": "cat dog", "prompt": None, "id": 3})
    assert encoded.trained == [False, *[True] * (len(encoded.tokens) - 1)]
    assert whole(encoded) == "cat dog<|end|>"


def with_template(template: str | None) -> Any:
    tokenizer = build_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


def test_a_template_that_forgets_is_refused_but_for_the_last_turn() -> None:
    tokenizer = with_template(FORGETFUL)
    with pytest.raises(BadData, match=r"writes message 3 in another way.*turns=last"):
        Encoder(tokenizer).encode({"messages": TALK})
    encoded = Encoder(tokenizer, turns="last").encode({"messages": TALK})
    assert spoken(encoded) == ["thought:  ice<|end|>"]


def test_a_template_whose_prompt_is_another_is_refused() -> None:
    with pytest.raises(BadData, match="does not begin with its prompt"):
        Encoder(with_template(OTHER_PROMPT)).encode({"messages": TALK})
    with pytest.raises(BadData, match="no chat template"):
        Encoder(with_template(None)).encode({"messages": TALK})


def test_an_answer_whose_tokens_run_together_with_the_prompts() -> None:
    """ "Second word." is made of merges: cut inside a merged token, there is no such prompt."""
    template = (
        "{% for m in messages %}{{ m['content'] }}{% if m['role'] == 'assistant' %}<|end|>"
        "{% endif %}{% endfor %}"
    )
    joined = [{"role": "user", "content": "Second wo"}, {"role": "assistant", "content": "rd."}]
    with pytest.raises(RowError, match="run together"):
        Encoder(with_template(template)).encode({"messages": joined})


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"id": 1}, "it has: id"),
        ({"prompt": "a"}, "no completion"),
        ({"prompt": "a", "completion": 3}, "completion is a int"),
        ({"prompt": "", "completion": "b"}, "prompt is empty"),
        ({"messages": "hello"}, "not a list"),
        ({"messages": [{"content": "a"}]}, "has no role"),
        ({"messages": [{"role": "user", "content": 3}]}, "no content"),
        ({"messages": TALK[:2]}, "no message of the assistant"),
        ({"messages": TALK[2:3]}, "begins with the assistant"),
        ({"text": ""}, "no token"),
    ],
)
def test_rows_that_are_no_example(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(RowError, match=why):
        Encoder(TOKENIZER).encode(fields)


def write_lines(path: Path, lines: Sequence[str]) -> str:
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def read(uri: str, folder: Path, rules: Rules | None = None) -> tuple[Examples, Any]:
    rules = rules or Rules(max_length=64, bad_rows="refuse", too_long="refuse")
    return load(uri, Encoder(TOKENIZER), rules, folder)


GOOD = json.dumps({"prompt": "cat dog ->", "completion": " dog"})


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("{", "line 3: it is no JSON"),
        ("[1]", "line 3: it is a JSON list"),
        ("{}", "line 3: it has no messages"),
        ("[" * 100_000, "line 3: its JSON is nested too deeply"),
        (json.dumps({"text": "dog " * 100}), r"line 3 has \d+ tokens, more than 64"),
    ],
)
def test_a_bad_line_is_named_or_dropped(line: str, why: str, tmp_path: Path) -> None:
    uri = write_lines(tmp_path / "d.jsonl", [GOOD, "", line, GOOD])
    with pytest.raises(BadData, match=why):
        read(uri, tmp_path / "x")
    examples, count = read(uri, tmp_path / "y", Rules(64, "drop", "drop"))
    with examples:
        assert len(examples) == 2
    assert (count.rows, count.bad + count.too_long) == (3, 1)
    assert count.trained == 2 * sum(Encoder(TOKENIZER).encode(json.loads(GOOD)).trained)


def test_bytes_that_are_no_text_are_a_bad_line(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + GOOD.encode() + b'\n{"text": "\xff"}\n')
    with pytest.raises(BadData, match="line 2: it is no JSON"):
        read(str(path), tmp_path / "x")


def test_a_file_without_lines_is_not_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rows_module, "MAX_LINE_BYTES", 100)
    (tmp_path / "d").write_bytes(b"x" * 101)
    with pytest.raises(BadData, match="line 1 is longer than 100 bytes"):
        read(str(tmp_path / "d"), tmp_path / "x", Rules(64, "drop", "drop"))


def test_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="does not exist"):
        read(str(tmp_path / "nothing"), tmp_path / "x")
    empty = write_lines(tmp_path / "e", [])
    with pytest.raises(BadData, match="no row to train on, of 0"):
        read(empty, tmp_path / "x")
    bad = write_lines(tmp_path / "b", ["{", "{}"])
    with pytest.raises(BadData, match=r"of 2: 2 bad, 0 too long\. The first one: line 1"):
        read(bad, tmp_path / "x", Rules(64, "drop", "drop"))


def test_parquet_is_the_same_as_json_lines(tmp_path: Path) -> None:
    rows = [{"messages": TALK[:3], "tools": None}, {"messages": TALK, "tools": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "d.parquet")
    lines = write_lines(tmp_path / "d.jsonl", [json.dumps(row) for row in rows])
    with (
        read(str(tmp_path / "d.parquet"), tmp_path / "x")[0] as one,
        read(lines, tmp_path / "y")[0] as other,
    ):
        assert one.digest == other.digest
        assert len(one) == 2
    pq.write_table(pa.table({"text": ["a", None]}), tmp_path / "n.parquet")
    with pytest.raises(BadData, match="row 2: it has no messages"):
        read(str(tmp_path / "n.parquet"), tmp_path / "z")
    whole = (tmp_path / "d.parquet").read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadData, match="not a readable Parquet"):
        read(str(tmp_path / "cut.parquet"), tmp_path / "z")


def test_only_the_first_rows(tmp_path: Path) -> None:
    uri = write_lines(tmp_path / "d.jsonl", [GOOD, GOOD, "{"])
    rules = Rules(64, "refuse", "refuse", max_rows=2)
    with load(uri, Encoder(TOKENIZER), rules, tmp_path / "x")[0] as examples:
        assert len(examples) == 2


def test_examples_come_back_as_they_went(tmp_path: Path) -> None:
    encoded = [Encoded([1, 70_000, 3], [False, True, False]), Encoded([4, 5], [False, True])]
    with Examples(tmp_path) as examples:
        for row in encoded:
            examples.add(row)
        for number in (1, 0):
            tokens, trained = examples.get(number)
            assert tokens.tolist() == encoded[number].tokens
            assert trained.tolist() == encoded[number].trained


def test_a_datum_predicts_the_next_token_with_its_weight() -> None:
    tokens = np.asarray([5, 6, 7, 8], dtype=np.int32)
    datum = datum_of(tokens, np.asarray([False, False, True, True]), 0.25)
    assert datum.model_input.to_ints() == [5, 6, 7]
    inputs = datum.loss_fn_inputs
    assert list(inputs["target_tokens"].data) == [6, 7, 8]
    assert list(inputs["weights"].data) == [0.0, 0.25, 0.25]
    assert (inputs["target_tokens"].dtype, inputs["weights"].dtype) == ("int64", "float32")


def test_batches_have_every_row_once_an_epoch_in_an_order_by_seed() -> None:
    batches = Batches(range(10, 17), 3, seed=5)
    assert batches.per_epoch == 3
    epochs = [[batches.rows_of(3 * e + n) for n in range(3)] for e in range(2)]
    for epoch in epochs:
        assert [len(batch) for batch in epoch] == [3, 3, 1]
        assert sorted(row for batch in epoch for row in batch) == list(range(10, 17))
    assert epochs[0] != epochs[1]
    # A process that begins in the middle has the same.
    assert Batches(range(10, 17), 3, seed=5).rows_of(4) == epochs[1][1]
    assert Batches(range(10, 17), 3, seed=6).rows_of(0) != epochs[0][0]


def test_held_out_rows_are_not_trained_on() -> None:
    trained, measured = held_out(20, 5, seed=1)
    assert sorted([*trained, *measured]) == list(range(20))
    assert (len(measured), list(measured)) == (5, sorted(measured))
    assert held_out(20, 5, seed=2)[1] != measured
    assert [list(part) for part in held_out(3, 0, seed=1)] == [[0, 1, 2], []]


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1.0, 1.0, 0.8535534, 0.5, 0.1464466]),
    ],
)
def test_learning_rates(schedule: Any, expected: list[float]) -> None:
    rates = [learning_rate(n, peak=2.0, total=6, warmup=2, schedule=schedule) for n in range(6)]
    np.testing.assert_allclose(rates, 2 * np.asarray(expected), rtol=1e-6)


def test_a_schedule_of_nothing_but_warm_up() -> None:
    rates = [learning_rate(n, peak=1.0, total=2, warmup=5, schedule="cosine") for n in range(2)]
    assert rates == [0.2, 0.4]


@pytest.mark.parametrize(
    "wrong",
    [
        {"eval_uri": "a", "eval_rows": 3},
        {"eval_every": 3},
        {"policy_name": "a/b"},
        {"step_key": ""},
        {"schedule": "step"},
    ],
)
def test_parameters_that_do_not_fit(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        SftParams(run_id="r", dataset_uri="d", **wrong)


def test_names_follow_from_the_step_key() -> None:
    params = SftParams(run_id="r", dataset_uri="d", step_key="phase/1")
    assert params.names == ("phase-1", "phase-1")
