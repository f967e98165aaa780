"""The models of everything written to disk, and the registries of known data sets."""

from __future__ import annotations

from .spec import ActionImageSpec

__all__ = ["ActionImageSpec"]
