"""The local process tree: `tuft` starts a store, the api and the workers, and keeps them up."""

from tuft.supervisor.tree import Supervisor

__all__ = ["Supervisor"]
