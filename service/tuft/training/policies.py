"""Ephemeral policies: from the trainer to samplers, and to the object store.

With a folder that samplers of this machine share, a policy is there at once and is uploaded in
the background. It counts as published when it is where the journal is: in that folder where
the store is embedded, in the object store where journal and machine may part.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Generator, Mapping

from tuft.checkpoints import Checkpoints
from tuft.checkpoints.handover import Handover
from tuft.config import ServiceConfig
from tuft.contracts.records import CheckpointManifest, Disposable
from tuft.errors import TuftError
from tuft.objects import ObjectStore
from tuft.store import Store
from tuft.training.waiting import until_available

log = logging.getLogger(__name__)

# The first token with the new weights is wanted now, the upload is not.
_BEFORE_UPLOAD_S = 0.5
_PAUSE_FIRST_S = 0.5
_PAUSE_MAX_S = 15.0


class PolicyWriter:
    """Publishes policies. What an earlier trainer left on its way is uploaded, too."""

    def __init__(self, store: Store, objects: ObjectStore, config: ServiceConfig) -> None:
        self._store = store
        self._checkpoints = Checkpoints(objects)
        self._ttl_s = config.limits.policy_ttl_s
        mode = config.persistence.mode
        self._apart = mode == "redis_url"
        """The journal may outlive this machine, and a folder of it."""
        folder = config.handover_folder
        self._handover = None if folder is None else Handover(folder, sync=mode == "file_redis")
        self._todo: queue.SimpleQueue[str] = queue.SimpleQueue()
        if self._handover is not None and not self._apart:
            for prefix in self._handover.waiting():
                self._todo.put(prefix)
            threading.Thread(target=self._upload_all, name="policies", daemon=True).start()

    def publish(
        self, prefix: str, manifest: CheckpointManifest, files: Mapping[str, bytes]
    ) -> Generator[float, None, CheckpointManifest]:
        """Make a policy known under its prefix, so that a crash can't lose it.

        Raises:
            StorageFull: there is no room.
        """
        handover = self._handover
        if handover is not None and not handover.full:
            try:
                manifest = handover.put(prefix, manifest, files, uploaded=self._apart)
            except OSError as error:
                log.warning("%s goes by the object store: %s", prefix, error)
            else:
                if not self._apart:
                    self._todo.put(prefix)
                    return manifest
        return (yield from until_available(prefix, lambda: self._upload(prefix, manifest, files)))

    def _upload(
        self, prefix: str, manifest: CheckpointManifest, files: Mapping[str, bytes]
    ) -> CheckpointManifest:
        # The session is the run's; a process that attached later has another one.
        policy = Disposable(key=prefix, folder=True, session_id=manifest.run.session_id)
        self._store.disposal.schedule(policy, time.time() + self._ttl_s)
        return self._checkpoints.write(manifest, files, prefix=prefix).manifest

    def _upload_all(self) -> None:
        pause = _PAUSE_FIRST_S
        wait = threading.Event().wait
        while True:
            prefix = self._todo.get()
            wait(_BEFORE_UPLOAD_S)
            try:
                self._hand_on(prefix)
                pause = _PAUSE_FIRST_S
            except (TuftError, OSError) as error:
                # Others first, should it be about this one only. All of them can wait.
                self._todo.put(prefix)
                log.warning("%s is not in the object store yet: %s", prefix, error)
                wait(pause)
                pause = min(2 * pause, _PAUSE_MAX_S)

    def _hand_on(self, prefix: str) -> None:
        assert self._handover is not None
        handed = self._handover.get(prefix)
        if handed is None:
            log.error("the policy %s is no longer in the hand-over folder", prefix)
            return
        files = {name: bytes(data) for name, data in handed.files.items()}
        self._upload(prefix, handed.manifest, files)
        self._handover.uploaded(prefix)
