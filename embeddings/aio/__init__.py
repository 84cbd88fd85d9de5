"""The same names, to be awaited."""

from .collection import AsyncCollection, AsyncPlan

__all__ = ["AsyncCollection", "AsyncPlan"]
