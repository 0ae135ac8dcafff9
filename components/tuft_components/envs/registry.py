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
        argument: what stands behind the colon of a name, `task` say; in brackets where it may be
            left out; empty: nothing does.
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
        modules = [f"the Python module {name}" for name in self.modules if not _is_there(name)]
        programs = [
            f"the program {' or '.join(names.split('|'))}"
            for names in self.programs
            if not any(map(shutil.which, names.split("|")))
        ]
        return modules + programs


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the package that it is in
        return False


CHROMIUM = "chromium|google-chrome|chromium-browser|google-chrome-stable|chrome"

ENVIRONMENTS: dict[str, Registered] = {
    "second_word": Registered(
        "tuft_components.envs.second_word:SecondWord",
        "say the second of two words; one turn, learnt in a few updates",
    ),
    "hard_tail": Registered(
        "tuft_components.envs.hard_tail:HardTail",
        "mostly second words, and now and then a colour to know by heart; shows error replay",
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
    "shopping_list": Registered(
        "tuft_components.envs.shopping_list:ShoppingList",
        "what does a shopping list cost? Prices come from a tool; several turns, with tool calls",
    ),
    "gym": Registered(
        "tuft_components.envs.gym:gym",
        "any environment of Gymnasium, as text",
        argument="id",
        modules=("gymnasium",),
        install="pip install 'tuft-pipelines[envs-gym]'",
    ),
    "reasoning_gym": Registered(
        "tuft_components.envs.reasoning:reasoning_gym",
        "questions of reasoning-gym, generated and scored; one turn",
        argument="dataset",
        modules=("reasoning_gym",),
        install="pip install 'tuft-pipelines[envs-reasoning]'",
    ),
    "textarena": Registered(
        "tuft_components.envs.textarena_games:textarena",
        "games of TextArena, alone or against a random opponent",
        argument="id",
        modules=("textarena",),
        install="pip install 'tuft-pipelines[envs-textarena]'",
    ),
    "openenv": Registered(
        "tuft_components.envs.openenv.client:openenv",
        "an environment of an OpenEnv server",
        argument="url",
        modules=("websockets",),
        install="pip install 'tuft-pipelines[envs-openenv]'",
    ),
    "cookbook": Registered(
        "tuft_components.envs.cookbook:Cookbook",
        "an environment that was written for tinker-cookbook, by its import path",
        argument="module:builder",
        modules=("tinker_cookbook",),
        install="pip install --no-deps tinker-cookbook chz (docs/environments/cookbook.md says why)",
    ),
    "code": Registered(
        "tuft_components.envs.code:Code",
        "write a small Python function; unit tests in a sandbox (bubblewrap, or a runner) are the reward",
        install="apt-get install bubblewrap",
    ),
    "browser": Registered(
        "tuft_components.envs.browser:browser",
        "BrowserGym's BrowserEnv: own tasks on local pages, and any of BrowserGym's",
        argument="task",
        modules=("browsergym", "playwright"),
        programs=(CHROMIUM,),
        install="pip install 'tuft-pipelines[envs-browser]' and apt-get install chromium",
    ),
    "miniwob": Registered(
        "tuft_components.envs.miniwob:miniwob",
        "MiniWoB++: small tasks on web pages, in a headless Chromium",
        argument="task",
        modules=("miniwob",),
        programs=(CHROMIUM,),
        install="pip install 'tuft-pipelines[envs-miniwob]' and apt-get install chromium",
    ),
    "webshop": Registered(
        "tuft_components.envs.webshop:webshop",
        "buy what is asked for in a shop of pages, generated, of WebShop's data, or at a server",
        argument="[url]",
        modules=("rapidfuzz", "snowballstemmer"),
        install="pip install 'tuft-pipelines[envs-webshop]'",
    ),
    "voyager": Registered(
        "tuft_components.envs.voyager:voyager",
        "Minecraft: a bot does what it is told, by JavaScript or by macro actions",
        argument="task",
        programs=("node", "bwrap", "prlimit"),
        install="apt-get install nodejs npm bubblewrap && "
        "python -m tuft_components.envs.voyager install",
    ),
}
