"""Who answers: local models, servers, vea's own, and baselines."""

from vea.evals.backends.base import Backend, open_backend

__all__ = ["Backend", "open_backend"]
