"""Can it be true? One place that asks it of every episode, whatever its format.

A wrong log converts without a word: the arithmetic is right, and the data set is not. So every episode is held against
what robots and cameras do. What cannot be true is a `Finding`, with its kind, its place, what was found and what was
expected; it is refused, unless the user says that it is meant.

``docs/plausibility.md`` lists the kinds and the limits.
"""

from __future__ import annotations

from ..schemas.plausibility import KINDS, Finding, FindingKind, Limits
from .examine import examine, refuse, taken
from .pictures import PictureWatch, examine_pictures
from .sight import in_view, why_out_of_view

__all__ = [
    "KINDS",
    "Finding",
    "FindingKind",
    "Limits",
    "PictureWatch",
    "examine",
    "examine_pictures",
    "in_view",
    "refuse",
    "taken",
    "why_out_of_view",
]
