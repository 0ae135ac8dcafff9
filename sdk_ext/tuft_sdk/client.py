"""`connect()`: one small client that bundles the Tinker SDK and the service's own endpoints."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from tuft_sdk.checkpoints import CheckpointInfo, download, look_up
from tuft_sdk.errors import ConfigurationError, NotThere, translated
from tuft_sdk.extension import ExtensionClient
from tuft_sdk.ledger import TENANT_SCOPE, StepLedger
from tuft_sdk.runs import AttachedRun
from tuft_sdk.tokenizers import fetch_tokenizer, load_tokenizer

if TYPE_CHECKING:
    import tinker
    from transformers import PreTrainedTokenizerBase

    from tuft_sdk.plans import Plan


INTERFACE = 1
"""Of the service's own endpoints, as this package speaks it."""


@dataclass(frozen=True)
class ServiceVersion:
    """`interface` changes where a client that knows another one would go wrong."""

    tuft: str
    interface: int


def connect(
    base_url: str | None = None, api_key: str | None = None, *, deadline_s: float = 300.0
) -> TuftClient:
    """A client of the service that TINKER_BASE_URL and TINKER_API_KEY name.

    Nothing is sent yet. `deadline_s` bounds the retries of a call to the service's own
    endpoints (the Tinker SDK has bounds of its own).

    Raises:
        ConfigurationError: naming the variable that is missing or wrong.
    """
    base_url = base_url or os.environ.get("TINKER_BASE_URL", "")
    api_key = api_key or os.environ.get("TINKER_API_KEY", "")
    if not base_url:
        raise ConfigurationError(
            "TINKER_BASE_URL is not set: give the address of the TuFT service, "
            "for example http://127.0.0.1:8080"
        )
    if not base_url.startswith(("http://", "https://")):
        raise ConfigurationError(
            f"TINKER_BASE_URL is {base_url!r}: it must begin with http:// or https://"
        )
    if not api_key:
        raise ConfigurationError("TINKER_API_KEY is not set: give your key of the TuFT service")
    if not api_key.startswith(("tml-", "eyJ")):
        raise ConfigurationError("TINKER_API_KEY must begin with 'tml-'")
    return TuftClient(base_url.rstrip("/"), api_key, deadline_s=deadline_s)


class TuftClient:
    """The service as a step sees it.

    Attributes:
        extension: the service's own endpoints.
    """

    def __init__(self, base_url: str, api_key: str, *, deadline_s: float = 300.0) -> None:
        self.base_url = base_url
        self._api_key = api_key
        self._deadline_s = deadline_s
        self.extension = ExtensionClient(base_url, api_key, deadline_s=deadline_s)
        self._tokenizers: dict[str, PreTrainedTokenizerBase] = {}
        self._kept: dict[str, AttachedRun] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @cached_property
    def service(self) -> tinker.ServiceClient:
        """The Tinker SDK's client."""
        import tinker

        with translated():
            return tinker.ServiceClient(base_url=self.base_url, api_key=self._api_key)

    def wait_until_ready(self) -> None:
        """Return when the service takes requests for each of its models.

        Workers need not be there: what is asked for waits, and wakes those that were scaled to zero.

        Raises:
            Transient: it did not within the deadline.
        """
        self.extension.request("GET", "readyz")

    def version(self) -> ServiceVersion:
        """Which service this is.

        Raises:
            NotThere: it is no TuFT service, or one from before it told its version.
        """
        answer = self.extension.request("GET", "tuft/version").json()
        return ServiceVersion(str(answer["tuft"]), int(answer["interface"]))

    @property
    def ledger(self) -> StepLedger:
        """The ledger of steps that belong to no training run."""
        return StepLedger(self.extension, TENANT_SCOPE)

    def models(self) -> list[str]:
        """Names of the base models that are served, in the service's order."""
        answer = self.extension.request("GET", "get_server_capabilities").json()
        return [str(entry["model_name"]) for entry in answer["supported_models"]]

    def context_length(self, model_name: str) -> int:
        """How many tokens a served base model takes.

        Raises:
            NotThere: the service does not serve it.
        """
        answer = self.extension.request("GET", "get_server_capabilities").json()
        for entry in answer["supported_models"]:
            if entry["model_name"] == model_name:
                return int(entry["max_context_length"])
        raise NotThere(f"the service does not serve {model_name!r}")

    def tokenizer(self, model_name: str) -> PreTrainedTokenizerBase:
        """The tokenizer of a served base model, fetched from the service and cached."""
        if model_name not in self._tokenizers:
            folder = fetch_tokenizer(self.extension, self.base_url, model_name)
            self._tokenizers[model_name] = load_tokenizer(folder)
        return self._tokenizers[model_name]

    def sampling_client(self, policy: str) -> tinker.SamplingClient:
        """A sampling client for a policy: a tinker:// path, or the name of a base model."""
        with translated():
            if policy.startswith("tinker://"):
                return self.service.create_sampling_client(model_path=policy).result()
            return self.service.create_sampling_client(base_model=policy).result()

    def run_exists(self, run_id: str) -> bool:
        try:
            self.extension.request("GET", f"training_runs/{run_id}")
        except NotThere:
            return False
        return True

    def checkpoint(self, path: str) -> CheckpointInfo:
        """What a checkpoint or policy is made of.

        Raises:
            ConfigurationError: not a tinker:// path. NotThere: none is there, or not yours.
        """
        return look_up(self.extension, path)

    def download(self, checkpoint: CheckpointInfo, name: str, into: Path) -> None:
        """Write one of its files to `into`, with size and sha256 verified.

        Raises:
            NotThere: it has no such file, or is gone. Transient: what came is not what its
                manifest says.
        """
        download(self.extension, checkpoint, name, into)

    def base_model_of(self, run_id: str) -> str:
        """The base model of a training run.

        Raises:
            NotThere: no such run, or not yours.
        """
        return str(self.extension.request("GET", f"training_runs/{run_id}").json()["base_model"])

    def attach(self, run_id: str) -> AttachedRun:
        """Become the one writer of a training run: older writers are refused from now on.

        Raises:
            NotThere: no such run, or not yours.
        """
        # Named, so that a try that was held up on its way can't take the run again, after us.
        answer: dict[str, Any] = self.extension.request(
            "POST", f"tuft/runs/{run_id}/attach", json={"writer": uuid.uuid4().hex}
        ).json()
        return AttachedRun(self.base_url, self._api_key, answer, deadline_s=self._deadline_s)

    def execute_once(
        self,
        run_id: str,
        step_key: str,
        build: Callable[[AttachedRun], Plan],
        conclude: Callable[[Plan, list[Any]], str],
        *,
        timeout_s: float | None = None,
    ) -> str:
        """Execute a step of a run at most once; see `AttachedRun.execute_once`.

        A step that is finished already gives its result, and takes the run from nobody.

        Raises:
            NotThere: no such run, or not yours. Else as `AttachedRun.execute_once`.
        """
        result = StepLedger(self.extension, run_id).result_of(step_key)
        if result is not None:
            return result
        with self._writer(run_id) as attached:
            return attached.execute_once(
                step_key, lambda: build(attached), conclude, timeout_s=timeout_s
            )

    @contextmanager
    def stay_attached(self) -> Iterator[None]:
        """Within the block, `execute_once` attaches to a run once, for all of its steps.

        Where another process attaches meanwhile, the next step loses the lease: it does not
        take the run back.
        """
        self._kept = {}
        try:
            yield
        finally:
            kept, self._kept = self._kept, None
            for attached in kept.values():
                attached.close()

    @contextmanager
    def _writer(self, run_id: str) -> Iterator[AttachedRun]:
        if self._kept is not None:
            if run_id not in self._kept:
                self._kept[run_id] = self.attach(run_id)
            yield self._kept[run_id]
            return
        attached = self.attach(run_id)
        try:
            yield attached
        finally:
            attached.close()

    def close(self) -> None:
        self.extension.close()
        if "service" in self.__dict__:
            self.service.close("success").result()
