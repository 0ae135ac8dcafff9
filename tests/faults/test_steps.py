"""Steps are executed exactly once, whatever is killed while they work, and whenever."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
import tinker

import tuft_sdk
from tests.e2e.service import Service, running, write_config
from tests.faults.steps import KEY, KILLED, LOOK, Steps, Update, faults_of, new_key
from tests.helpers.step_process import Fault
from tuft_components.errors import ExitCode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

Undisturbed = tuple[Update, list[str]]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, tiny_model_folder: Path) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    persistence = {"mode": "file_redis", "file_path": str(folder / "state")}
    config = write_config(folder, tiny_model_folder, persistence=persistence)
    with running(folder, config) as service:
        yield service


@pytest.fixture(scope="module")
def steps(service: Service, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Steps]:
    with (
        tinker.ServiceClient(base_url=service.url, api_key=KEY) as client,
        tuft_sdk.connect(service.url, KEY) as tuft,
    ):
        yield Steps(service, client, tuft, tmp_path_factory.mktemp("steps"))


@pytest.fixture(scope="module")
def undisturbed(steps: Steps) -> Undisturbed:
    return steps.undisturbed()


def test_an_update_that_dies_at_any_request(steps: Steps, undisturbed: Undisturbed) -> None:
    expected, requests = undisturbed
    assert len(requests) > 15
    for fault in faults_of(requests):
        steps.update_with(fault, expected)


def test_a_start_run_that_dies_at_any_request_makes_one_run(steps: Steps) -> None:
    outcome = steps.start_run(new_key()).wait()
    for fault in faults_of(outcome.requests):
        before, key = steps.run_count(), new_key()
        killed = steps.start_run(key, fault).wait()
        assert killed.code == KILLED or fault.request == "POST telemetry", (fault, killed)
        first = steps.start_run(key).wait()
        assert first.code == ExitCode.OK, (fault, first)
        assert steps.start_run(key).wait().outputs == first.outputs
        assert steps.run_count() == before + 1


def test_of_two_copies_at_once_one_does_the_work(steps: Steps, undisturbed: Undisturbed) -> None:
    """The first is held up anywhere; the second does all; then the first goes on."""
    expected, requests = undisturbed
    outcomes = set()
    for fault in faults_of(requests, "stop"):
        run_id = steps.new_run()
        late = steps.update(run_id, fault=fault)
        stopped = late.wait_until_stopped()
        assert stopped or fault.request == "POST telemetry", fault
        steps.result(run_id, steps.update(run_id).wait()).assert_equals(expected)
        if stopped:
            late.resume()
        outcome = late.wait()
        outcomes.add(outcome.code)
        if outcome.code == ExitCode.OK:
            steps.result(run_id, outcome).assert_equals(expected)
        else:
            assert outcome.code == ExitCode.LEASE_LOST, outcome
            assert "lease lost" in outcome.error
        steps.check_finished(run_id, expected)
    assert ExitCode.OK in outcomes


def test_two_copies_that_hold_each_other_up(steps: Steps, undisturbed: Undisturbed) -> None:
    """The first one goes on while the second is held up in its turn."""
    expected, _requests = undisturbed
    places = [
        Fault("GET tuft/steps", "after", action="stop"),
        Fault("POST tuft/runs/ID/attach", "after", action="stop"),
        Fault("PUT tuft/steps/plan", "after", action="stop"),
        Fault("POST optim_step", "after", action="stop"),
        Fault("POST tuft/steps/finish", "before", action="stop"),
    ]
    for one, other in product(places, places):
        run_id = steps.new_run()
        first = steps.update(run_id, fault=one)
        assert first.wait_until_stopped()
        second = steps.update(run_id, fault=other)
        if second.wait_until_stopped():
            first.resume()
            ends = [first.wait()]
            second.resume()
            ends.append(second.wait())
        else:  # what it was to be stopped at, the first had done
            first.resume()
            ends = [first.wait(), second.wait()]
        for end in ends:
            if end.code == ExitCode.OK:
                steps.result(run_id, end).assert_equals(expected)
            else:
                assert (end.code, "lease lost" in end.error) == (ExitCode.LEASE_LOST, True)
        assert ExitCode.OK in {end.code for end in ends}, (one, other, ends)
        steps.check_finished(run_id, expected)


def test_two_start_runs_at_once_make_one_run(steps: Steps) -> None:
    for fault in faults_of(steps.start_run(new_key()).wait().requests, "stop"):
        before, key = steps.run_count(), new_key()
        late = steps.start_run(key, fault)
        stopped = late.wait_until_stopped()
        assert stopped or fault.request == "POST telemetry", fault
        done = steps.start_run(key).wait()
        assert done.code == ExitCode.OK
        if stopped:
            late.resume()
        outcome = late.wait()
        assert outcome.code in (ExitCode.OK, ExitCode.LEASE_LOST), outcome
        assert outcome.outputs in (None, done.outputs)
        assert steps.run_count() == before + 1


@pytest.mark.parametrize("victim", ["tuft.api", "tuft.training", "valkey-server"])
def test_an_update_lives_on_when_the_service_dies(
    victim: str, steps: Steps, undisturbed: Undisturbed
) -> None:
    """Killed behind each thing that the step asked it to do; the step only waits longer."""
    expected, requests = undisturbed
    for name in dict.fromkeys(requests):
        if name.startswith(("GET", "POST client/", "POST sessions/", "POST telemetry")):
            continue
        run_id = steps.new_run()
        fault = Fault(name, "after", victim=steps.pid_of(victim))
        outcome = steps.update(run_id, fault=fault).wait()
        steps.result(run_id, outcome).assert_equals(expected)
        steps.check_finished(run_id, expected)
        assert steps.pid_of(victim) != fault.victim


@pytest.mark.parametrize("seed", range(3))
def test_updates_that_die_again_and_again(
    seed: int, steps: Steps, undisturbed: Undisturbed
) -> None:
    """Six updates one after another, each killed at random until it gets through."""
    dice = random.Random(seed)
    calm, wild = steps.new_run(), steps.new_run()
    faults = faults_of(undisturbed[1])
    kills = 0
    for iteration in range(6):
        expected = steps.result(calm, steps.update(calm, iteration).wait(), iteration)
        while dice.random() < 0.75:
            killed = steps.update(wild, iteration, dice.choice(faults)).wait()
            kills += killed.code == KILLED
            assert killed.code in (KILLED, ExitCode.OK)
        outcome = steps.update(wild, iteration).wait()
        steps.result(wild, outcome, iteration).assert_equals(expected)
        assert steps.update(wild, iteration).wait().requests == LOOK
    assert kills > 3


def test_an_update_that_is_killed_at_any_time(steps: Steps, undisturbed: Undisturbed) -> None:
    """Not at a request but anywhere: while the service works on what was sent, say."""
    dice = random.Random(1)
    for _ in range(30):
        run_id = steps.new_run()
        process = steps.update(run_id)
        while dice.random() < 0.8:
            process.kill_after(dice.uniform(0, 1.0))
            assert process.wait().code in (KILLED, ExitCode.OK)
            process = steps.update(run_id)
        steps.result(run_id, process.wait()).assert_equals(undisturbed[0])
        steps.check_finished(run_id, undisturbed[0])
