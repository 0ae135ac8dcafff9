"""Which face of the steps a pipeline is made of: containers for a cluster, or local processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tuft_components.profile import Profile, StepSettings

_BACKOFF_FACTOR = 2


@dataclass(frozen=True)
class Faces:
    """The steps as KFP components, by name, and what every task made of one gets.

    `configure(step, task)` is called once with each task.
    """

    component: Callable[[str], Callable[..., Any]]
    configure: Callable[[str, Any], None]


def local_faces(*, retries: int = 0) -> Faces:
    """Lightweight components, for `kfp.local`. Steps take their environment from ours."""

    def configure(_step: str, task: Any) -> None:
        task.set_caching_options(enable_caching=False)
        if retries:
            task.set_retry(num_retries=retries, backoff_duration="0s")

    return Faces(component=lambda step: _component(step, "_lightweight"), configure=configure)


def container_faces(profile: Profile) -> Faces:
    """Container components, for Kubeflow Pipelines on Kubernetes, as `profile` says."""

    def configure(step: str, task: Any) -> None:
        task.set_container_image(profile.image)
        for name, value in sorted(profile.env.items()):
            task.set_env_variable(name, value)
        _give_secrets(task, profile)
        _settle(task, profile.step(step))
        _settle_images(task, profile)

    return Faces(component=lambda step: _component(step, ""), configure=configure)


def _component(step: str, suffix: str) -> Callable[..., Any]:
    module = import_module(f"tuft_components.{step}.component")
    component: Callable[..., Any] = getattr(module, f"{step}{suffix}")
    return component


def _give_secrets(task: Any, profile: Profile) -> None:
    from kfp import kubernetes

    by_secret: dict[tuple[str, bool], dict[str, str]] = {}
    for name, entry in profile.secret_env().items():
        by_secret.setdefault((entry.secret, entry.optional), {})[entry.key] = name
    for (secret, optional), variables in by_secret.items():
        kubernetes.use_secret_as_env(
            task, secret_name=secret, secret_key_to_env=variables, optional=optional
        )


def _settle(task: Any, settings: StepSettings) -> None:
    from kfp import kubernetes

    # What most steps do depends on the state of the training run, which KFP does not know.
    task.set_caching_options(enable_caching=settings.caching)
    # Exit code 75 says that a retry can help; KFP has no condition on exit codes, so that all
    # failures are retried.
    task.set_retry(
        num_retries=settings.retries,
        backoff_duration=f"{settings.backoff_s}s",
        backoff_factor=_BACKOFF_FACTOR,
        backoff_max_duration=f"{settings.backoff_max_s}s",
    )
    task.set_cpu_request(settings.cpu).set_cpu_limit(settings.cpu_limit)
    task.set_memory_request(settings.memory).set_memory_limit(settings.memory)
    if settings.timeout_s:
        kubernetes.set_timeout(task, settings.timeout_s)
    for key, value in sorted(settings.node_selector.items()):
        kubernetes.add_node_selector(task, key, value)
    for toleration in settings.tolerations:
        kubernetes.add_toleration(
            task,
            key=toleration.key or None,
            operator=toleration.operator,
            value=toleration.value or None,
            effect=toleration.effect or None,
            toleration_seconds=toleration.toleration_seconds,
        )
    for key, value in sorted(settings.labels.items()):
        kubernetes.add_pod_label(task, key, value)
    for key, value in sorted(settings.annotations.items()):
        kubernetes.add_pod_annotation(task, key, value)


def _settle_images(task: Any, profile: Profile) -> None:
    from kfp import kubernetes

    kubernetes.set_image_pull_policy(task, profile.image_pull_policy)
    if profile.image_pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(profile.image_pull_secrets))
