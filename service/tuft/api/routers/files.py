"""What a checkpoint is made of, for those who publish it elsewhere: its manifest and files."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, BinaryIO

from fastapi import APIRouter
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from tuft.api.deps import Authenticated, Caller, Injected
from tuft.api.services import Services
from tuft.contracts.records import CheckpointManifest
from tuft.errors import NotFound, Unavailable

router = APIRouter(prefix="/tuft/checkpoints/{run_id}/{kind}/{name}")
_PIECE = 1 << 20


@router.get("")
def look_at(
    services: Injected, caller: Authenticated, run_id: str, kind: str, name: str
) -> dict[str, Any]:
    """Of the caller's own checkpoint, or of a public one."""
    manifest = _manifest(services, caller, f"tinker://{run_id}/{kind}/{name}")
    run = manifest.run
    return {
        "path": manifest.path,
        "base_model": run.base_model,
        "lora": run.lora.model_dump(),
        "parent": run.parent,
        "step": manifest.step,
        "step_key": manifest.step_key,
        "created_at": manifest.created_at,
        "user_metadata": manifest.user_metadata,
        "files": {name: file.model_dump() for name, file in manifest.files.items()},
    }


@router.get("/files/{file}")
def file_of(
    services: Injected, caller: Authenticated, run_id: str, kind: str, name: str, file: str
) -> Response:
    """A file as it lies in the object store; its size and sha256 are in the manifest.

    It goes through this machine's disk: an adapter may have gigabytes.
    """
    manifest = _manifest(services, caller, f"tinker://{run_id}/{kind}/{name}")
    if file not in manifest.files:
        raise NotFound(f"{manifest.path} has no file {file!r}; it has: {', '.join(manifest.files)}")
    handle, part = tempfile.mkstemp(prefix="tuft-file-")
    os.close(handle)
    path = Path(part)
    try:
        prefix = services.checkpoints.prefix_of(run_id, manifest.kind, name)
        services.checkpoints.fetch(prefix, manifest, file, path)
        content = path.open("rb")
    finally:
        # Without a name it goes with whoever reads it, also where the client or this process ends.
        path.unlink(missing_ok=True)
    return _Download(content)


class _Download(StreamingResponse):
    """An open file's content; it is closed at the end, whatever that is."""

    def __init__(self, content: BinaryIO) -> None:
        size = os.fstat(content.fileno()).st_size
        super().__init__(
            iter(lambda: content.read(_PIECE), b""),
            media_type="application/octet-stream",
            headers={"Content-Length": str(size)},
        )
        self._content = content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._content.close()


def _manifest(services: Services, caller: Caller, path: str) -> CheckpointManifest:
    """From the object store: only there it lists the files.

    Raises:
        InvalidRequest: not a checkpoint's path.
        NotFound: no such checkpoint, or another tenant's.
        Unavailable: it was acknowledged, and is on its way to the object store.
    """
    record = services.catalog.find(caller.tenant, path)
    known = record.manifest
    prefix = services.checkpoints.prefix_of(known.run.run_id, known.kind, known.name)
    try:
        return services.checkpoints.manifest(prefix)
    except NotFound as error:
        raise Unavailable(f"{path} is on its way to the object store; try again") from error
