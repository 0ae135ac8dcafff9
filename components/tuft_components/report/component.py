"""KFP faces of the step `report`, made from its contract.

Do not edit: `make generate` writes it. KFP reads types at run time: no postponed annotations here.
"""

# ruff: noqa: ARG001  # KFP reads a container component's signature; values go through {{$}}

from kfp import dsl

from tuft_components.kfp_faces import step_container, steps_image


@dsl.container_component
def report(
    work_uri: str,
    html: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    title: str = "",
    samples: int = 2,
    longest_text: int = 4000,
) -> dsl.ContainerSpec:
    """The reward curve and sample transcripts of a pipeline run, as one HTML page."""
    return step_container("report")


@dsl.component(base_image=steps_image(), install_kfp_package=False)
def report_lightweight(
    work_uri: str,
    html: dsl.Output[dsl.HTML],
    metrics: dsl.Output[dsl.Metrics],
    title: str = "",
    samples: int = 2,
    longest_text: int = 4000,
) -> None:
    """The reward curve and sample transcripts of a pipeline run, as one HTML page."""
    arguments = dict(locals())
    from tuft_components.kfp_faces import run_lightweight

    run_lightweight("report", arguments)
