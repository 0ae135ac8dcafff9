"""The picture of the reward curve."""

from __future__ import annotations

from io import BytesIO

from tuft_components.report.history import History

_TRAINING, _HELD_OUT, _GRID = "#2563eb", "#ea580c", "#e5e7eb"


def draw_curve(history: History) -> bytes:
    """A PNG, 900 x 480 pixels: training and held-out reward over the updates so far.

    The episodes of iteration n were sampled after n - 1 updates.
    """
    # Imported here: compiling and running pipelines needs no matplotlib.
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7.5, 4.0), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(
        [step.number - 1 for step in history.iterations],
        [step.reward for step in history.iterations],
        color=_TRAINING,
        marker="o",
        markersize=5,
        linewidth=2,
        label="training episodes",
    )
    axes.plot(
        [evaluation.iteration for evaluation in history.evaluations],
        [evaluation.reward for evaluation in history.evaluations],
        color=_HELD_OUT,
        marker="D",
        markersize=8,
        linestyle="none",
        label="held-out episodes",
    )
    for evaluation in history.evaluations:
        axes.annotate(
            f"{evaluation.reward:.2f}",
            (evaluation.iteration, evaluation.reward),
            textcoords="offset points",
            xytext=(0, -18 if evaluation.reward > 0.1 else 10),
            ha="center",
            color=_HELD_OUT,
        )
    axes.set(title=history.title, xlabel="updates", ylabel="mean reward", ylim=(0, 1.04))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color=_GRID)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
