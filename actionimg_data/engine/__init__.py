"""Conversion on one machine: a plan, processes that make its shards, and the manifest at the end."""

from __future__ import annotations

from .convert import Estimate, Observer, Result, Totals, convert, estimate, plan

__all__ = ["Estimate", "Observer", "Result", "Totals", "convert", "estimate", "plan"]
