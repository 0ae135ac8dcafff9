"""KFP faces of the step `promote`, made from its contract.

Do not edit: `make generate` writes it. KFP reads types at run time: no postponed annotations here.
"""

# ruff: noqa: ARG001  # KFP reads a container component's signature; values go through {{$}}

from typing import NamedTuple

from kfp import dsl

from tuft_components.kfp_faces import step_container, steps_image


@dsl.container_component
def promote(
    policy: str,
    target_uri: str,
    model_name: str,
    metric: float,
    model: dsl.Output[dsl.Model],
    card: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
    promoted: dsl.OutputPath(bool),  # type: ignore[valid-type]
    uri: dsl.OutputPath(str),  # type: ignore[valid-type]
    version: str = "",
    metric_name: str = "mean_reward",
    gate: str = "threshold",
    threshold: float = 0.0,
    baseline: float = 0.0,
    min_gain: float = 0.0,
    higher_is_better: bool = True,
    merge: bool = False,
    base_model_uri: str = "",
    base_model_name: str = "",
    card_metrics: str = "{}",
    card_notes: str = "",
    work_uri: str = "",
    timeout_s: float = 600.0,
) -> dsl.ContainerSpec:
    """Publish the adapter of a policy as a version of a model, if it passes a gate."""
    return step_container("promote")


@dsl.component(base_image=steps_image(), install_kfp_package=False)
def promote_lightweight(
    policy: str,
    target_uri: str,
    model_name: str,
    metric: float,
    model: dsl.Output[dsl.Model],
    card: dsl.Output[dsl.Markdown],
    metrics: dsl.Output[dsl.Metrics],
    version: str = "",
    metric_name: str = "mean_reward",
    gate: str = "threshold",
    threshold: float = 0.0,
    baseline: float = 0.0,
    min_gain: float = 0.0,
    higher_is_better: bool = True,
    merge: bool = False,
    base_model_uri: str = "",
    base_model_name: str = "",
    card_metrics: str = "{}",
    card_notes: str = "",
    work_uri: str = "",
    timeout_s: float = 600.0,
) -> NamedTuple("Outputs", [("promoted", bool), ("uri", str)]):  # type: ignore[valid-type]
    """Publish the adapter of a policy as a version of a model, if it passes a gate."""
    arguments = dict(locals())
    from tuft_components.kfp_faces import run_lightweight

    return run_lightweight("promote", arguments)
