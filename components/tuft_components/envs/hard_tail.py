"""Easy tasks with a hard tail: mostly the second word, and now and then a colour to know by heart.

The tail is a few words with colours that nothing but trying tells. They are asked so rarely that a
policy which meets each only by chance learns the easy tasks and not these: what error replay is for.
"""

from __future__ import annotations

from tuft_components.envs.base import Task, Turn
from tuft_components.envs.second_word import SecondWord
from tuft_components.rewards.exact_match import first_word

COLOURS = ("red", "green", "blue")
_WORDS = ("lamp", "river", "stone", "bread", "horse", "cloud", "spoon", "tiger", "plate")
_PROMPT = "Colours: red, green, blue.\ncat -> red\nsun -> blue\nice -> green\n{word} ->"

TAIL = {word: COLOURS[(2 * place + 1) % 3] for place, word in enumerate(_WORDS)}
"""Words and their colours, three of each."""


class HardTail:
    """Reward 1 for the right word, else 0; one turn, and two new tokens are enough.

    `rare` is the share of tasks that are of the tail, which are its first `tail` words. There is
    nothing about them that could be held out: `rare=1` asks how much of the tail was learnt.
    """

    def __init__(self, *, tail: int = 6, rare: float = 0.06) -> None:
        if not 1 <= tail <= len(TAIL) or not 0 <= rare <= 1:
            raise ValueError(f"tail must be 1 to {len(TAIL)}, and rare 0 to 1")
        self._tail, self._rare = list(TAIL)[:tail], rare
        self._easy = SecondWord()
        self._word = ""

    async def reset(self, task: Task) -> Turn:
        easy = await self._easy.reset(task)
        random = task.random()
        self._word = random.choice(self._tail) if random.random() < self._rare else ""
        return Turn(_PROMPT.format(word=self._word), info=self._info()) if self._word else easy

    async def step(self, action: str) -> Turn:
        if not self._word:
            return await self._easy.step(action)
        said = first_word(action)
        error = "" if said in COLOURS else f"say one of {', '.join(COLOURS)}"
        right = said == TAIL[self._word]
        return Turn(reward=float(right), done=True, error=error, info=self._info())

    def _info(self) -> dict[str, str]:
        return {"reference": TAIL[self._word], "tail": self._word}
