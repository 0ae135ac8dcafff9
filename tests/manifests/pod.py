"""A pod of the manifests as a process of this machine, with a pod's rights and its volumes.

Its root is this machine's, read-only, with the pod's volumes at their places; it is the pod's user,
has no capabilities and gets none. The network is this machine's.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.manifests.kustomize import Workload, of_kind

# `$1` is a folder that is ours; what stands for MOUNTS and USER is put in below.
_BEGIN = """
set -e
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" "$1/root"
cd "$1/root"
# Where this machine's Python may be.
chmod 755 root
mount --rbind /proc proc
mount --rbind /dev dev
MOUNTS
mount -o remount,ro "$1/root"
shift
exec chroot . setpriv USER "$@"
"""


def skip_where_impossible(folder: Path) -> None:
    """Skips the test where this user or kernel can't make such a root."""
    if os.geteuid() != 0:
        pytest.skip("only root can make a pod's root")
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
    try:
        done = subprocess.run(
            [*command, _script([], "--no-new-privs"), "sh", str(folder), "true"],
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        pytest.skip("there is no unshare command")
    if done.returncode:
        pytest.skip(f"this machine can't make a pod's root: {done.stderr.strip()}")


def _script(mounts: list[str], user: str) -> str:
    return _BEGIN.replace("MOUNTS", "\n".join(mounts)).replace("USER", user)


@dataclass
class Pod:
    """One run of a workload's (only) container, from its start to its end.

    Args:
        variant, workload: what it is of.
        folder: an empty one, for its root and its emptyDirs.
        claims: folders of persistent volumes, by claim or claim template.
        secrets: keys and values, by Secret.
        here: turns the cluster's addresses in a text into this machine's.
        env: what is different from the manifest, and PATH.
    """

    variant: str
    workload: Workload
    folder: Path
    claims: Mapping[str, Path]
    secrets: Mapping[str, Mapping[str, str]]
    here: Callable[[str], str]
    env: Mapping[str, str]

    def __post_init__(self) -> None:
        [self.container] = self.workload.containers
        self.log = self.folder.parent / f"{self.folder.name}.log"
        (self.folder / "root").mkdir(parents=True)
        mounts = [line for mount in self.container["volumeMounts"] for line in self._mount(mount)]
        command = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
        command += [_script(mounts, self._user()), "sh", str(self.folder / "root")]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, *map(self.here, self.container["command"])],
                env=self._environment(),
                stdout=log,
                stderr=log,
            )

    def _user(self) -> str:
        context = self.workload.pod["securityContext"]
        user, group = context["runAsUser"], context["runAsGroup"]
        return (
            f"--reuid {user} --regid {group} --clear-groups --no-new-privs "
            "--bounding-set=-all --inh-caps=-all"
        )

    def _environment(self) -> dict[str, str]:
        found = {"PATH": f"{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"}
        for key, entry in self.workload.env().items():
            source = entry.get("valueFrom", {})
            if "secretKeyRef" in source:
                reference = source["secretKeyRef"]
                found[key] = self.secrets[reference["name"]][reference["key"]]
            else:
                found[key] = "1" if "resourceFieldRef" in source else self.here(entry["value"])
        return {**found, **self.env}

    def _mount(self, mount: dict[str, Any]) -> list[str]:
        source, writable = self._source(mount["name"])
        place = mount["mountPath"].lstrip("/")
        lines = [f"mkdir -p {place}", f"mount --bind {shlex.quote(str(source))} {place}"]
        if not writable or mount.get("readOnly"):
            lines.append(f"mount -o remount,bind,ro {place}")
        return lines

    def _source(self, name: str) -> tuple[Path, bool]:
        volumes = {volume["name"]: volume for volume in self.workload.pod["volumes"]}
        volume = volumes.get(name)
        if volume is None:
            return self.claims[name], True
        if "persistentVolumeClaim" in volume:
            claim = volume["persistentVolumeClaim"]
            return self.claims[claim["claimName"]], not claim.get("readOnly")
        made = self.folder / name
        made.mkdir()
        if "emptyDir" in volume:
            # As fsGroup has it.
            os.chown(made, 0, self.workload.pod["securityContext"]["fsGroup"])
            made.chmod(0o2770)
            return made, True
        if "secret" in volume:
            files = self.secrets[volume["secret"]["secretName"]]
        else:
            files = of_kind(self.variant, "ConfigMap")[volume["configMap"]["name"]]["data"]
        for file, text in files.items():
            (made / file).write_text(self.here(text))
        return made, False

    def run(self, command: list[str], timeout_s: float) -> int:
        """A command inside, as `exec` of a probe runs it."""
        inside = ["nsenter", "--target", str(self.process.pid), "--mount", "--root", "--wd=/"]
        done = subprocess.run(
            [*inside, "setpriv", *self._user().split(), *map(self.here, command)],
            env=self._environment(),
            capture_output=True,
            timeout=timeout_s,
        )
        return done.returncode

    def said(self) -> str:
        return self.log.read_text(errors="replace")[-3000:]

    def stop(self) -> int:
        """As Kubernetes stops a pod; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(self.workload.pod["terminationGracePeriodSeconds"])
