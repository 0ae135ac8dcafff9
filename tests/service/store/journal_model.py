"""What the journal and the ledger promise, as plain Python: no store, no atomicity, no limits of
size. `test_state_machine.py` does the same things to both and compares what they say."""

from __future__ import annotations

from dataclasses import dataclass, field

WRITERS_KEPT = 16


@dataclass
class Limits:
    pending: int = 4
    of_tenant: int = 7
    behind_snapshot: int = 7
    kept_results: int = 6


@dataclass
class Entry:
    """An operation, or (`content` None) a tombstone."""

    content: str | None
    payload: bytes | None = None


@dataclass
class Step:
    state: str = "started"
    plan: str | None = None
    first_seq_id: int | None = None
    attempts: list[tuple[int, int]] = field(default_factory=list)
    overtaken_at: int | None = None
    result: str | None = None


@dataclass
class Run:
    digest: str
    writer_epoch: int = 0
    writers: dict[str, int] = field(default_factory=dict)
    entries: dict[int, Entry] = field(default_factory=dict)
    cursor: int = -1
    top: int = 0
    trimmed: int = -1
    done_by: int | None = None
    snapshot: int | None = None
    failures: dict[int, str] = field(default_factory=dict)
    deaths: dict[int, int] = field(default_factory=dict)
    steps: dict[str, Step] = field(default_factory=dict)
    newest_plan: str | None = None
    refused_and_trimmed: set[int] = field(default_factory=set)

    @property
    def filled(self) -> int:
        at = self.trimmed
        while at + 1 in self.entries:
            at += 1
        return at

    @property
    def pending(self) -> int:
        return sum(
            seq > self.cursor and entry.content is not None for seq, entry in self.entries.items()
        )


class Model:
    """All runs of one tenant, their results, and who leads.

    Methods answer with what the store should: a word for each kind of answer or error.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.runs: dict[str, Run] = {}
        self.lease = 0
        self.results: dict[str, tuple[str, bytes | None]] = {}
        """By request id; those of operations that are not done yet are ("pending", None)."""
        self.digests: dict[str, str] = {}
        self.kept: list[str] = []

    def create(self, run_id: str, digest: str) -> str:
        run = self.runs.get(run_id)
        if run is not None:
            return "duplicate" if run.digest == digest else "conflict"
        self.runs[run_id] = Run(digest, entries={0: Entry(digest)})
        self._promise(run_id, 0, digest)
        return "accepted"

    def attach(self, run_id: str, writer: str) -> int:
        run = self.runs[run_id]
        if writer not in run.writers:
            run.writer_epoch += 1
            run.writers[writer] = run.writer_epoch
            for oldest in list(run.writers)[:-WRITERS_KEPT]:
                del run.writers[oldest]
        return run.writers[writer]

    def accept(
        self, run_id: str, seq: int, entry: Entry, *, epoch: int, proves_earlier: bool
    ) -> str:
        run = self.runs[run_id]
        if epoch != run.writer_epoch:
            return "stale"
        known = run.entries.get(seq)
        if known is not None:
            if known.content is None:
                return "refused"
            return "duplicate" if known.content == entry.content else "conflict"
        if seq in run.refused_and_trimmed:
            return "refused"
        if seq <= run.trimmed:
            digest = self.digests.get(f"{run_id}:{seq}")
            return "duplicate" if digest in (None, entry.content) else "conflict"
        if self._is_full(run, seq):
            return "full"
        if proves_earlier:
            for missing in range(run.filled + 1, seq):
                run.entries.setdefault(missing, Entry(None))
        run.entries[seq] = entry
        run.top = max(run.top, seq)
        assert entry.content is not None
        self._promise(run_id, seq, entry.content)
        return "accepted"

    def _is_full(self, run: Run, seq: int) -> bool:
        if seq == run.filled + 1 and seq < run.top:
            return False  # others wait for it
        of_tenant = sum(other.pending for other in self.runs.values())
        covered = -1 if run.snapshot is None else run.snapshot
        return (
            run.pending >= self.limits.pending
            or of_tenant >= self.limits.of_tenant
            or seq - covered - 1 >= self.limits.behind_snapshot
        )

    def _promise(self, run_id: str, seq: int, digest: str) -> None:
        self.results[f"{run_id}:{seq}"] = ("pending", None)
        self.digests[f"{run_id}:{seq}"] = digest

    def refuse(self, run_id: str, seq: int, epoch: int) -> str:
        run = self.runs[run_id]
        if epoch != run.writer_epoch:
            return "stale"
        if seq > run.cursor and seq not in run.entries:
            run.entries[seq] = Entry(None)
            run.top = max(run.top, seq)
        return "refused"

    def move_on(
        self, run_id: str, seq: int, lease: int, outcome: tuple[str, bytes | None] | None
    ) -> str:
        """`outcome` None: over a tombstone; else complete an operation with it."""
        run = self.runs[run_id]
        if lease != self.lease:
            return "lease"
        if run.cursor == seq and run.done_by == lease:
            return "ok"
        if run.cursor != seq - 1:
            return "lease"
        entry = run.entries.get(seq)
        if entry is None or (entry.content is None) != (outcome is None):
            return "impossible"
        run.cursor, run.done_by = seq, lease
        if outcome is not None:
            self._deliver(run, f"{run_id}:{seq}", seq, outcome)
        return "ok"

    def _deliver(
        self, run: Run, request_id: str, seq: int, outcome: tuple[str, bytes | None]
    ) -> None:
        self.results[request_id] = outcome
        if outcome[0] == "failed":
            run.failures[seq] = "why"
        run.deaths.pop(seq, None)
        self.kept.append(request_id)
        for oldest in self.kept[: -self.limits.kept_results]:
            self.kept.remove(oldest)
            del self.results[oldest], self.digests[oldest]

    def set_snapshot(self, run_id: str, seq: int, lease: int) -> str:
        run = self.runs[run_id]
        if lease != self.lease:
            return "lease"
        if seq > run.cursor:
            return "impossible"
        if run.snapshot is None or seq > run.snapshot:
            run.snapshot = seq
        return "ok"

    def trim(self, run_id: str, up_to: int, lease: int) -> str:
        run = self.runs[run_id]
        if lease != self.lease:
            return "lease"
        if up_to <= run.trimmed:
            return "ok"
        if run.snapshot is None or up_to > run.snapshot:
            return "impossible"
        for seq in [seq for seq in run.entries if seq <= up_to]:
            if run.entries.pop(seq).content is None:
                run.refused_and_trimmed.add(seq)  # for an hour, which no test lasts
            run.failures.pop(seq, None)
        run.trimmed = up_to
        return "ok"

    def begin(self, run_id: str, key: str, epoch: int) -> Step | None:
        """None here and below: the writer is stale. (KeyError: there is no such step.)"""
        run = self.runs[run_id]
        if epoch != run.writer_epoch:
            return None
        return run.steps.setdefault(key, Step())

    def plan(self, run_id: str, key: str, plan: str, first_seq_id: int, epoch: int) -> Step | None:
        run = self.runs[run_id]
        if epoch != run.writer_epoch:
            return None
        step = run.steps[key]
        if step.state == "started" and step.plan is None:
            step.plan, step.first_seq_id = plan, first_seq_id
            self._took_over(run, key, first_seq_id)
        return step

    def attempt(
        self, run_id: str, key: str, number: int, begins: tuple[int, int], epoch: int
    ) -> Step | None:
        run = self.runs[run_id]
        if epoch != run.writer_epoch:
            return None
        step = run.steps[key]
        if step.state == "started" and step.plan is not None and number == len(step.attempts) + 1:
            step.attempts.append(begins)
            self._took_over(run, key, begins[1])
        return step

    def _took_over(self, run: Run, key: str, first_seq_id: int) -> None:
        before = run.newest_plan
        if before is not None and before != key:
            other = run.steps[before]
            if other.state == "started" and other.overtaken_at is None:
                other.overtaken_at = first_seq_id
        run.newest_plan = key
        run.steps[key].overtaken_at = None

    def finish(self, run_id: str, key: str, result: str, epoch: int) -> Step | None:
        run = self.runs[run_id]
        if epoch != run.writer_epoch:
            return None
        step = run.steps[key]
        if step.state == "started":
            step.state, step.result = "finished", result
            if step.plan is not None:
                step.plan, step.attempts, step.overtaken_at = None, [], None
        return step
