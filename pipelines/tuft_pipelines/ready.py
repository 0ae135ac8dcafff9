"""A ready pipeline: its parameters, what is decided when it is compiled, and its tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tuft_components.steps import Contract
from tuft_pipelines.errors import WrongArgument
from tuft_pipelines.faces import Faces
from tuft_pipelines.parameters import Parameters, Renamed, checked_model, passed_on


class NoChoices(Contract):
    """Of a pipeline that is compiled in one way only."""


@dataclass(frozen=True)
class ReadyPipeline:
    """`compose(builder, choices)` adds the tasks. `choices` are of type `choices`."""

    name: str
    summary: str
    parameters: Parameters
    compose: Callable[[Builder, Any], None]
    choices: type[Contract] = NoChoices
    renamed: Renamed = field(default_factory=dict)

    def minimal(self, *shown: str) -> ReadyPipeline:
        """The same with these parameters only."""
        return ReadyPipeline(
            name=f"{self.name}_minimal",
            summary=f"{self.summary} Few parameters.",
            parameters=self.parameters.only(*shown),
            compose=self.compose,
            choices=self.choices,
            renamed=self.renamed,
        )

    def choose(self, settings: Sequence[str] | Mapping[str, Any] = ()) -> Contract:
        """What is decided when it is compiled, from texts `NAME=VALUE` or values.

        Raises:
            WrongArgument: naming what is wrong, and what would be right.
        """
        if not isinstance(settings, Mapping):
            pairs = [setting.partition("=") for setting in settings]
            if wrong := [name for name, equals, _ in pairs if not equals]:
                raise WrongArgument(f"--build {wrong[0]}: write NAME=VALUE")
            settings = {name: text for name, _, text in pairs}
        chosen = checked_model(self.choices, settings, f"choice of {self.name}")
        assert isinstance(chosen, Contract)
        return chosen

    def build(self, faces: Faces, choices: Contract | None = None) -> Any:
        """The KFP pipeline, made of those faces of the steps."""
        from kfp import dsl

        chosen = self.choose({}) if choices is None else choices

        def pipeline(*arguments: Any) -> None:
            channels = dict(zip(self.parameters.shown, arguments, strict=True))
            # KFP puts the values in when it runs.
            channels["work_uri"] = f"{channels['work_root']}/{channels['name']}"
            self.compose(Builder(self, faces, channels), chosen)

        pipeline.__name__ = self.name
        pipeline.__doc__ = self.parameters.docstring(self.summary)
        pipeline.__signature__ = self.parameters.signature()  # type: ignore[attr-defined]
        name = f"tuft-{self.name.replace('_', '-')}"
        return dsl.pipeline(name=name, description=self.summary)(pipeline)


class Builder:
    """Adds tasks to the pipeline that is being built."""

    def __init__(self, pipeline: ReadyPipeline, faces: Faces, channels: Mapping[str, Any]) -> None:
        self._pipeline = pipeline
        self._faces = faces
        self._channels = channels
        self._tasks: list[Any] = []

    def value(self, name: str) -> Any:
        """Of a parameter of the pipeline: what it is set to, or its default where it can't be."""
        if name in self._channels:
            return self._channels[name]
        return self._pipeline.parameters.default(name)

    def task(self, step: str, name: str, after: Iterable[Any] = (), **wired: Any) -> Any:
        """A task of that step, shown as `name`; `wired` goes before the pipeline's parameters."""
        pipeline = self._pipeline
        arguments = passed_on(pipeline.parameters, self._channels, step, pipeline.renamed)
        task = self._faces.component(step)(**{**arguments, **wired})
        self._faces.configure(step, task)
        task.set_display_name(name)
        for other in after:
            task.after(other)
        self._tasks.append(task)
        return task

    def last(self, step: str, name: str, **wired: Any) -> Any:
        """A task of that step after all others."""
        return self.task(step, name, after=list(self._tasks), **wired)
