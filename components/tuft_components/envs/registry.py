"""The environments that come with us, and what each needs to be installed."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec


@dataclass(frozen=True)
class Registered:
    """
    Args:
        factory: `package.module:attribute`; importing the module must not need what is optional.
        summary: one line for `tuft-env list`.
        argument: what stands behind the colon of a name, `task` say; empty: nothing does.
        modules: Python modules that must be there.
        programs: programs that must be on PATH; alternatives as `chromium|google-chrome`.
        install: the command that installs what is missing.
    """

    factory: str
    summary: str
    argument: str = ""
    modules: Sequence[str] = ()
    programs: Sequence[str] = ()
    install: str = ""

    def missing(self) -> list[str]:
        """What it needs that is not installed; nothing is imported to find out."""
        modules = [f"the Python module {name}" for name in self.modules if find_spec(name) is None]
        programs = [
            f"the program {' or '.join(names.split('|'))}"
            for names in self.programs
            if not any(map(shutil.which, names.split("|")))
        ]
        return modules + programs


ENVIRONMENTS: dict[str, Registered] = {
    "second_word": Registered(
        "tuft_components.envs.second_word:SecondWord",
        "say the second of two words; one turn, learnt in a few updates",
    ),
    "number_guess": Registered(
        "tuft_components.envs.number_guess:NumberGuess",
        "find a number by higher and lower; several turns",
    ),
    "arithmetic": Registered(
        "tuft_components.envs.arithmetic:Arithmetic",
        "add and subtract small numbers; one turn",
    ),
    "grid": Registered(
        "tuft_components.envs.grid:grid",
        "walk to the goal on a tiny grid; several turns, a reward for each",
    ),
}
