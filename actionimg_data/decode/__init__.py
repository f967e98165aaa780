"""Action videos back to keypoints, poses and a trajectory."""

from __future__ import annotations

from .decoder import DecodedTrajectory, Reason, decode, solve
from .measure import BlobMeasurements, measure_blobs

__all__ = ["BlobMeasurements", "DecodedTrajectory", "Reason", "decode", "measure_blobs", "solve"]
