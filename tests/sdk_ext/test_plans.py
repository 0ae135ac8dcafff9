"""A recorded plan says exactly what was going to be submitted."""

from __future__ import annotations

import numpy as np
import pytest
from tinker import types

from tuft.contracts.wire import content_digest, decode_forward_backward
from tuft_sdk import SdkError
from tuft_sdk.plans import (
    Forward,
    ForwardBackward,
    OptimStep,
    Plan,
    SaveForSampler,
    SaveState,
    _encode,
)


def _forward_backward() -> ForwardBackward:
    rng = np.random.default_rng(0)
    data = []
    for length in (3, 5):
        floats = rng.standard_normal((2, length)).astype(np.float32)
        data.append(
            types.Datum(
                model_input=types.ModelInput.from_ints(rng.integers(0, 100, length).tolist()),
                loss_fn_inputs={
                    "target_tokens": types.TensorData.from_numpy(rng.integers(0, 100, length)),
                    "logprobs": types.TensorData.from_numpy(floats[0]),
                    "advantages": types.TensorData.from_numpy(floats[1]),
                },
            )
        )
    return ForwardBackward(data, "ppo", {"clip_low_threshold": 0.7, "clip_high_threshold": 1.3})


def test_a_plan_survives_being_recorded() -> None:
    adam = types.AdamParams(learning_rate=0.1 + 0.2, grad_clip_norm=1.0)
    plan = Plan(
        [
            _forward_backward(),
            OptimStep(adam),
            SaveForSampler("p-1", 3600),
            SaveState("c-1"),
            _forward_backward(),
            Forward(_forward_backward().data, "cross_entropy"),
        ],
        {"rows": [1, 2], "x": 0.1},
    )
    again = Plan.decode(plan.encode())
    assert [type(o) for o in again.operations] == [type(o) for o in plan.operations]
    assert again.operations[1:4] == plan.operations[1:4]
    assert dict(again.notes) == dict(plan.notes)


def test_the_journal_sees_the_same_content() -> None:
    """What counts is the service's own digest of the decoded request."""
    operation = _forward_backward()
    again = Plan.decode(Plan([operation]).encode()).operations[0]
    digests = {
        content_digest(decode_forward_backward(_encode(one)[1])) for one in (operation, again)
    }
    assert len(digests) == 1
    assert isinstance(again, ForwardBackward)
    for before, after in zip(operation.data, again.data, strict=True):
        assert before.model_input == after.model_input
        for name, tensor in before.loss_fn_inputs.items():
            np.testing.assert_array_equal(
                np.asarray(tensor.data), np.asarray(after.loss_fn_inputs[name].data)
            )
            assert tensor.dtype == after.loss_fn_inputs[name].dtype


def test_saves_wait_for_the_update_before_them() -> None:
    fb, optim, policy, state = (
        _forward_backward(),
        OptimStep(types.AdamParams()),
        SaveForSampler("p"),
        SaveState("c"),
    )
    assert Plan([fb, fb, optim, policy, state]).stages() == [[fb, fb, optim], [policy], [state]]
    assert Plan([policy]).stages() == [[policy]]
    assert Plan([fb, policy]).stages() == [[fb], [policy]]


@pytest.mark.parametrize("data", [b"", b"\x00\xff\n", b"[]\n", b'{"format": "tuft.plan/9"}\n'])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(SdkError, match=r"tuft\.plan/1"):
        Plan.decode(data)
