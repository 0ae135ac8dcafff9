"""What the commands of this package report in one line and an exit code, without a traceback."""

from __future__ import annotations


class WrongArgument(Exception):
    """An argument, parameter or variable can't be right; nothing was run."""


class PipelineFailed(Exception):
    """A task failed, or did not run; the message ends with the last lines of the log."""


class ServiceFailed(Exception):
    """The service did not start; the message ends with what it said."""


class DemoFailed(Exception):
    """The pipeline failed, or the reward is not what the demo promises."""


class RemoteFailed(Exception):
    """The server on the cluster can't be reached, or failed."""
