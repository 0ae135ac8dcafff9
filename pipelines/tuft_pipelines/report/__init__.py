"""What a training pipeline shows at its end: a table, a picture of the curve, an HTML page."""

from tuft_pipelines.report.curve import draw_curve
from tuft_pipelines.report.history import Evaluation, History, Iteration
from tuft_pipelines.report.page import render_page
from tuft_pipelines.report.table import render_table

__all__ = [
    "Evaluation",
    "History",
    "Iteration",
    "draw_curve",
    "render_page",
    "render_table",
]
