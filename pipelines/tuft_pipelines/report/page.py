"""The HTML report: one file that needs nothing else."""

from __future__ import annotations

from base64 import b64encode
from html import escape

from tuft_pipelines.report.history import Evaluation, History, Iteration

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2937; background: #f3f4f6; margin: 0; }
main { max-width: 900px; margin: 2rem auto; padding: 2rem; background: #fff; border-radius: 12px;
       box-shadow: 0 1px 4px rgb(0 0 0 / .12); }
h1 { margin: 0 0 .25rem; font-size: 1.6rem; }
h2 { margin: 2rem 0 .5rem; font-size: 1.1rem; }
.lead { color: #4b5563; margin: 0 0 1.5rem; }
.lead b { color: #ea580c; font-size: 1.15em; }
img { width: 100%; height: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid #e5e7eb; }
th:first-child, td:first-child { text-align: left; }
tr.held-out { background: #fff7ed; }
meter { width: 10rem; vertical-align: middle; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; margin: 0; }
dt { color: #6b7280; }
dd { margin: 0; overflow-wrap: anywhere; font-family: ui-monospace, monospace; font-size: .9em; }
""".strip()


def render_page(history: History, picture: bytes) -> str:
    """A self-contained page with the curve (`picture`, a PNG), the table and the facts."""
    image = b64encode(picture).decode()
    facts = "\n".join(
        f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in history.facts.items()
    )
    names = sorted({name for step in history.iterations for name in step.metrics})
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(history.title)}</title>
<style>
{_STYLE}
</style>
</head>
<body>
<main>
<h1>{escape(history.title)}</h1>
<p class="lead">Mean reward on {history.after.episodes} held-out episodes:
<b>{history.before.reward:.2f} → {history.after.reward:.2f}</b>
after {len(history.iterations)} iterations.</p>
<img alt="Mean reward per iteration" src="data:image/png;base64,{image}">
<h2>Reward per iteration</h2>
<table>
<thead><tr><th></th><th>reward</th><th></th><th>episodes</th><th>seconds</th>{head}</tr></thead>
<tbody>
{_rows(history, names)}
</tbody>
</table>
<h2>This run</h2>
<dl>
{facts}
</dl>
</main>
</body>
</html>
"""


def _rows(history: History, names: list[str]) -> str:
    happened: list[tuple[int, int, Iteration | Evaluation]] = [
        *((step.number, 0, step) for step in history.iterations),
        *((evaluation.iteration, 1, evaluation) for evaluation in history.evaluations),
    ]
    happened.sort(key=lambda item: item[:2])
    return "\n".join(_row(item, names) for _, _, item in happened)


def _row(item: Iteration | Evaluation, names: list[str]) -> str:
    meter = f'<meter value="{item.reward:.3f}">{item.reward:.3f}</meter>'
    reward = f"<td>{item.reward:.3f}</td><td>{meter}</td><td>{item.episodes}</td>"
    if isinstance(item, Evaluation):
        return f'<tr class="held-out"><td>held-out</td>{reward}<td></td>{"<td></td>" * len(names)}</tr>'
    more = "".join(
        f"<td>{item.metrics[name]:.4g}</td>" if name in item.metrics else "<td></td>"
        for name in names
    )
    return f"<tr><td>iteration {item.number}</td>{reward}<td>{item.seconds:.1f}</td>{more}</tr>"
