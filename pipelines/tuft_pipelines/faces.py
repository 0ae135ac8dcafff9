"""Which face of the steps a pipeline is made of: containers for a cluster, or local processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

SECRET_VARIABLES = ("TINKER_BASE_URL", "TINKER_API_KEY")
# Exit code 75 says that a retry can help; KFP has no condition on exit codes, so all are retried.
_RETRIES = 3
_RETRY_AFTER = "30s"
_RETRY_AFTER_AT_MOST = "600s"


@dataclass(frozen=True)
class Faces:
    """The five steps as KFP components, and what every task made of them gets.

    `configure` is called once with each task.
    """

    start_run: Callable[..., Any]
    rollout: Callable[..., Any]
    feedback: Callable[..., Any]
    update: Callable[..., Any]
    evaluate: Callable[..., Any]
    configure: Callable[[Any], None]


def local_faces() -> Faces:
    """Lightweight components, for `kfp.local`. Steps take their environment from ours."""
    from tuft_components.evaluate.component import evaluate_lightweight
    from tuft_components.feedback.component import feedback_lightweight
    from tuft_components.rollout.component import rollout_lightweight
    from tuft_components.start_run.component import start_run_lightweight
    from tuft_components.update.component import update_lightweight

    def configure(task: Any) -> None:
        task.set_caching_options(enable_caching=False)

    return Faces(
        start_run=start_run_lightweight,
        rollout=rollout_lightweight,
        feedback=feedback_lightweight,
        update=update_lightweight,
        evaluate=evaluate_lightweight,
        configure=configure,
    )


def container_faces(*, secret: str, image: str | None = None) -> Faces:
    """Container components, for Kubeflow Pipelines on Kubernetes.

    Args:
        secret: the Kubernetes Secret with the keys TINKER_BASE_URL and TINKER_API_KEY.
        image: of the steps; None takes what the components name.
    """
    from kfp import kubernetes

    from tuft_components.evaluate.component import evaluate
    from tuft_components.feedback.component import feedback
    from tuft_components.rollout.component import rollout
    from tuft_components.start_run.component import start_run
    from tuft_components.update.component import update

    def configure(task: Any) -> None:
        # What a step does depends on the state of the training run, which KFP does not know.
        task.set_caching_options(enable_caching=False)
        task.set_retry(
            num_retries=_RETRIES,
            backoff_duration=_RETRY_AFTER,
            backoff_factor=2,
            backoff_max_duration=_RETRY_AFTER_AT_MOST,
        )
        kubernetes.use_secret_as_env(
            task,
            secret_name=secret,
            secret_key_to_env={name: name for name in SECRET_VARIABLES},
        )
        if image is not None:
            task.set_container_image(image)

    return Faces(
        start_run=start_run,
        rollout=rollout,
        feedback=feedback,
        update=update,
        evaluate=evaluate,
        configure=configure,
    )
