"""Is the service there, is it one that these steps fit, and does it serve what the pipeline asks?"""

from __future__ import annotations

from collections.abc import Callable

import tuft_sdk
from tuft_components.errors import BadConfiguration
from tuft_components.preflight.findings import Finding, look
from tuft_components.processes import import_clients

_PROBE = "Is this the tokenizer?"
_KEY = "take a key of the service's models.yaml (api_keys) for TINKER_API_KEY"
_ADDRESS = "correct TINKER_BASE_URL, or start the service"


def service_findings(base_model: str, policy: str, wait_s: float) -> list[Finding]:
    """Each check needs those before it; what comes after one that failed is not checked."""
    try:
        client = tuft_sdk.connect(deadline_s=wait_s)
    except tuft_sdk.ConfigurationError as error:
        return [Finding("service", "wrong", str(error), "set it in the pod's environment")]
    with client:
        checks: list[tuple[str, str, Callable[[], str]]] = [
            ("service", _ADDRESS, lambda: _reachable(client)),
            ("key and version", _KEY, lambda: _fitting(client)),
            (
                "base model",
                "serve it (models.yaml), or set base_model to one that is served",
                lambda: _served(client, base_model),
            ),
            (
                "tokenizer",
                "look at the model's folder on the service: its tokenizer files must be there",
                lambda: _tokenizer(client, base_model),
            ),
        ]
        if policy:
            checks.append(
                (
                    "policy",
                    "give a tinker:// path of your tenant that is not expired, or a base model",
                    lambda: _policy(client, policy),
                )
            )
        found: list[Finding] = []
        for name, advice, see in checks:
            if found and found[-1].state != "ok":
                found.append(Finding(name, "not checked", f"since {found[-1].check} is not ok"))
                continue
            found.append(look(name, advice, see))
    # One that was skipped says what is really wrong, not its neighbour.
    first = next((finding.check for finding in found if finding.state in ("wrong", "away")), "")
    return [
        Finding(f.check, f.state, f"since {first} is not ok") if f.state == "not checked" else f
        for f in found
    ]


def _reachable(client: tuft_sdk.TuftClient) -> str:
    try:
        client.wait_until_ready()
    except tuft_sdk.NotThere as error:
        raise BadConfiguration(f"{client.base_url} is no TuFT service: {error}") from error
    return f"{client.base_url} is ready"


def _fitting(client: tuft_sdk.TuftClient) -> str:
    try:
        version = client.version()
    except tuft_sdk.NotThere as error:
        raise BadConfiguration(
            f"{client.base_url} does not tell a TuFT version: it is another service, or one that "
            "is older than these steps; use the steps' image of the service's version"
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise BadConfiguration(
            f"{client.base_url} answers, but not as a TuFT service (a proxy's page?)"
        ) from error
    if version.interface != tuft_sdk.INTERFACE:
        raise BadConfiguration(
            f"the service is TuFT {version.tuft} with interface {version.interface}, and these "
            f"steps speak {tuft_sdk.INTERFACE}: use the steps' image of the service's version"
        )
    return f"the key is known; TuFT {version.tuft}"


def _served(client: tuft_sdk.TuftClient, base_model: str) -> str:
    models = client.models()
    if not models:
        raise BadConfiguration("the service serves no model")
    if base_model and base_model not in models:
        raise BadConfiguration(f"{base_model!r} is not served; there are: {', '.join(models)}")
    return f"{base_model or models[0]} is served"


def _tokenizer(client: tuft_sdk.TuftClient, base_model: str) -> str:
    import_clients(tokenizers=True)
    tokenizer = client.tokenizer(base_model or client.models()[0])
    tokens = tokenizer.encode(_PROBE)
    if not tokens:
        raise BadConfiguration("the tokenizer gives no tokens")
    return f"it comes from the service ({len(tokens)} tokens of a probe)"


def _policy(client: tuft_sdk.TuftClient, policy: str) -> str:
    client.sampling_client(policy)
    return f"{policy} can be sampled from"
