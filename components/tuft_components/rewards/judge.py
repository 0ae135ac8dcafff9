"""The reward `judge`: a language model that the service serves reads each episode and scores it.

    --param reward=judge --param reward_args='{"rubric": "Is the answer polite and right?"}'

The first try is sampled at temperature 0. Where the answer holds no score, the judge is asked again,
at temperature 0.7 and with seeds that follow from the question: the same episodes get the same
scores from the same judge. What still has no score is neutral, and said, or fails the step.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import tuft_sdk
from tuft_components.errors import BadConfiguration, BadData
from tuft_components.policies import Sampling, ServicePolicy
from tuft_components.rewards.judge_questions import Scale, encoded, has_chat, question_of, score_in
from tuft_components.service import connect
from tuft_components.trajectories import Trajectory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from tuft_components.episodes import Policy

RUBRIC = "You are a strict judge. Say how well the task below was solved."
_WARM = 0.7
_log = logging.getLogger(__name__)


class Judge:
    """Rewards from 0 (the lowest score) to 1 (the highest).

    Args:
        model: a base model or tinker:// path of a policy; empty: the first model that is served.
        rubric: what to look at, in plain words.
        lowest, highest: the scale that the judge is asked to use.
        tries: questions about one episode, at most.
        on_nonsense: `neutral` or `error`: what becomes of an episode without a score after those.
        neutral: the score of such an episode; None: the middle of the scale.
        max_nonsense: the share of such episodes from which on the step fails all the same, since
            it would train on noise.
        max_tokens: of an answer.
        longest_text: letters of an episode that the judge is shown.
        concurrency: questions in flight.
        timeout_s: for one answer.
    """

    def __init__(
        self,
        *,
        model: str = "",
        rubric: str = RUBRIC,
        lowest: float = 0,
        highest: float = 10,
        tries: int = 3,
        on_nonsense: str = "neutral",
        neutral: float | None = None,
        max_nonsense: float = 0.5,
        max_tokens: int = 256,
        longest_text: int = 12_000,
        concurrency: int = 64,
        timeout_s: float = 600.0,
    ) -> None:
        if not lowest < highest:
            raise ValueError(f"lowest is {lowest} and highest {highest}: give a range")
        if on_nonsense not in ("neutral", "error"):
            raise ValueError(f"on_nonsense is {on_nonsense!r}: give 'neutral' or 'error'")
        if not rubric.strip():
            raise ValueError("rubric is empty: say what to look at")
        if min(tries, max_tokens, concurrency, longest_text) < 1:
            raise ValueError("tries, max_tokens, concurrency and longest_text must be 1 or more")
        if neutral is not None and not lowest <= neutral <= highest:
            raise ValueError(f"neutral is {neutral}: it must be on the scale")
        self._scale = Scale(float(lowest), float(highest))
        self._model, self._rubric, self._tries = model, rubric, tries
        self._strict = on_nonsense == "error"
        self._neutral = self._scale.middle if neutral is None else float(neutral)
        self._max_nonsense = max_nonsense
        self._max_tokens, self._longest = max_tokens, longest_text
        self._concurrency, self._timeout_s = concurrency, timeout_s
        self._scores: dict[tuple[int, int, int], float] = {}

    def check(self) -> str:
        """For `preflight`: whether the judge is there.

        Raises:
            BadConfiguration: it is not served. tuft_sdk.SdkError: as the service says.
        """
        with connect(self._timeout_s) as client:
            models = client.models()
            if self._model.startswith("tinker://"):
                client.sampling_client(self._model)
            elif self._model and self._model not in models:
                raise BadConfiguration(
                    f"the judge {self._model!r} is not served; there are: {', '.join(models)}"
                )
            return f"the judge {self._model or models[0]} is served"

    def prepare(self, trajectories: Sequence[Trajectory]) -> None:
        """Ask about all of them at once.

        Raises:
            BadData: too many answers, or with on_nonsense any, held no score.
            tuft_sdk.SdkError: the service is away, or does not serve the judge.
        """
        with connect(self._timeout_s, tokenizers=True) as client:
            sampler = client.sampling_client(self._model or client.models()[0])
            with tuft_sdk.translated():
                base_model = sampler.get_base_model()
            tokenizer = client.tokenizer(base_model)
            cold, warm = (
                ServicePolicy(sampler, Sampling(self._max_tokens, temperature, self._timeout_s))
                for temperature in (0.0, _WARM)
            )
            asyncio.run(self.judge(trajectories, cold, warm, tokenizer))

    async def judge(
        self,
        trajectories: Sequence[Trajectory],
        cold: Policy,
        warm: Policy,
        tokenizer: PreTrainedTokenizerBase,
    ) -> None:
        """`prepare`, with policies that are there already: the first tries go to `cold`."""
        questions = {
            one.key: question_of(one, self._rubric, self._scale, self._longest)
            for one in trajectories
        }
        # Episodes that are the same (of a group that agrees, say) are judged once.
        different = list(dict.fromkeys(questions.values()))
        room = asyncio.Semaphore(self._concurrency)
        policies = [cold, *[warm] * (self._tries - 1)]

        async def ask(question: str) -> float | None:
            async with room:
                return await self._ask(question, policies, tokenizer)

        answers = await asyncio.gather(*(ask(question) for question in different))
        scores = dict(zip(different, answers, strict=True))
        without = [key for key, question in questions.items() if scores[question] is None]
        self._tell(without, len(questions))
        for key, question in questions.items():
            score = scores[question]
            self._scores[key] = self._neutral if score is None else score

    def __call__(self, trajectory: Trajectory) -> float:
        if trajectory.key not in self._scores:
            self.prepare([trajectory])
        scale = self._scale
        return (self._scores[trajectory.key] - scale.lowest) / (scale.highest - scale.lowest)

    async def _ask(self, question: str, policies: Sequence[Policy], tokenizer: Any) -> float | None:
        prompt, chat = encoded(question, tokenizer), has_chat(tokenizer)
        seed = int.from_bytes(hashlib.sha256(question.encode(errors="replace")).digest()[:3], "big")
        for number, policy in enumerate(policies):
            # A base model would go on with texts of its own behind the line of its score.
            stop = [] if chat else ["\n"]
            (answer,) = await policy.sample(prompt, 1, seed=seed + number, stop=stop)
            text = str(tokenizer.decode(list(answer.tokens), skip_special_tokens=True))
            cut_off = answer.stop_reason == "length"
            score = score_in(text, self._scale, chat=chat, cut_off=cut_off)
            if score is not None:
                return score
        return None

    def _tell(self, without: Sequence[tuple[int, int, int]], episodes: int) -> None:
        if not without:
            return
        said = (
            f"the judge gave no score from {self._scale.lowest:g} to {self._scale.highest:g} for "
            f"{len(without)} of {episodes} episodes in {self._tries} tries each; the first are "
            f"(iteration, group, sample) {', '.join(map(str, without[:3]))}"
        )
        if self._strict or len(without) > self._max_nonsense * episodes:
            raise BadData(f"{said}. Take a stronger model, a plainer rubric, or more max_tokens")
        _log.warning("%s; each counts as %g", said, self._neutral)
