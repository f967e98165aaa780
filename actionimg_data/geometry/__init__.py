"""Rotations, rigid transforms, pinhole cameras, crops and triangulation.

Pure functions without IO, written once for numpy and torch arrays through the array API: a function returns arrays of
the library it was given, and accepts any leading batch shape.
"""

from __future__ import annotations

from . import crop, exact, p3p, pinhole, rigid_pose, rotations, transforms, triangulation

__all__ = ["crop", "exact", "p3p", "pinhole", "rigid_pose", "rotations", "transforms", "triangulation"]
