"""A short part of the fault campaign (`make faults` is the whole), and that it can fail."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.__main__ import main
from tests.faults.campaign import Round, Tally
from tests.faults.moves import ForwardBackward, Journal, OptimStep, SaveState
from tests.faults.points import POINTS
from tests.faults.tree import INJECT, KEYS, Faults, tree
from tests.faults.verdict import FINAL, differing, miscounted, repeat

pytestmark = pytest.mark.filterwarnings("ignore:DEPRECATED:FutureWarning")

# The two where an acknowledged operation would be lost, or be done twice.
_BOUNDARIES = {"api.journal_accept.after": 1, "trainer.journal_complete.before": 1}


@pytest.mark.timeout(300)
def test_processes_that_die_where_something_is_written_lose_nothing(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    """One tenant: results and final weights are those of an undisturbed run, bit for bit."""
    with tree(tmp_path, tiny_model_folder) as service:
        tally = Tally()
        # The runs are compared after the last kill, so the same service can repeat them.
        each = Round(service, service, "one", 5, tally)
        each.begin()
        each.point_kills(dict(_BOUNDARIES), 30)
        each.end()
    assert tally.failures == []
    assert tally.kills == _BOUNDARIES
    assert tally.runs_compared == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_process_dies_at_random(tmp_path: Path) -> None:
    assert main(["--points", "none", "--random", "20", "--folder", str(tmp_path)]) == 0


def test_a_point_kills_the_first_that_comes_there_once(tmp_path: Path) -> None:
    """A process of the service, up to where it opens its object store."""
    faults = Faults(tmp_path / "faults")
    code = (
        "import sys; sys.orig_argv = ['python', '-m', 'tuft.api'];"
        f"sys.path.insert(0, {str(INJECT)!r}); import sitecustomize;"
        "from pathlib import Path; from tuft.objects import LocalObjects;"
        f"LocalObjects(Path({str(tmp_path / 'objects')!r})).put('payloads/a', b'x')"
    )
    env = {"TUFT_FAULTS": str(faults.folder)}
    for point, is_there in (("before", False), ("after", True)):
        faults.arm(f"api.put-payloads.{point}")
        assert subprocess.run([sys.executable, "-c", code], env=env).returncode == -9
        assert not faults.disarm(f"api.put-payloads.{point}")
        assert (tmp_path / "objects" / "payloads" / "a").exists() == is_there
    assert subprocess.run([sys.executable, "-c", code], env=env).returncode == 0
    assert faults.passed() <= set(POINTS)


@pytest.mark.slow
def test_the_verdict_sees_a_lost_step_and_another_weight(
    tmp_path: Path, tiny_model_folder: Path
) -> None:
    from tests.faults.clients import Trainee
    from tests.faults.moves import rows

    with tree(tmp_path, tiny_model_folder, faults=False) as service:
        trainee = Trainee(service.url, KEYS["alice"], 3)
        trainee.open()
        journal = trainee.journal
        assert journal is not None
        for _ in range(3):
            journal.do(ForwardBackward(rows(trainee.rng, 2, 8), "cross_entropy"), OptimStep())
        journal.do(SaveState(FINAL))
        whole = Journal(journal.training, journal.records)
        # As if one step had been lost, and the service had counted on.
        lossy = Journal(journal.training, [*journal.records[:2], *journal.records[4:]])
        found = {
            name: differing(
                each,
                repeat(service.url, trainee.key, 3, each),
                service.objects,
                service.objects,
                exact=exact,
            )
            for name, each, exact in (("whole", whole, True), ("lossy", lossy, False))
        }
    assert found["whole"] == []
    assert any("lora_B" in line for line in found["lossy"])
    assert miscounted(whole) == []
    assert miscounted(lossy) == [f"optim_step {journal.records[5].seq_id} says 3.0, not 2"]
