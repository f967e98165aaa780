"""The conventions every array of this package follows, and the constants of the published action images.

Stated here once; nothing else in the package defines a polarity, an axis or a default of its own.

* Right-handed frames; metres, radians, seconds. Arrays are ``(T, ...)`` over time, ``(V, T, ...)`` over views.
* Transforms are 4x4 and named ``a_from_b``: ``p_a = a_from_b @ p_b``.
* Cameras have OpenCV axes (+x right, +y down, +z forward) and positive focal lengths. ``K`` is for a picture
  that spans ``[0, W] x [0, H]``; scaling by ``s`` after cropping ``(dx, dy)`` gives ``fx*s, (cx - dx)*s``.
  Action images are drawn with pixel index ``(0, 0)`` at coordinate ``(0, 0)``, as published.
* Quaternions are xyzw, unit, sign-continuous in time. Euler angles are extrinsic "xyz" (scipy lowercase).
* Openness is 1 for an open and 0 for a closed gripper, in [0, 1].
* The canonical gripper frame has its origin between the fingertips, +z along the approach, the fingers opening
  along +-y, x completing it. A source states ``tool_from_gripper``: its own end-effector frame from this one.
* ``action_7d`` = x y z, Euler xyz, openness. ``action_8d`` = x y z, qx qy qz qw, openness.
* A frame's action image shows the gripper at that frame's time.
"""

from __future__ import annotations

from typing import Final

EULER_ORDER: Final = "xyz"
"""Extrinsic rotations about x, then y, then z: scipy's lowercase "xyz"."""

CHANNEL_NAMES: Final = ("origin", "normal", "up")
"""What the R, G and B channel of an action image draw."""

KEYPOINT_DIRECTIONS: Final = ((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 0.0, -1.0))
"""The three keypoints in the canonical gripper frame, in units of the axis length (R, G, B)."""

DEFAULT_AXIS_LENGTH: Final = 0.1
"""Metres from the gripper's origin to the "normal" and the "up" keypoint (arXiv 2604.06168)."""

DEFAULT_SIGMA: Final = 0.05
"""Standard deviation of a blob as a fraction of min(H, W) (arXiv 2604.06168)."""

DEFAULT_PEDESTAL: Final = 0.25
"""Every blue pixel at or under this is replaced by this times the openness (arXiv 2604.06168)."""

DEFAULT_OPENNESS_THRESHOLD: Final = 0.5
"""Openness above this is drawn as open, else as closed (arXiv 2604.06168)."""

DEFAULT_NEAR: Final = 0.01
"""Metres; points at or nearer than this along the optical axis are culled, never drawn mirrored."""

ROTATION_TOLERANCE: Final = 1e-4
"""Largest deviation of R^T R from the identity that counts as rounding of a stored rotation."""

QUATERNION_TOLERANCE: Final = 1e-3
"""Largest deviation of a quaternion's norm from 1 that counts as rounding of a stored quaternion."""
