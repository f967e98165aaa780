"""Observation in, poses out: what a model is given, and what a robot does with what it generates."""

from __future__ import annotations

from .chunk import ActionChunk
from .conditioning import Conditioning
from .follower import Command, Follower, Limits

__all__ = ["ActionChunk", "Command", "Conditioning", "Follower", "Limits"]
