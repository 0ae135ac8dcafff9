"""Who is calling, and with what: the dependencies of handlers."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Query, Request

from tuft.api.body import MAX_JSON_BYTES, Body, read_body
from tuft.api.services import Services
from tuft.config import ApiKeyConfig
from tuft.errors import InvalidRequest, Unauthenticated

LOCAL_TENANT = "local"
"""The tenant of every key where no keys are configured."""


@dataclass(frozen=True)
class Caller:
    """The tenant, and what the headers say of the writer.

    `in_order`: the Tinker SDK itself is calling, which posts one training request at a time
    (see tuft.api.submission). `step_key` goes into the checkpoints that this call makes.
    """

    tenant: str
    writer_epoch: int
    in_order: bool
    step_key: str | None


class Keys:
    """API keys by their sha256, so that a look-up's timing says nothing of a key."""

    def __init__(self, keys: list[ApiKeyConfig]) -> None:
        self._tenants = {_hash(entry.key): entry.tenant for entry in keys}

    def tenant_of(self, key: str | None) -> str:
        """Raises Unauthenticated."""
        if not key:
            raise Unauthenticated("the header X-API-Key is missing; it must hold an API key")
        if not self._tenants and key.startswith("tml-"):
            return LOCAL_TENANT
        tenant = self._tenants.get(_hash(key))
        if tenant is None:
            raise Unauthenticated("the API key in X-API-Key is not one of this service's")
        return tenant


def _hash(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


async def _services(request: Request) -> Services:
    services = request.app.state.services
    assert isinstance(services, Services)
    return services


async def _caller(request: Request) -> Caller:
    keys = request.app.state.keys
    assert isinstance(keys, Keys)
    headers = request.headers
    tenant = keys.tenant_of(headers.get("x-api-key"))
    epoch = headers.get("x-tuft-writer-epoch", "0")
    if not (epoch.isascii() and epoch.isdigit() and len(epoch) < 16):
        raise InvalidRequest(f"X-Tuft-Writer-Epoch {epoch!r} must be a whole number")
    return Caller(
        tenant=tenant,
        writer_epoch=int(epoch),
        in_order="x-sdk-version" in headers,
        step_key=headers.get("x-tuft-step-key"),
    )


async def _json(request: Request, services: Injected, _caller: Authenticated) -> Body:
    return await read_body(request, min(MAX_JSON_BYTES, services.config.limits.max_request_bytes))


async def _large(request: Request, services: Injected, _caller: Authenticated) -> Body:
    return await read_body(request, services.config.limits.max_request_bytes)


Injected = Annotated[Services, Depends(_services)]
Authenticated = Annotated[Caller, Depends(_caller)]
JsonBody = Annotated[Body, Depends(_json)]
"""Read only after the key was checked."""
LargeBody = Annotated[Body, Depends(_large)]
Offset = Annotated[int, Query(ge=0, lt=2**31)]
"""Of a page; the store counts in 64 bits, and a larger number would be its error."""
