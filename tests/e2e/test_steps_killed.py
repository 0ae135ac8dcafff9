"""Steps that die, in short; tests/faults/test_steps.py kills them everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import tinker

import tuft_sdk
from tests.e2e.service import Service
from tests.faults.steps import KEY, KILLED, Steps, Update, new_key
from tests.helpers.step_process import Fault
from tuft_components.errors import ExitCode


@pytest.fixture(scope="module")
def steps(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Steps]:
    folder: Path = tmp_path_factory.mktemp("steps")
    with (
        tinker.ServiceClient(base_url=service.url, api_key=KEY) as client,
        tuft_sdk.connect(service.url, KEY) as tuft,
    ):
        yield Steps(service, client, tuft, folder)


@pytest.fixture(scope="module")
def undisturbed(steps: Steps) -> Update:
    return steps.undisturbed()[0]


@pytest.mark.parametrize(
    "fault",
    [
        Fault("PUT tuft/steps/plan", "after"),
        Fault("POST forward_backward", "after"),
        Fault("POST optim_step", "after"),
        Fault("POST tuft/steps/finish", "after"),
    ],
    ids=str,
)
def test_an_update_that_dies_is_completed_by_its_retry(
    fault: Fault, steps: Steps, undisturbed: Update
) -> None:
    steps.update_with(fault, undisturbed)


@pytest.mark.parametrize("code", [ExitCode.LEASE_LOST, ExitCode.OK])
def test_a_copy_that_is_late_lost_the_lease_or_gets_the_result(
    code: ExitCode, steps: Steps, undisturbed: Update
) -> None:
    run_id = steps.new_run()
    late = steps.update(run_id, fault=Fault("POST optim_step", "before", action="stop"))
    assert late.wait_until_stopped()
    if code == ExitCode.OK:
        steps.result(run_id, steps.update(run_id).wait()).assert_equals(undisturbed)
    else:
        steps.tuft.attach(run_id).close()
    late.resume()
    outcome = late.wait()
    assert outcome.code == code
    assert code == ExitCode.OK or "lease lost: another process attached" in outcome.error
    steps.result(run_id, steps.update(run_id).wait()).assert_equals(undisturbed)


def test_a_start_run_that_dies_three_times_makes_one_run(steps: Steps) -> None:
    before, key = steps.run_count(), new_key()
    faults = [
        Fault("PUT tuft/steps/plan", "after"),
        Fault("POST create_model", "before"),
        Fault("POST create_model", "after"),
    ]
    assert [steps.start_run(key, fault).wait().code for fault in faults] == [KILLED] * 3
    assert steps.start_run(key).wait().code == ExitCode.OK
    assert steps.run_count() == before + 1
