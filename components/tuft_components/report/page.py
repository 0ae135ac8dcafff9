"""The HTML report: one file that needs nothing else, and that runs and loads nothing.

What a policy said is shown as text, whatever it is: it is escaped, and the page forbids the browser
scripts and requests all the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from tuft_components.report.charts import Series, chart, number_text, reward_chart
from tuft_components.report.history import Evaluation, History, Iteration
from tuft_components.report.records import StepTimes
from tuft_components.report.transcripts import Transcript
from tuft_components.turns import Turn, shortened

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2937; background: #f3f4f6; margin: 0; }
main { max-width: 900px; margin: 2rem auto; padding: 2rem; background: #fff; border-radius: 12px;
       box-shadow: 0 1px 4px rgb(0 0 0 / .12); }
h1 { margin: 0 0 .25rem; font-size: 1.6rem; }
h2 { margin: 2rem 0 .5rem; font-size: 1.1rem; }
h3 { margin: 1rem 0 0; font-size: .95rem; font-weight: 600; color: #4b5563; }
.lead { color: #4b5563; margin: 0 0 1.5rem; }
.lead b { color: #ea580c; font-size: 1.15em; }
svg { width: 100%; height: auto; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(330px, 1fr)); gap: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #e5e7eb; }
th:first-child, td:first-child { text-align: left; white-space: nowrap; }
tr.held-out { background: #fff7ed; }
meter { width: 8rem; vertical-align: middle; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; margin: 0; }
dt { color: #6b7280; }
dd { margin: 0; overflow-wrap: anywhere; font-family: ui-monospace, monospace; font-size: .9em; }
details { border: 1px solid #e5e7eb; border-radius: 8px; padding: .4rem .8rem; margin: .5rem 0; }
summary { cursor: pointer; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; margin: .4rem 0; padding: .5rem .7rem;
      border-radius: 6px; background: #f3f4f6; font-size: .85em; }
pre.said { background: #eff6ff; border-left: 3px solid #2563eb; }
""".strip()

# Nothing of what a page could do is allowed, but for its own styles.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_TABLE_METRICS = ("grad_norm", "kl_sample_train", "groups_with_signal", "staleness")
_CHARTS = {
    "loss:sum": "loss",
    "kl_sample_train": "KL of the sampled to the trained policy",
    "grad_norm": "gradient norm",
    "mean_completion_tokens": "tokens of a completion",
    "groups_with_signal": "groups whose rewards differ",
    "staleness": "updates that the sampled policy lacked",
}


def render_page(
    history: History,
    transcripts: Sequence[Transcript] = (),
    times: Sequence[StepTimes] = (),
    *,
    longest_text: int = 4000,
) -> str:
    """The page. Of texts longer than `longest_text` letters the middle is left out."""
    sections = [
        ("Reward per iteration", _table(history)),
        ("What the updates measured", _metric_charts(history)),
        ("Transcripts", "\n".join(_transcript(one, longest_text) for one in transcripts)),
        ("Time", _times(times)),
        ("This run", _facts(history)),
    ]
    body = "\n".join(f"<h2>{title}</h2>\n{content}" for title, content in sections if content)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{_text(history.title)}</title>
<style>
{_STYLE}
</style>
</head>
<body>
<main>
<h1>{_text(history.title)}</h1>
<p class="lead">{_lead(history)}</p>
{reward_chart(history)}
{body}
</main>
</body>
</html>
"""


def _lead(history: History) -> str:
    number = len(history.iterations)
    updates = f"{number} iteration{'' if number == 1 else 's'}"
    if len(history.evaluations) > 1:
        return (
            f"Mean reward on {history.after.episodes} held-out episodes: "
            f"<b>{history.before.reward:.2f} → {history.after.reward:.2f}</b> after {updates}."
        )
    if number:
        first, last = history.iterations[0].reward, history.iterations[-1].reward
        return f"Mean reward in training: <b>{first:.2f} → {last:.2f}</b> after {updates}."
    if history.evaluations:
        return f"Mean reward on held-out episodes: <b>{history.after.reward:.2f}</b>."
    return "No rewards yet."


def _table(history: History) -> str:
    names = [n for n in _TABLE_METRICS if any(n in step.metrics for step in history.iterations)]
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    happened: list[tuple[int, int, Iteration | Evaluation]] = [
        *((step.number, 0, step) for step in history.iterations),
        *((evaluation.iteration, 1, evaluation) for evaluation in history.evaluations),
    ]
    if not happened:
        return ""
    happened.sort(key=lambda item: item[:2])
    rewards = [item.reward for _, _, item in happened]
    low, high = min(0.0, *rewards), max(1.0, *rewards)
    rows = "\n".join(_row(item, names, low, high) for _, _, item in happened)
    return f"""<div class="wide"><table>
<thead><tr><th></th><th>reward</th><th></th><th>episodes</th><th>seconds</th>{head}</tr></thead>
<tbody>
{rows}
</tbody>
</table></div>"""


def _row(item: Iteration | Evaluation, names: list[str], low: float, high: float) -> str:
    meter = f'<meter min="{low:.3f}" max="{high:.3f}" value="{item.reward:.3f}"></meter>'
    reward = f"<td>{item.reward:.3f}</td><td>{meter}</td><td>{item.episodes}</td>"
    if isinstance(item, Evaluation):
        return f'<tr class="held-out"><td>held-out</td>{reward}<td></td>{"<td></td>" * len(names)}</tr>'
    more = "".join(
        f"<td>{number_text(item.metrics[name])}</td>" if name in item.metrics else "<td></td>"
        for name in names
    )
    return f"<tr><td>iteration {item.number}</td>{reward}<td>{item.seconds:.1f}</td>{more}</tr>"


def _metric_charts(history: History) -> str:
    drawn = []
    for name, title in _CHARTS.items():
        points = [
            (step.number, step.metrics[name]) for step in history.iterations if name in step.metrics
        ]
        if points:
            picture = chart(title, [Series(title, points)], width=420, height=190)
            drawn.append(f"<div><h3>{escape(title)}</h3>\n{picture}</div>")
    return f'<div class="charts">{"".join(drawn)}</div>' if drawn else ""


def _transcript(transcript: Transcript, longest: int) -> str:
    kind = "reward" if transcript.judged else "the environment's reward"
    turns = "\n".join(_turn(turn, longest) for turn in transcript.turns)
    return (
        f"<details><summary>{_text(transcript.where)}: {kind} "
        f"<b>{number_text(transcript.reward)}</b></summary>\n{turns}\n</details>"
    )


def _turn(turn: Turn, longest: int) -> str:
    cut = " <small>(cut off at the token limit)</small>" if turn.stop_reason == "length" else ""
    return (
        f"<pre>{_text(shortened(turn.seen, longest))}</pre>"
        f'<pre class="said">{_text(shortened(turn.said, longest))}</pre>{cut}'
    )


def _times(times: Sequence[StepTimes]) -> str:
    if not times:
        return ""
    rows = "\n".join(
        f"<tr><td>{escape(one.step)}</td><td>{one.executions}</td><td>{one.seconds:.1f}</td>"
        f"<td>{one.seconds / one.executions:.1f}</td></tr>"
        for one in times
    )
    return f"""<table>
<thead><tr><th>step</th><th>executions</th><th>seconds</th><th>seconds each</th></tr></thead>
<tbody>
{rows}
</tbody>
</table>"""


def _facts(history: History) -> str:
    facts = "\n".join(
        f"<dt>{_text(name)}</dt><dd>{_text(value)}</dd>" for name, value in history.facts.items()
    )
    return f"<dl>\n{facts}\n</dl>" if facts else ""


def _text(text: str) -> str:
    """For HTML: escaped, and without characters that no page may hold."""
    shown = "".join(c if c in "\t\n" or c.isprintable() else _substitute(c) for c in text)
    return escape(shown)


def _substitute(character: str) -> str:
    """Spaces of any kind stay; control characters and halves of surrogates are shown as �."""
    return character if character.isspace() and character > " " else "\ufffd"
