"""Where and how the steps run on Kubernetes: settings of a cluster, in a file, for all engines.

    image: registry.example.com/tuft-pipelines/steps:0.1.0
    service_account: pipeline-runner
    env:
      AWS_ENDPOINT_URL: http://minio.tuft:9000
    secrets:
      AWS_ACCESS_KEY_ID: {secret: my-bucket, key: accesskey}
    steps:
      default: {memory: 1Gi, retries: 5}
      train_loop: {timeout_s: 86400, node_selector: {pool: cpu}}

Pipelines say what is done; nothing of a cluster is in them. What a file leaves out has the
defaults below; keys that do not exist are errors.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    field_validator,
)

from tuft_components.errors import BadConfiguration
from tuft_components.kfp_faces import steps_image
from tuft_components.steps import STEP_NAMES

CLIENT_SECRET = "tuft-client"  # noqa: S105  # the name of a Kubernetes Secret
STORE_SECRET = "tuft-object-store"  # noqa: S105
DEFAULT_STEP = "default"

Quantity = Annotated[str, StringConstraints(pattern=r"^\d+(\.\d+)?(m|k|Ki|M|Mi|G|Gi|T|Ti)?$")]
Variable = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
Name = Annotated[str, StringConstraints(min_length=1)]


class _Closed(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SecretKey(_Closed):
    """One value in a Kubernetes Secret. An optional one may be missing: no variable then."""

    secret: Name
    key: Name
    optional: bool = False


class Toleration(_Closed):
    """As Kubernetes has it."""

    key: str = ""
    operator: Literal["Exists", "Equal"] = "Equal"
    value: str = ""
    effect: Literal["", "NoSchedule", "PreferNoSchedule", "NoExecute"] = ""
    toleration_seconds: int | None = None


class StepSettings(_Closed):
    """Of the pods of a step."""

    cpu: Quantity = Field(default="250m", description="Requested: steps mostly wait.")
    cpu_limit: Quantity = Field(default="2", description="At most.")
    memory: Quantity = Field(default="2Gi", description="Requested, and at most.")
    retries: int = Field(default=3, ge=0, description="Executions after one that failed.")
    backoff_s: int = Field(default=30, ge=1, description="Before the first retry; then doubled.")
    backoff_max_s: int = Field(default=600, ge=1, description="Between retries, at most.")
    timeout_s: int = Field(default=0, ge=0, description="Of one execution; 0: none.")
    caching: bool = Field(
        default=False,
        description="Take the result of an equal execution. What most steps do depends on the "
        "state of the training run, which the engine does not know: leave it off for those.",
    )
    node_selector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()
    labels: dict[str, str] = {}
    annotations: dict[str, str] = {}


def _default_secrets() -> dict[Variable, SecretKey | None]:
    client = ("TINKER_BASE_URL", "TINKER_API_KEY")
    store = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION")
    return {
        **{name: SecretKey(secret=CLIENT_SECRET, key=name) for name in client},
        **{name: SecretKey(secret=STORE_SECRET, key=name, optional=True) for name in store},
    }


class Profile(_Closed):
    """The whole file. `secrets` of a file are added to the defaults; null takes one away."""

    image: Name = Field(default_factory=steps_image)
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    image_pull_secrets: tuple[Name, ...] = ()
    service_account: str = ""
    """Of the pods; empty: the engine's own default."""
    env: dict[Variable, str] = {}
    secrets: dict[Variable, SecretKey | None] = Field(
        default_factory=_default_secrets, validate_default=True
    )
    steps: dict[str, StepSettings] = {}
    """`default` is for all steps; what a step's own entry names goes before it."""

    @field_validator("secrets")
    @classmethod
    def _with_defaults(
        cls, given: dict[Variable, SecretKey | None]
    ) -> dict[Variable, SecretKey | None]:
        return {**_default_secrets(), **given}

    @field_validator("steps")
    @classmethod
    def _known_steps(cls, given: dict[str, StepSettings]) -> dict[str, StepSettings]:
        if unknown := sorted(set(given) - {DEFAULT_STEP, *STEP_NAMES}):
            raise ValueError(
                f"no step {', '.join(unknown)}; there are: {', '.join((DEFAULT_STEP, *STEP_NAMES))}"
            )
        return given

    def step(self, name: str) -> StepSettings:
        """The settings of that step."""
        settings: dict[str, Any] = {}
        for entry in (DEFAULT_STEP, name):
            if entry in self.steps:
                settings |= {
                    key: getattr(self.steps[entry], key)
                    for key in self.steps[entry].model_fields_set
                }
        return StepSettings(**settings)

    def secret_env(self) -> dict[str, SecretKey]:
        """Variable → where its value is. A variable of `env` goes before a secret's."""
        return {
            name: key
            for name, key in sorted(self.secrets.items())
            if key is not None and name not in self.env
        }

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """The profile in that YAML file.

        Raises:
            BadConfiguration: it can't be read, or a key or value is wrong.
        """
        try:
            content = yaml.safe_load(Path(path).read_text())
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise BadConfiguration(f"the profile {path} can't be read: {error}") from error
        if content is None:
            content = {}
        if not isinstance(content, dict):
            raise BadConfiguration(
                f"the profile {path} must be a YAML mapping, such as `env: {{}}`"
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            lines = [f"the profile {path} is wrong:"]
            for item in error.errors():
                where = ".".join(str(part) for part in item["loc"])
                message = item["msg"].removeprefix("Value error, ")
                if item["type"] == "extra_forbidden":
                    message = "there is no such key"
                lines.append(f"  {where}: {message}")
            raise BadConfiguration("\n".join(lines)) from error
