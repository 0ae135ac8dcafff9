"""What `tuft-pipelines` shows of a pipeline run beside the page of the step `report`: a table in the
terminal, a picture of the curve."""

from tuft_components.report.history import Evaluation, History, Iteration
from tuft_components.report.page import render_page
from tuft_pipelines.report.curve import draw_curve
from tuft_pipelines.report.table import render_table

__all__ = [
    "Evaluation",
    "History",
    "Iteration",
    "draw_curve",
    "render_page",
    "render_table",
]
