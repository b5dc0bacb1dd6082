"""One thread, as a study's cells have."""

from tests.hsl_model.network.conftest import _one_thread

__all__ = ["_one_thread"]
