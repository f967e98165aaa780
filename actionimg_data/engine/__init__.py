"""Whole data sets on one machine: plan and convert them, and verify them, in several processes."""

from __future__ import annotations

from .conversion import Estimate, Observer, Result, Totals, convert, estimate, plan
from .verification import Report, Tolerance, record, verify

__all__ = [
    "Estimate",
    "Observer",
    "Report",
    "Result",
    "Tolerance",
    "Totals",
    "convert",
    "estimate",
    "plan",
    "record",
    "verify",
]
