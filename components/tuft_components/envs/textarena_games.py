"""`textarena:ID`: a game of TextArena, alone or against a scripted opponent that moves at random.

make_environment("textarena:GuessTheNumber-v0", {})
make_environment("textarena:TicTacToe-v0", {"mode": "choose"})
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from typing import Any

from tuft_components.envs.base import EnvironmentFamily, Task, Turn
from tuft_components.envs.families import FamilyOf
from tuft_components.envs.global_random import GlobalRandom
from tuft_components.envs.presenting import presented

# What may be tried as a move, by the beginning of the id. Which of them are legal the game says.
MOVES: Mapping[str, Sequence[str]] = {
    "TicTacToe-": [f"[{square}]" for square in range(9)],
    "ConnectFour-": [f"[col {column}]" for column in range(7)],
    "FrozenLake-": ["[up]", "[down]", "[left]", "[right]"],
    "TowerOfHanoi-": [f"[{a} {b}]" for a in "ABC" for b in "ABC" if a != b],
    "2048-": ["[up]", "[down]", "[left]", "[right]"],
}


def textarena(
    game: str,
    *,
    make: Mapping[str, Any] | None = None,
    players: int = 0,
    seat: int = 0,
    moves: Sequence[str] = (),
    mode: str = "text",
) -> EnvironmentFamily:
    """
    Args:
        game: as TextArena's `make` takes it; with `-raw` behind it, texts are not put in brackets.
        make: more arguments of the game.
        players: 1 or 2; 0: as many as the game is for.
        seat: which player the policy is, of two.
        moves: every move that there can be, where that is a list; the opponent takes a legal one
            at random, and they are the `actions`. Empty: those that we know for the game.
        mode: text, chat, choose or words.

    Raises:
        ValueError: there is no such game, or it can't be played like this.
    """
    if players not in (0, 1, 2) or seat not in (0, 1):
        raise ValueError("players must be 0, 1 or 2, and seat 0 or 1")
    known = next((MOVES[start] for start in MOVES if game.startswith(start)), ())

    def made() -> Game:
        return Game(game, make or {}, players, seat, tuple(moves) or tuple(known))

    return presented(FamilyOf(made(), made), mode)


class Game:
    """The reward is the game's own, of the policy's player, where it ends: 1 for what is won, and
    never more than 0 for a game that ended by an invalid move."""

    def __init__(
        self, game: str, make: Mapping[str, Any], players: int, seat: int, moves: Sequence[str]
    ) -> None:
        self._moves = moves
        self._random = GlobalRandom()  # the games draw from the global generators
        with self._random.own():
            self._env = _made(game, make)
            self._players = players or self._fits()
        self._seat = seat if self._players == 2 else 0
        if self._players == 2 and not moves:
            raise ValueError(f"the opponent in {game} needs `moves`: a list of all there can be")
        self._opponent = random.Random(0)

    def _fits(self) -> int:
        """How many players it is for: 1 or 2."""
        for players in (1, 2):
            try:
                copy.deepcopy(self._env).reset(num_players=players, seed=0)
            except AssertionError:  # how games refuse a number of players
                continue
            return players
        raise ValueError("only games for one or two players can be played")

    def reset(self, task: Task) -> Turn:
        seed = task.number()
        self._opponent = random.Random(seed)
        self._random.seed(seed)
        with self._random.own():
            self._env.reset(num_players=self._players, seed=seed)
            done = self._opponents_turn()
            return self._turn(done, error="")

    def step(self, action: str) -> Turn:
        with self._random.own():
            done, error = self._play(self._env, action.strip())
            done = done or self._opponents_turn()
            return self._turn(done, error)

    def _turn(self, done: bool, error: str) -> Turn:
        state = self._state(self._env)
        told = state.observations[self._seat]
        # What the policy said itself stands before it anyway.
        texts = [text for by, text, _ in told if by != self._seat or self._players == 1]
        if self._players == 1:
            texts = [text for _, text, kind in told if kind.name != "PLAYER_ACTION"]
        state.observations[self._seat] = []
        observation = "\n".join(texts)
        if not done:
            return Turn(observation, actions=self._legal(), error=error)
        rewards, infos = self._env.close()
        info = infos.get(self._seat, {})
        reward = float((rewards or {}).get(self._seat, 0.0))
        if info.get("invalid_move"):
            # Some games pay for how near the player was, and so for ending on purpose.
            reward = min(reward, 0.0)
        return Turn(
            observation,
            reward=reward,
            done=True,
            error=error,
            info={"reason": str(info.get("reason", ""))},
        )

    def _opponents_turn(self) -> bool:
        """It moves until the policy's turn, or until the end."""
        state = self._state(self._env)
        while self._players == 2 and state.current_player_id != self._seat:
            legal = self._legal()
            if not legal:
                raise ValueError("the opponent has no legal move among `moves`")
            done, _ = self._play(self._env, self._opponent.choice(legal))
            state.observations[1 - self._seat] = []
            if done:
                return True
        return False

    def _legal(self) -> tuple[str, ...]:
        """The moves that the game would take now, by trying them on copies of it."""
        return tuple(
            move for move in self._moves if not self._play(copy.deepcopy(self._env), move)[1]
        )

    def _play(self, env: Any, action: str) -> tuple[bool, str]:
        """Whether the game is over, and what was wrong with the action."""
        state = self._state(env)
        player, before = state.current_player_id, getattr(state, "error_count", 0)
        told = len(state.observations[player])
        done, _ = env.step(action)
        invalid = bool(state.game_info[player].get("invalid_move"))
        # An error is counted, and the count goes back to 0 with the next good move.
        if not invalid and getattr(state, "error_count", 0) <= before:
            return bool(done), ""
        said = [
            text for _, text, kind in state.observations[player][told:] if kind.name == "GAME_ADMIN"
        ]
        return bool(done), said[-1] if said else str(state.game_info[player].get("reason", ""))

    def _state(self, env: Any) -> Any:
        """Of the game itself: the wrappers that repeat all observations are passed by."""
        while hasattr(env, "env"):
            env = env.env
        return env.state


def _made(game: str, arguments: Mapping[str, Any]) -> Any:
    import textarena as games

    try:
        return games.make(game, **arguments)
    except LookupError as error:  # of NLTK; its message is a page of folders
        missing = str(error).strip().strip("*").strip().splitlines()[0]
        raise ValueError(
            f"{game} needs data of NLTK: {missing} Get it with "
            "`python -m nltk.downloader words averaged_perceptron_tagger_eng`, where there is network"
        ) from error
    except ImportError as error:
        raise ValueError(f"textarena can't make {game}: {error}") from error
