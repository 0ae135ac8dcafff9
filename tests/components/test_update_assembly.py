"""Which rows an update trains on, what it submits, and what it reports."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from tinker import types

from tests.components.samples import ROW, row
from tuft_components.rl.datums import assemble
from tuft_components.update.assembly import datum_of, episodes_of, rows_with_signal
from tuft_components.update.step import UpdateParams, _outputs
from tuft_sdk.plans import ForwardBackward, OptimStep, Plan, SaveForSampler, SaveState


def test_groups_without_signal_are_dropped() -> None:
    kept, dropped = rows_with_signal(
        [
            row(group_id=0, advantages=[0.0, 0.0]),
            row(group_id=0, sample=1, advantages=[0.0, 0.0]),
            row(group_id=1, advantages=[0.0, 0.0]),
            row(group_id=1, sample=1, advantages=[1.0, 1.0]),
            row(group_id=2, advantages=[1.0, 1.0], mask=[0.0, 0.0]),
        ]
    )
    assert [(r.group_id, r.sample) for r in kept] == [(1, 0), (1, 1)]
    assert dropped == 2


def test_equal_group_numbers_of_two_iterations_are_two_groups() -> None:
    kept, dropped = rows_with_signal([row(advantages=[0.0, 0.0]), row(iteration=1)])
    assert [r.iteration for r in kept] == [1]
    assert dropped == 1


def test_empty_completions_are_left_out() -> None:
    names = ("completion_tokens", "logprobs", "advantages", "mask")
    nothing: dict[str, Any] = {name: [] for name in names}
    kept, dropped = rows_with_signal([ROW, row(sample=1, **nothing)])
    assert kept == [ROW]
    assert dropped == 0


def test_a_row_becomes_a_datum() -> None:
    datum = datum_of(assemble([row(mask=[1.0, 0.0])]))
    assert datum.model_input.to_ints() == [5, 6, 7, 8]
    inputs = {name: tensor.data for name, tensor in datum.loss_fn_inputs.items()}
    assert inputs == {
        "target_tokens": [6, 7, 8, 9],
        "logprobs": [0.0, 0.0, -0.25, -1.5],
        "advantages": [0.0, 0.0, 0.5, 0.0],
    }
    assert datum.loss_fn_inputs["target_tokens"].dtype == "int64"


def test_turns_that_go_on_share_a_datum() -> None:
    second = row(turn=1, prompt_tokens=[5, 6, 7, 8, 9, 4])
    told_anew = row(turn=2, prompt_tokens=[5, 6, 7, 8, 9, 4, 8, 1])
    other = row(sample=1, prompt_tokens=[5, 6, 7, 8, 9, 4])
    assert episodes_of([ROW, second, told_anew, other]) == [[ROW, second], [told_anew], [other]]


def test_metrics_tell_what_the_trainer_said() -> None:
    rows = [ROW, row(sample=1)]
    plan = Plan(
        [
            *(ForwardBackward([datum_of(assemble([one]))], "importance_sampling") for one in rows),
            OptimStep(types.AdamParams()),
            SaveForSampler("policy-000001"),
        ],
        {"policy": "policy-000001", "sampled": [[(2, 4)], [(2, 4)]], "metrics": {"rows": 2.0}},
    )
    logprobs = types.TensorData([-9.0, -9.0, -0.5, -2.0], "float32", [4])
    forward = SimpleNamespace(metrics={"loss:sum": 1.5}, loss_fn_outputs=[{"logprobs": logprobs}])
    optim = SimpleNamespace(metrics={"grad_norm": 0.25})
    outputs = _outputs(
        UpdateParams(run_id="s:train:0", checkpoint_name="not-saved"),
        plan,
        [forward, forward, optim, SimpleNamespace()],
    )
    assert outputs.policy == "tinker://s:train:0/sampler_weights/policy-000001"
    assert outputs.checkpoint == ""
    assert outputs.metrics == {
        "rows": 2.0,
        "loss:sum": 3.0,
        "grad_norm": 0.25,
        "kl_sample_train": pytest.approx((0.25 + 0.5) / 2),
    }


def test_expired_results_leave_the_policy() -> None:
    plan = Plan(
        [
            ForwardBackward([datum_of(assemble([ROW]))], "ppo"),
            OptimStep(types.AdamParams()),
            SaveForSampler("p"),
            SaveState("c"),
        ],
        {"policy": "p", "sampled": [[(2, 4)]], "metrics": {"rows": 1.0}},
    )
    # The checkpoint is that of the plan, whatever a retry asks for.
    params = UpdateParams(run_id="r", checkpoint_name="another")
    outputs = _outputs(params, plan, [None, None, None, None])
    assert outputs.policy == "tinker://r/sampler_weights/p"
    assert outputs.checkpoint == "tinker://r/weights/c"
    assert outputs.metrics == {"rows": 1.0}
