"""A judge that our service serves: a base model, or the policy of an adapter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import tuft_sdk
from tuft_components.errors import BadConfiguration
from tuft_components.judges.models import Question, Reply
from tuft_components.judges.settings import JudgeSettings
from tuft_components.policies import Sampling, ServicePolicy
from tuft_components.service import connect

if TYPE_CHECKING:
    import tinker
    from transformers import PreTrainedTokenizerBase


class ServiceJudge:
    def __init__(
        self,
        sampler: tinker.SamplingClient,
        tokenizer: PreTrainedTokenizerBase,
        settings: JudgeSettings,
        *,
        name: str,
        context_length: int,
    ) -> None:
        self.name = name
        self.chat = bool(tokenizer.chat_template)
        self._sampler, self._tokenizer, self._settings = sampler, tokenizer, settings
        self._longest = context_length - settings.max_tokens

    async def ask(self, question: Question, *, temperature: float, seed: int) -> Reply:
        prompt = self._encoded(question)
        if len(prompt) > self._longest:
            return Reply(
                "",
                0,
                refused=f"the question has {len(prompt)} tokens; {self._longest} fit the judge",
            )
        sampling = Sampling(self._settings.max_tokens, temperature, self._settings.timeout_s)
        # A base model would go on with texts of its own behind the line of its verdict.
        stop = [] if self.chat else ["\n"]
        policy = ServicePolicy(self._sampler, sampling)
        (answer,) = await policy.sample(prompt, 1, seed=seed, stop=stop)
        text = str(self._tokenizer.decode(list(answer.tokens), skip_special_tokens=True))
        return Reply(text, len(prompt) + len(answer.tokens), cut_off=answer.stop_reason == "length")

    async def close(self) -> None:
        """The client is its opener's."""

    def _encoded(self, question: Question) -> list[int]:
        if not self.chat:
            return list(self._tokenizer.encode(f"{question.text}\n{question.cue}"))
        return list(
            self._tokenizer.apply_chat_template(
                [{"role": "user", "content": question.text}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
            )
        )


@contextmanager
def service_judge(settings: JudgeSettings) -> Iterator[ServiceJudge]:
    """Raises:
    tuft_sdk.SdkError: the service is away, or does not serve the judge.
    """
    with connect(settings.timeout_s, tokenizers=True) as client:
        name = settings.model or client.models()[0]
        sampler = client.sampling_client(name)
        with tuft_sdk.translated():
            base_model = sampler.get_base_model()
        yield ServiceJudge(
            sampler,
            client.tokenizer(base_model),
            settings,
            name=name,
            context_length=client.context_length(base_model),
        )


def check_served(settings: JudgeSettings) -> str:
    """For `preflight`.

    Raises:
        BadConfiguration: the judge is not served. tuft_sdk.SdkError: as the service says.
    """
    with connect(settings.timeout_s) as client:
        models = client.models()
        if settings.model.startswith("tinker://"):
            client.sampling_client(settings.model)
        elif settings.model and settings.model not in models:
            raise BadConfiguration(
                f"the judge {settings.model!r} is not served; there are: {', '.join(models)}"
            )
        return f"the judge {settings.model or models[0]} is served"
