"""The table of the reward per iteration, for a terminal."""

from __future__ import annotations

from tuft_components.report.history import Evaluation, History

_BAR_WIDTH = 30
_EIGHTHS = " ▏▎▍▌▋▊▉"


def render_table(history: History) -> str:
    """Evaluations and iterations in the order in which they happened, one line each."""
    lines = [f"{'':<12}{'reward':>8}  {'episodes':>8}  {'seconds':>7}"]
    waiting = list(history.evaluations)
    while waiting and waiting[0].iteration == 0:
        lines.append(_evaluation(waiting.pop(0)))
    for step in history.iterations:
        numbers = f"{step.reward:>8.3f}  {step.episodes:>8}  {step.seconds:>7.1f}"
        lines.append(f"{f'iteration {step.number}':<12}{numbers}  {bar(step.reward)}")
        while waiting and waiting[0].iteration <= step.number:
            lines.append(_evaluation(waiting.pop(0)))
    return "\n".join(line.rstrip() for line in lines)


def bar(reward: float) -> str:
    """A bar for a reward in [0, 1]; what is outside is cut off."""
    eighths = round(min(1.0, max(0.0, reward)) * _BAR_WIDTH * 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + (_EIGHTHS[rest] if rest else "")


def _evaluation(evaluation: Evaluation) -> str:
    numbers = f"{evaluation.reward:>8.3f}  {evaluation.episodes:>8}  {'':>7}"
    return f"{'held-out':<12}{numbers}  {bar(evaluation.reward)}"
