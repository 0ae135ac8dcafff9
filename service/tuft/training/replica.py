"""What one rank holds, and how it does a command."""

from __future__ import annotations

from collections.abc import Sequence

from tuft.deepspeed_config import DeepSpeedPlan
from tuft.errors import DamagedCheckpoint
from tuft.modeling.adapters import adapter_files, adapter_from_files, layout_of, new_adapter
from tuft.modeling.loading import PreTrainedModel
from tuft.modeling.lora import Adapter
from tuft.training import commands
from tuft.training.engines import Engines
from tuft.training.forward import Forward
from tuft.training.partitioned import PartitionedBase
from tuft.training.state import AdapterState

OPTIMIZER_FILE = "optimizer.safetensors"


class Replica:
    """The base model with LoRA layers, and an engine for each adapter in training."""

    def __init__(
        self,
        model: PreTrainedModel,
        model_name: str,
        rank: int,
        activation_bytes: int | None = None,
        plan: DeepSpeedPlan | None = None,
        base: PartitionedBase | None = None,
    ) -> None:
        """`activation_bytes` and `base` as `Forward` has them. Raises: ConfigError."""
        self._model = model
        self._forward = Forward(model, activation_bytes, base)
        self._plan = plan or DeepSpeedPlan()
        self._model_name = model_name
        self._rank = rank
        self._built: dict[str, Adapter] = {}
        self._engines = Engines(self._plan)

    @property
    def num_parameters(self) -> int:
        """Of the base model, also where its ranks have a part each."""
        return sum(getattr(p, "ds_numel", p.numel()) for p in self._model.parameters())

    def is_collective(self, command: commands.Command) -> bool:
        """Whether ranks talk to each other while they do it: it fails on all of them or none."""
        match command:
            case commands.Compute():
                return self._plan.base_zero is not None
            case commands.Export(_, optimizer):
                return optimizer and self._plan.adapter_stage == 1
            case commands.Capture(_, gradient):
                return gradient or self._plan.adapter_stage == 1
        return command.collective

    def do(self, command: commands.Command) -> object:
        """Do a command; its class says what the result is.

        Raises:
            TuftError: the command's content is wrong; nothing was changed.
        """
        match command:
            case commands.Compute(micro_batches):
                return self._compute(micro_batches)
            case commands.Step(run_id, hyperparameters):
                return self._engines[run_id].step(hyperparameters)
            case commands.ClearGradients(run_id):
                self._engines[run_id].clear_gradients()
            case commands.Create(run_id, spec):
                self._built[run_id] = new_adapter(self._model, spec)
            case commands.Restore(run_id, files):
                self._built[run_id] = adapter_from_files(self._model, files)
            case commands.Start(run_id, optimizer):
                self._engines.start(run_id, self._built.pop(run_id), optimizer)
            case commands.Export(run_id, optimizer):
                return self._export(run_id, optimizer)
            case commands.Capture(run_id, gradient):
                state = self._engines[run_id].capture(gradient=gradient)
                return state if self._rank == 0 else None
            case commands.Resume(run_id, data):
                self._resume(run_id, AdapterState.decode(data))
            case commands.Spill(run_id):
                return self._engines.spill(run_id)
            case commands.Unspill(run_id):
                self._engines.unspill(run_id)
            case commands.Close(run_id):
                self._built.pop(run_id, None)
                self._engines.close(run_id)
            case _:
                raise TypeError(f"no rank knows the command {command!r}")
        return None

    def _compute(
        self, micro_batches: Sequence[commands.MicroBatch | None]
    ) -> list[commands.RowResult]:
        mine = micro_batches[self._rank] or ()
        adapters = {group.run_id: self._engines[group.run_id].adapter for group in mine}
        return self._forward.compute(adapters, mine, micro_batches)

    def _resume(self, run_id: str, state: AdapterState) -> None:
        if state.layout != layout_of(self._model, state.spec):
            raise DamagedCheckpoint(
                f"the snapshot of {run_id} is of an adapter of another model than {self._model_name}"
            )
        device = next(self._model.parameters()).device
        # What the ranks accumulated was summed: one of them goes on with it.
        self._engines.resume(run_id, state, device, gradient=self._rank == 0)

    def _export(self, run_id: str, optimizer: bool) -> dict[str, bytes] | None:
        engine = self._engines[run_id]
        # Ranks that have a part of the state each put it together.
        joint = self.is_collective(commands.Export(run_id, optimizer))
        state = engine.optimizer_file() if optimizer and (joint or self._rank == 0) else None
        if self._rank != 0:
            return None
        files = adapter_files(engine.adapter, self._model_name)
        return files if state is None else {**files, OPTIMIZER_FILE: state}
