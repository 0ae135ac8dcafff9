"""The skill library: code that solved its task, by name, with words to find it again.

It is one JSON file, in a folder or in the object store. A skill gets in with the evidence that it
was run from the beginning of its task, in worlds that it had not seen, and solved it: `learn`
makes that evidence, and there is no other way in.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from tuft_components import artifacts
from tuft_components.envs.base import Environment, Task
from tuft_components.errors import BadData

_FORMAT = 1
_NAME = re.compile(r"[a-zA-Z_$][a-zA-Z0-9_$]{0,63}")
_LONGEST_CODE = 20_000
_K1, _B = 1.2, 0.75
"""Of Okapi BM25 (Robertson and Zaragoza, 2009)."""


@dataclass(frozen=True)
class Skill:
    """
    Args:
        name: of the function that `code` defines: `async function name(bot) {…}`.
        description: what it does, in words.
        task: that it solves.
        proven: seeds of the worlds in which it did.
    """

    name: str
    code: str
    description: str
    task: str
    proven: Sequence[int]


class SkillLibrary:
    """In memory; `save` writes it. The order of skills is that in which they came."""

    def __init__(self, skills: Sequence[Skill] = ()) -> None:
        self._skills = {skill.name: skill for skill in skills}

    @classmethod
    def load(cls, uri: str) -> SkillLibrary:
        """Raises:
        BadData: it is no library. TransientFailure: the object store is away.
        """
        data = artifacts.read_bytes(uri)
        try:
            values = json.loads(data)
            if values["format"] != _FORMAT:
                raise BadData(
                    f"{uri} is a skill library of format {values['format']}, not {_FORMAT}"
                )
            return cls([Skill(**row) for row in values["skills"]])
        except (KeyError, TypeError, ValueError) as error:
            raise BadData(f"{uri} is no skill library: {error!r}") from error

    def save(self, uri: str) -> None:
        values = {"format": _FORMAT, "skills": [asdict(skill) for skill in self._skills.values()]}
        artifacts.write_bytes(uri, json.dumps(values, indent=1).encode())

    def __len__(self) -> int:
        return len(self._skills)

    def __contains__(self, name: str) -> bool:
        return name in self._skills

    def find(self, words: str, count: int = 3) -> list[Skill]:
        """The skills whose names and descriptions fit best, by BM25; none that shares no word."""
        texts = {
            name: _words(f"{name} {skill.description}") for name, skill in self._skills.items()
        }
        scores = bm25(_words(words), texts)
        best = sorted(scores, key=lambda name: -scores[name])[:count]
        return [self._skills[name] for name in best if scores[name] > 0]

    async def learn(
        self, environment: Environment, name: str, code: str, description: str, seeds: Sequence[int]
    ) -> bool:
        """Run the code of one solved task on its own; where it solves all `seeds` again, add it.

        `environment` plays one task, with code. A later skill of the same name takes its place.

        Raises:
            BadData: the name or the code can't be a skill's.
        """
        if not _NAME.fullmatch(name) or len(code) > _LONGEST_CODE or not seeds:
            raise BadData(
                f"{name!r} can't be a skill: a JavaScript name, code, and seeds to prove it"
            )
        whole = f"async function {name}(bot) {{\n{code}\n}}"
        task = ""
        for seed in seeds:
            turn = await environment.reset(Task("eval", seed, 0))
            task = str(turn.info["task"])
            turn = await environment.step(f"{whole}\nawait {name}(bot)")
            if not turn.info["solved"]:
                return False
        self._skills.pop(name, None)
        self._skills[name] = Skill(name, whole, description, task, list(seeds))
        return True


def bm25(words: Sequence[str], texts: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """How well each text fits the words."""
    average = sum(map(len, texts.values())) / max(1, len(texts)) or 1.0
    within = Counter(word for text in texts.values() for word in set(text))
    scores = {}
    for name, text in texts.items():
        counts = Counter(text)
        norm = _K1 * (1 - _B + _B * len(text) / average)
        scores[name] = sum(
            math.log(1 + (len(texts) - within[word] + 0.5) / (within[word] + 0.5))
            * counts[word]
            * (_K1 + 1)
            / (counts[word] + norm)
            for word in set(words)
        )
    return scores


def _words(text: str) -> list[str]:
    """In small letters; parts of camelCase and snake_case names are words."""
    return re.findall(r"[a-z]+|\d+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text).lower())
