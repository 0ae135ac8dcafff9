"""`cookbook:MODULE:BUILDER`: an environment that was written for tinker-cookbook.

What the path names is called with `args`, and with those of `task`, `split`, `seed`, `index` and
`number` that it names as arguments. It gives a `MessageEnv`, an `EnvGroupBuilder`, an `Env`, an
`RLDataset`, or an `RLDatasetBuilder`, whose two datasets are the splits.

A `MessageEnv` is played with messages, also within `EnvFromMessageEnv`: as exact as any of ours.
An `Env` of tokens gets the policy's text tokenized by its own renderer, and what it answers is
decoded; `docs/environments/cookbook.md` says what that costs.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tuft_components.envs.base import SPLITS, Message, Task, Turn
from tuft_components.envs.tool_calls import parse_tool_calls
from tuft_components.errors import BadData
from tuft_components.names import resolve

if TYPE_CHECKING:
    from tinker_cookbook.rl.message_env import MessageEnv
    from tinker_cookbook.rl.types import Env, EnvGroupBuilder

GROUP_REWARDS = ("refuse", "leave_out")


class Cookbook:
    """Each task makes its environment anew: the cookbook's are used once."""

    def __init__(
        self,
        path: str,
        *,
        args: Mapping[str, Any] | None = None,
        group_rewards: str = "refuse",
        stop: Sequence[str] = (),
    ) -> None:
        """
        Args:
            group_rewards: what to do where a builder rewards by the whole group: refuse, or
                leave_out, and play with the rewards of the steps.
            stop: ends an action; for environments of tokens, the renderer's own.

        Raises:
            ValueError: there is no such thing to do. tuft_components.errors.BadConfiguration:
                there is nothing at the path.
        """
        if group_rewards not in GROUP_REWARDS:
            raise ValueError(f"group_rewards must be one of {', '.join(GROUP_REWARDS)}")
        self._make = resolve(path, {}, "builder of tinker-cookbook")
        self._path, self._args, self._refuse = path, dict(args or {}), group_rewards == "refuse"
        self._builder: EnvGroupBuilder | None = None
        self._played: _Messages | _Tokens | None = None
        self.stop = tuple(stop)

    async def reset(self, task: Task) -> Turn:
        await self.close()
        number = task.number()  # an unknown split is refused here
        known = {"task": task, "split": task.split, "seed": task.seed, "index": task.index}
        self._played = await self._playable(await self._made({**known, "number": number}), task)
        return await self._played.begin()

    async def step(self, action: str) -> Turn:
        assert self._played is not None
        return await self._played.step(action)

    async def close(self) -> None:
        builder, self._builder = self._builder, None
        if builder is not None:
            await builder.cleanup()

    async def _made(self, known: Mapping[str, Any]) -> Any:
        takes = inspect.signature(self._make).parameters
        made = self._make(**{k: v for k, v in known.items() if k in takes}, **self._args)
        return await made if inspect.isawaitable(made) else made

    async def _playable(self, made: Any, task: Task) -> _Messages | _Tokens:
        from tinker_cookbook.rl.message_env import EnvFromMessageEnv, MessageEnv
        from tinker_cookbook.rl.types import Env, EnvGroupBuilder, RLDataset, RLDatasetBuilder

        if isinstance(made, RLDatasetBuilder):
            train, held_out = await made()
            made = held_out if task.split == SPLITS[1] else train
            if made is None:
                raise ValueError(f"{self._path} has no dataset for evaluation")
        if isinstance(made, RLDataset):
            made = _builder_in(made, task.index)
        if isinstance(made, EnvGroupBuilder):
            self._builder = made
            self._look_at_rewards(made)
            made = next(iter(await made.make_envs()))
        if isinstance(made, EnvFromMessageEnv):
            made = made.message_env
        if isinstance(made, MessageEnv):
            return _Messages(made)
        if isinstance(made, Env):
            return _Tokens(made)
        raise TypeError(
            f"{self._path} gave {type(made).__name__}: it must be a MessageEnv, an EnvGroupBuilder, "
            "an Env, an RLDataset or an RLDatasetBuilder"
        )

    def _look_at_rewards(self, builder: EnvGroupBuilder) -> None:
        from tinker_cookbook.rl.problem_env import ProblemGroupBuilder
        from tinker_cookbook.rl.types import EnvGroupBuilder

        # These two give 0 for all.
        none = (EnvGroupBuilder.compute_group_rewards, ProblemGroupBuilder.compute_group_rewards)
        if self._refuse and type(builder).compute_group_rewards not in none:
            raise ValueError(
                f"{type(builder).__name__} rewards by the whole group (compute_group_rewards), "
                'which is not possible here: write a reward function, and give {"group_rewards": '
                '"leave_out"} to play with the rewards of the steps'
            )


def _builder_in(dataset: Any, index: int) -> EnvGroupBuilder:
    """The one with this number, over all batches; from the beginning again behind the last."""
    size = len(dataset.get_batch(0))
    batch, place = divmod(index % (size * len(dataset)), size)
    builders = dataset.get_batch(batch)
    found: EnvGroupBuilder = builders[place % len(builders)]
    return found


class _Messages:
    """Its messages are the whole conversation each time; what is new goes to the policy."""

    def __init__(self, env: MessageEnv) -> None:
        self._env = env
        self._seen = 0

    async def begin(self) -> Turn:
        messages = list(await self._env.initial_observation())
        self._seen = len(messages)
        return Turn([_plain(message) for message in messages])

    async def step(self, action: str) -> Turn:
        result = await self._env.step(_said(action))
        messages = list(result.next_messages)
        new = messages[self._seen :]
        # The action is the first of what is new, where the environment keeps it.
        if new and new[0]["role"] == "assistant":
            new = new[1:]
        if len(messages) < self._seen and not result.episode_done:
            raise BadData("the environment shortened the conversation: what was sampled is fixed")
        self._seen = len(messages)
        return _turn(result, [_plain(message) for message in new])


class _Tokens:
    """What it shows is decoded; what was said is tokenized by its renderer, with the end of turn."""

    def __init__(self, env: Env) -> None:
        self._env: Any = env
        renderer = getattr(env, "renderer", None)
        self._tokenizer: Any = getattr(renderer or env, "tokenizer", None)
        if self._tokenizer is None:
            raise TypeError(
                f"{type(env).__name__} has neither renderer nor tokenizer: its tokens have no text"
            )
        self._ends: Any = renderer.get_stop_sequences() if renderer is not None else []
        self._text = ""

    async def begin(self) -> Turn:
        first = await self._env.initial_observation()
        if not isinstance(first, tuple):  # InitialObservationOverflow
            raise BadData("the environment's first prompt is longer than it allows")
        self._text = self._decoded(first[0])
        return Turn(self._text)

    async def step(self, action: str) -> Turn:
        tokens = list(self._tokenizer.encode(action, add_special_tokens=False))
        end = next(iter(self._ends), None)
        if isinstance(end, int):
            tokens.append(end)
        elif isinstance(end, str) and not action.endswith(end):
            tokens += self._tokenizer.encode(end, add_special_tokens=False)
        result = await self._env.step(tokens)
        if result.episode_done:
            return _turn(result, "")
        before = self._text + action
        self._text = self._decoded(result.next_observation)
        if not self._text.startswith(before):
            raise BadData("the environment rewrote the conversation: what was sampled is fixed")
        return _turn(result, self._text[len(before) :])

    def _decoded(self, observation: Any) -> str:
        return str(self._tokenizer.decode(observation.to_ints(), skip_special_tokens=False))


def _turn(result: Any, observation: Any) -> Turn:
    metrics = {key: float(value) for key, value in result.metrics.items()}
    logs = {
        key: value for key, value in result.logs.items() if isinstance(value, str | int | float)
    }
    return Turn(
        observation,
        reward=float(result.reward),
        done=bool(result.episode_done),
        error="it could not be parsed" if metrics.get("parse_error") else "",
        info={**logs, **metrics},
    )


def _plain(message: Mapping[str, Any]) -> Message:
    """With its text only.

    Raises:
        BadData: it has a picture.
    """
    content = message["content"]
    if not isinstance(content, str):
        kinds = {part["type"] for part in content}
        if not kinds <= {"text", "thinking"}:
            raise BadData(f"the environment's messages have more than text: {', '.join(kinds)}")
        content = "".join(part["text"] for part in content if part["type"] == "text")
    kept = {key: str(message[key]) for key in ("name", "tool_call_id") if message.get(key)}
    return {"role": str(message["role"]), "content": content, **kept}


def _said(action: str) -> Any:
    """The policy's message, with the tool calls that are in it."""
    from tinker_cookbook.renderers.base import ToolCall, UnparsedToolCall

    said = parse_tool_calls(action)
    message: dict[str, Any] = {"role": "assistant", "content": said.content}
    if said.error:
        message["unparsed_tool_calls"] = [UnparsedToolCall(raw_text=action, error=said.error)]
    if said.calls:
        message["tool_calls"] = [
            ToolCall(
                function=ToolCall.FunctionBody(
                    name=call.name, arguments=json.dumps(dict(call.arguments))
                ),
                id=f"call{number:05}",
            )
            for number, call in enumerate(said.calls)
        ]
    return message
