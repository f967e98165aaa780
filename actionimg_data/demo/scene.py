"""A small tabletop scene with a robot arm that picks a cube and places it: true poses and shaded pictures.

Everything is made from a seed, on one core, with numpy and OpenCV: a z-buffer over a few hundred triangles with
Gouraud shading, a textured table, planar shadows, and two samples a pixel along each side. The pictures belong to the
cameras and poses exactly, which is what tests and the demo need; they are not meant to be photographs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import InvalidSpecError
from ..geometry import pinhole, rotations, transforms
from ..model import Camera, CameraTrack
from ..raster.gripper import gripper_model

FloatArray = NDArray[np.float64]

CAMERAS: Final = ("front", "left_shoulder", "right_shoulder", "overhead", "wrist")
"""The five cameras of RLBench, by its names."""

COLOURS: Final[Mapping[str, tuple[float, float, float]]] = {
    "red": (0.86, 0.16, 0.14),
    "blue": (0.13, 0.36, 0.84),
    "yellow": (0.97, 0.77, 0.13),
    "purple": (0.55, 0.25, 0.72),
    "orange": (0.95, 0.47, 0.10),
}
"""What a cube can look like; the number of a demo's variation is the index of its colour."""

MAT_COLOUR: Final = (0.20, 0.62, 0.42)

TABLE_HEIGHT: Final = 0.75
_TABLE = (-0.35, 0.95, -0.62, 0.62)
_FLOOR = (-3.0, 4.0, -3.5, 3.5)
_CUBE = 0.045
_MAX_JAW = 0.08
_MAT = 0.13
_BASE = np.array([-0.24, 0.0, TABLE_HEIGHT])
_APART = np.array([0.0, 0.30, 0.0])
"""From the middle to the base of the left one of two arms."""

_KEY_LIGHT = np.array([0.30, 0.42, 0.86]) / np.linalg.norm([0.30, 0.42, 0.86])
_FILL_LIGHT = np.array([0.62, -0.70, 0.35]) / np.linalg.norm([0.62, -0.70, 0.35])
_NEAR = 0.03
_SAMPLES = 2
_CENTRED = 3
"""Samples a side where the centre of a pixel is needed: an odd number has one there."""
_WALL = (0.62, 0.70, 0.76)

GRIPPER_ID: Final = 2
"""Object id of the hand and its fingers in `Picture.ids`; 0 background, 1 table, 3 arm, 4 cube."""


@dataclass(frozen=True)
class DemoMotion:
    """What moves in one demo, frame by frame.

    Attributes:
        world_from_gripper: ``(T, 4, 4)`` canonical gripper frame.
        jaw: ``(T,)`` how far the fingers are apart, 0 to 1.
        gripper_open: ``(T,)`` 1.0 where the jaw is over 0.9, else 0.0, as RLBench records it.
        world_from_cube: ``(T, 4, 4)``.
        mat: ``(3,)`` x, y and heading of the mat.
        colour: Name of the cube's colour.
    """

    world_from_gripper: FloatArray
    jaw: FloatArray
    gripper_open: FloatArray
    world_from_cube: FloatArray
    mat: FloatArray
    colour: str

    def __len__(self) -> int:
        return len(self.jaw)


def make_motion(frames: int, seed: int, colour: str = "red", seconds: float | None = None) -> DemoMotion:
    """A pick and place: reach, descend, close, lift, carry, lower, open, retreat.

    Args:
        frames: Number of frames, at least 1.
        seed: Where cube and mat lie, how the hand is tilted on its way.
        colour: One of `COLOURS`.
        seconds: How long it takes, at 20 frames a second by default. In a short time the hand reaches less far, so
            that it is never faster than an arm can be.

    Raises:
        InvalidSpecError: No frames, or no such colour.
    """
    if frames < 1:
        raise InvalidSpecError("must be positive", field="frames", expected=">= 1", found=frames)
    if colour not in COLOURS:
        raise InvalidSpecError("no such colour", field="colour", expected=" | ".join(COLOURS), found=colour)
    near = _within_reach(frames, seconds)
    rng = np.random.default_rng([seed, 0xAC710])
    side = rng.choice([-1.0, 1.0])
    cube = np.array([rng.uniform(0.16, 0.34), side * rng.uniform(0.10, 0.22), rng.uniform(-0.6, 0.6)])
    mat = np.array([rng.uniform(0.16, 0.36), -side * rng.uniform(0.10, 0.22), rng.uniform(-0.5, 0.5)])
    cube[:2], mat[:2] = near(cube[:2], _MIDDLE[:2]), near(mat[:2], _MIDDLE[:2])
    grasp_height = TABLE_HEIGHT + _CUBE / 2 + 0.004
    tilt = rng.uniform(-0.22, 0.22, (3, 2))

    home = _hand(0.20, rng.uniform(-0.04, 0.04), 1.02, rng.uniform(-0.3, 0.3), *tilt[0])
    above_cube = _hand(cube[0], cube[1], 0.93, cube[2], *tilt[1] * 0.5)
    at_cube = _hand(cube[0], cube[1], grasp_height, cube[2])
    carry = _hand((cube[0] + mat[0]) / 2 + 0.03, 0.0, 1.04, (cube[2] + mat[2]) / 2, *tilt[2])
    above_mat = _hand(mat[0], mat[1], 0.91, mat[2])
    at_mat = _hand(mat[0], mat[1], grasp_height + 0.002, mat[2])
    closed = (_CUBE - 0.001) / _MAX_JAW
    # Pose, jaw, and how long it takes to get there.
    waypoints = [
        (home, 1.0, 0.0),
        (above_cube, 1.0, 9.0),
        (at_cube, 1.0, 6.0),
        (at_cube, closed, 3.0),
        (_hand(cube[0], cube[1], 0.92, cube[2]), closed, 5.0),
        (carry, closed, 7.0),
        (above_mat, closed, 7.0),
        (at_mat, closed, 5.0),
        (at_mat, 1.0, 3.0),
        (above_mat, 1.0, 5.0),
        (home, 1.0, 8.0),
    ]
    for pose in {id(w[0]): w[0] for w in waypoints}.values():
        pose[2, 3] = near(pose[2, 3], grasp_height)
    home[:2, 3] = near(home[:2, 3], _MIDDLE[:2])
    world_from_gripper, jaw, times, ends = _follow(waypoints, frames)
    lying = _flat(cube[0], cube[1], TABLE_HEIGHT + _CUBE / 2, cube[2])
    gripper_from_cube = transforms.invert(at_cube) @ lying
    placed = at_mat @ gripper_from_cube
    held = (times >= ends[3]) & (times < ends[7])
    carried = world_from_gripper @ gripper_from_cube
    world_from_cube = np.where(held[:, None, None], carried, np.where((times >= ends[7])[:, None, None], placed, lying))
    return DemoMotion(world_from_gripper, jaw, (jaw > 0.9).astype(np.float64), world_from_cube, mat, colour)


_MIDDLE = np.array([0.25, 0.0, 0.0])
_FULL_REACH_S = 1.2


def _within_reach(frames: int, seconds: float | None) -> Callable[[Any, Any], Any]:
    """What draws a place towards another one in a motion that is too short for the whole way."""
    lasts = frames / 20 if seconds is None else seconds
    reach = 1.0 if frames == 1 else min(1.0, lasts / _FULL_REACH_S)
    return lambda place, middle: middle + reach * (place - middle)


def make_pair(frames: int, seed: int, colours: tuple[str, str] = ("red", "blue")) -> dict[str, DemoMotion]:
    """Two arms, ``right`` (y < 0) and ``left``, that each lift a cube on their side, hold it up, and set it down again.

    Args:
        frames: Number of frames, at least 1.
        seed: Where the cubes lie, how the hands are tilted on their way.
        colours: Of the right and the left cube; two of `COLOURS`.

    Raises:
        InvalidSpecError: No frames, or no such colour.
    """
    if frames < 1:
        raise InvalidSpecError("must be positive", field="frames", expected=">= 1", found=frames)
    motions = {}
    near = _within_reach(frames, None)
    for name, side, colour in (("right", -1.0, colours[0]), ("left", 1.0, colours[1])):
        if colour not in COLOURS:
            raise InvalidSpecError("no such colour", field="colours", expected=" | ".join(COLOURS), found=colour)
        rng = np.random.default_rng([seed, 0x2A2, int(side > 0)])
        x, y, heading = rng.uniform(0.18, 0.32), side * rng.uniform(0.17, 0.26), rng.uniform(-0.6, 0.6)
        roll, pitch = rng.uniform(-0.25, 0.25, 2)
        lift, wait = rng.uniform(0.10, 0.20), rng.uniform(0.0, 4.0)
        home = _hand(0.16, side * 0.26, 1.02, rng.uniform(-0.3, 0.3), roll, pitch)
        above, at = _hand(x, y, 0.92, heading), _hand(x, y, TABLE_HEIGHT + _CUBE / 2 + 0.004, heading)
        up = _hand(x + 0.03, y - side * 0.03, TABLE_HEIGHT + lift, heading + 0.3, roll / 2, pitch / 2)
        for pose in (home, above, up):
            pose[:3, 3] = near(pose[:3, 3], at[:3, 3])
        closed = (_CUBE - 0.001) / _MAX_JAW
        legs = [(home, 1.0, 0.0), (home, 1.0, wait), (above, 1.0, 8.0), (at, 1.0, 6.0), (at, closed, 3.0)]
        legs += [(up, closed, 8.0), (up, closed, 4.0), (at, closed, 8.0), (at, 1.0, 3.0), (above, 1.0, 5.0)]
        world_from_gripper, jaw, times, ends = _follow([*legs, (home, 1.0, 12.0 - wait)], frames)
        lying = _flat(x, y, TABLE_HEIGHT + _CUBE / 2, heading)
        held = (times >= ends[4]) & (times < ends[7])
        carried = world_from_gripper @ (transforms.invert(at) @ lying)
        cube = np.where(held[:, None, None], carried, lying)
        mat = np.array([0.25, 0.0, 0.0])
        motions[name] = DemoMotion(world_from_gripper, jaw, (jaw > 0.9).astype(np.float64), cube, mat, colour)
    return motions


def _hand(x: float, y: float, z: float, heading: float, roll: float = 0.0, pitch: float = 0.0) -> FloatArray:
    """A gripper that points down, turned and tilted."""
    down = rotations.matrix_from_euler(np.array([np.pi + roll, pitch, heading]))
    return np.asarray(transforms.make_transform(down, np.array([x, y, z])))


def _follow(
    waypoints: Sequence[tuple[FloatArray, float, float]], frames: int
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Poses and jaw along waypoints (pose, jaw, time to get there), the frames' times, and when each leg ends."""
    ends = np.cumsum([w[2] for w in waypoints])
    times = np.linspace(0.0, ends[-1], frames) if frames > 1 else np.zeros(1)
    leg = np.clip(np.searchsorted(ends, times, side="right"), 1, len(waypoints) - 1)
    s = np.clip((times - ends[leg - 1]) / (ends[leg] - ends[leg - 1]), 0.0, 1.0)
    s = s**3 * (10 - 15 * s + 6 * s**2)  # minimum jerk (Flash & Hogan 1985)
    poses = np.stack([w[0] for w in waypoints])
    jaws = np.array([w[1] for w in waypoints])
    a, b = poses[leg - 1], poses[leg]
    quaternions = rotations.slerp(
        rotations.quaternion_from_matrix(a[:, :3, :3]), rotations.quaternion_from_matrix(b[:, :3, :3]), s
    )
    position = a[:, :3, 3] + s[:, None] * (b[:, :3, 3] - a[:, :3, 3])
    world_from_gripper = np.asarray(transforms.make_transform(rotations.matrix_from_quaternion(quaternions), position))
    jaw = jaws[leg - 1] + s * (jaws[leg] - jaws[leg - 1])
    return world_from_gripper, np.asarray(jaw), times, ends


def make_cameras(motion: DemoMotion, size: int, names: Sequence[str] = CAMERAS) -> dict[str, Camera | CameraTrack]:
    """The cameras by name, OpenCV axes, square pictures: 40° wide as RLBench's, the wrist's 60° wide and moving.

    Raises:
        InvalidSpecError: No such camera.
    """
    look = np.array([0.26, 0.0, TABLE_HEIGHT + 0.15])
    stand = {
        "front": (np.array([1.34, 0.0, 1.42]), look, 40.0),
        "left_shoulder": (np.array([0.08, 0.98, 1.52]), look + np.array([0.03, 0.0, -0.02]), 40.0),
        "right_shoulder": (np.array([0.08, -0.98, 1.52]), look + np.array([0.03, 0.0, -0.02]), 40.0),
        "overhead": (np.array([0.52, 0.0, 2.00]), look, 40.0),
    }
    cameras: dict[str, Camera | CameraTrack] = {}
    for name in names:
        if name in stand:
            eye, target, degrees = stand[name]
            cameras[name] = Camera.looking_at(eye, target, size, size, horizontal_fov_deg=degrees)
        elif name == "wrist":
            gripper_from_camera = _wrist_mount()
            pose = motion.world_from_gripper @ gripper_from_camera
            K = np.broadcast_to(pinhole.intrinsics(pinhole.focal_of(60.0, size), size, size), (len(motion), 3, 3))
            cameras[name] = CameraTrack(K, pose, size, size)
        else:
            raise InvalidSpecError("no such camera", field="cameras", expected=" | ".join(CAMERAS), found=name)
    return cameras


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture; depth and ids are those at the centres of the pixels, and drawn when they are asked for.

    Attributes:
        rgb: ``(S, S, 3)`` uint8.
    """

    rgb: NDArray[np.uint8]
    _planes: Callable[[], tuple[NDArray[np.float32], NDArray[np.uint8]]]

    @cached_property
    def _drawn(self) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        return self._planes()

    @property
    def depth(self) -> NDArray[np.float32]:
        """``(S, S)`` metres along the optical axis."""
        return self._drawn[0]

    @property
    def ids(self) -> NDArray[np.uint8]:
        """``(S, S)`` objects."""
        return self._drawn[1]


class SceneRenderer:
    """Draws one demo's scene.

    Args:
        motion: What moves; or the motions of a right and a left arm (`make_pair`).
        size: Width and height of the pictures in pixels.
    """

    def __init__(self, motion: DemoMotion | Mapping[str, DemoMotion], size: int) -> None:
        if isinstance(motion, Mapping):
            self.arms = [(motion["right"], _BASE - _APART), (motion["left"], _BASE + _APART)]
        else:
            self.arms = [(motion, _BASE)]
        self.size = size
        self._texture = _table_texture(self.arms[0][0].mat)
        self._backgrounds: dict[bytes, _Layer] = {}
        self._latest: tuple[int, _Soup] | None = None

    def draw(self, camera: Camera, frame: int) -> Picture:
        """The scene at one frame as ``camera`` sees it; the camera's pictures must be square and of this size."""
        if self._latest is None or self._latest[0] != frame:
            self._latest = frame, self._soup(frame)
        soup = self._latest[1]
        colour = self._drawn(camera, soup, _SAMPLES, shadows=True).colour
        rgb = cv2.resize(colour, (self.size, self.size), interpolation=cv2.INTER_AREA)

        def planes() -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
            return _centres(self._drawn(camera, soup, _CENTRED, shadows=False), _CENTRED)

        return Picture(rgb, planes)

    def _drawn(self, camera: Camera, soup: _Soup, samples: int, shadows: bool) -> _Layer:
        """The scene at ``samples`` samples a pixel along each side."""
        s = self.size * samples
        K = np.diag([samples, samples, 1.0]) @ camera.K
        camera_from_world = np.asarray(transforms.invert(camera.world_from_camera))
        key = bytes([samples]) + camera.K.tobytes() + camera.world_from_camera.tobytes()
        background = self._backgrounds.get(key)
        if background is None:
            background = self._background(K, camera_from_world, s)
            if len(self._backgrounds) < 16:
                self._backgrounds[key] = background
        colour = background.colour.copy()
        if shadows:
            self._shade_table(colour, background.ids, soup, K, camera_from_world)
        inverse_depth = background.inverse_depth.copy()
        ids = background.ids.copy()
        _rasterize(soup, K, camera_from_world, colour, inverse_depth, ids)
        return _Layer(colour, inverse_depth, ids)

    def _soup(self, frame: int) -> _Soup:
        """All triangles in the world at one frame."""
        parts = []
        for m, base in self.arms:
            hand = m.world_from_gripper[frame]
            parts.append(_gripper_body().at(hand, float(m.jaw[frame])))
            parts += [_bodies()[name].at(pose, 0.0) for name, pose in _arm_poses(hand, base).items()]
            parts.append(_bodies()["cube"].painted(COLOURS[m.colour]).at(m.world_from_cube[frame], 0.0))
        return _Soup.join(parts)

    def _background(self, K: FloatArray, camera_from_world: FloatArray, s: int) -> _Layer:
        ramp = np.linspace(1.04, 0.86, s, dtype=np.float32)[:, None, None]
        wall = (np.array(_WALL, np.float32) * ramp * 255).astype(np.uint8)
        colour = np.ascontiguousarray(np.broadcast_to(wall, (s, s, 3)))
        inverse_depth = np.full((s, s), 1 / 50.0, np.float32)
        ids = np.zeros((s, s), np.uint8)
        _draw_plane(colour, inverse_depth, ids, self._texture, _TABLE, TABLE_HEIGHT, K, camera_from_world)
        if not ids.all():
            rest = np.zeros((s, s), np.uint8)
            _draw_plane(colour, inverse_depth, rest, _floor_texture(), _FLOOR, 0.0, K, camera_from_world)
            _rasterize(_table_apron(), K, camera_from_world, colour, inverse_depth, ids)
        return _Layer(colour, inverse_depth, ids)

    def _shade_table(
        self, colour: NDArray[np.uint8], ids: NDArray[np.uint8], soup: _Soup, K: FloatArray, camera: FloatArray
    ) -> None:
        """Darken the table where something stands between it and the key light."""
        lit = np.einsum("fij,j->fi", soup.corners - [0, 0, TABLE_HEIGHT], [0, 0, 1.0]) / _KEY_LIGHT[2]
        fallen = soup.corners - lit[..., None] * _KEY_LIGHT
        facing = np.einsum("fj,j->f", soup.face_normals, _KEY_LIGHT) > 0
        above = (soup.corners[..., 2] > TABLE_HEIGHT - 1e-3).all(-1)
        uvz = _project(fallen[facing & above], K, camera)
        uvz = uvz[(uvz[..., 2] > _NEAR).all(-1)]
        shadow = np.zeros(ids.shape, np.uint8)
        limit = 8.0 * len(ids)
        polygons = np.rint(np.clip(uvz[..., :2], -limit, limit) * 16).astype(np.int32)
        for polygon in polygons:
            cv2.fillConvexPoly(shadow, polygon, 255, cv2.LINE_8, 4)
        width = max(1, len(ids) // 170) * 2 + 1
        soft = cv2.GaussianBlur(shadow, (width, width), 0)
        dark = np.flatnonzero((soft > 0) & (ids == 1))
        flat_colour = colour.reshape(-1, 3)
        keep = 1 - np.float32(0.42 / 255) * soft.ravel()[dark]
        flat_colour[dark] = (flat_colour[dark] * keep[:, None]).astype(np.uint8)


def draw_gripper(
    camera: Camera,
    openness: float,
    world_from_gripper: FloatArray | None = None,
    paper: tuple[int, int, int] = (250, 250, 250),
) -> Picture:
    """The scene's gripper alone, over paper: for drawings.

    Args:
        camera: Square pictures.
        openness: 0 closed, 1 open.
        world_from_gripper: ``(4, 4)`` canonical gripper frame; the world's own if left out.
        paper: Colour of the background.
    """
    soup = _gripper_body().at(np.eye(4) if world_from_gripper is None else world_from_gripper, openness)

    def drawn(samples: int) -> _Layer:
        s = camera.width * samples
        layer = _Layer(
            np.full((s, s, 3), paper, np.uint8), np.full((s, s), 1 / 50.0, np.float32), np.zeros((s, s), np.uint8)
        )
        K = np.diag([samples, samples, 1.0]) @ camera.K
        camera_from_world = np.asarray(transforms.invert(camera.world_from_camera))
        _rasterize(soup, K, camera_from_world, layer.colour, layer.inverse_depth, layer.ids)
        return layer

    rgb = cv2.resize(drawn(2 * _SAMPLES).colour, (camera.width, camera.width), interpolation=cv2.INTER_AREA)
    return Picture(rgb, lambda: _centres(drawn(_CENTRED), _CENTRED))


def _centres(layer: _Layer, samples: int) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Depth and ids at the centres of pixels, of an odd number of samples a side."""
    centre = slice(samples // 2, None, samples)
    return (1 / layer.inverse_depth[centre, centre]).astype(np.float32), layer.ids[centre, centre].copy()


# Geometry.


def _flat(x: float, y: float, z: float, heading: float) -> FloatArray:
    turn = rotations.matrix_from_euler(np.array([0.0, 0.0, heading]))
    return np.asarray(transforms.make_transform(turn, np.array([x, y, z])))


def _wrist_mount() -> FloatArray:
    """gripper_from_camera: in front of the hand, looking along the approach with a slight turn towards the tips."""
    tilt = np.radians(22.0)
    x = np.array([0.0, 1.0, 0.0])
    z = np.array([-np.sin(tilt), 0.0, np.cos(tilt)])
    rotation = np.stack([x, np.cross(z, x), z], axis=1)
    return np.asarray(transforms.make_transform(rotation, np.array([0.085, 0.0, -0.095])))


@dataclass(frozen=True)
class _Layer:
    colour: NDArray[np.uint8]
    inverse_depth: NDArray[np.float32]
    ids: NDArray[np.uint8]


@dataclass(frozen=True)
class _Soup:
    """Triangles in the world."""

    corners: FloatArray  # (F, 3, 3)
    normals: FloatArray  # (F, 3, 3), one a corner
    face_normals: FloatArray  # (F, 3), of any length
    colours: FloatArray  # (F, 3)
    ids: NDArray[np.uint8]  # (F,)
    parts: NDArray[np.int64]  # (F,), the faces of one part hardly hide each other

    @classmethod
    def join(cls, soups: Sequence[_Soup]) -> _Soup:
        starts = np.cumsum([0, *(s.parts.max() + 1 for s in soups)])
        return cls(
            np.concatenate([s.corners for s in soups]),
            np.concatenate([s.normals for s in soups]),
            np.concatenate([s.face_normals for s in soups]),
            np.concatenate([s.colours for s in soups]),
            np.concatenate([s.ids for s in soups]),
            np.concatenate([s.parts + start for s, start in zip(soups, starts[:-1], strict=True)]),
        )


@dataclass(frozen=True)
class _Body:
    """A mesh in its own frame, whose vertices slide by ``opening`` times the jaw."""

    corners: FloatArray
    opening: FloatArray
    normals: FloatArray
    colours: FloatArray
    id: int
    parts: NDArray[np.int64]

    def painted(self, colour: tuple[float, float, float]) -> _Body:
        return replace(self, colours=np.broadcast_to(colour, self.colours.shape))

    def at(self, world_from_body: FloatArray, jaw: float) -> _Soup:
        local = self.corners + jaw * self.opening
        corners = transforms.apply(world_from_body, local)
        turn = world_from_body[:3, :3].T
        edges = corners[:, 1:] - corners[:, :1]
        face = np.cross(edges[:, 0], edges[:, 1])
        ids = np.full(len(corners), self.id, np.uint8)
        return _Soup(corners, self.normals @ turn, face, self.colours, ids, self.parts)


def _body(mesh: Any, colour: tuple[float, float, float], id: int) -> _Body:
    faces = np.asarray(mesh.faces)
    corners = np.asarray(mesh.vertices, np.float64)[faces]
    normals = np.repeat(np.asarray(mesh.face_normals, np.float64)[:, None], 3, axis=1)
    colours = np.broadcast_to(colour, (len(faces), 3))
    return _Body(corners, np.zeros_like(corners), normals, colours, id, np.zeros(len(faces), np.int64))


@cache
def _gripper_body() -> _Body:
    model = gripper_model(max_width=_MAX_JAW)
    corners = model.vertices[model.faces]
    edges = corners[:, 1:] - corners[:, :1]
    normals = np.cross(edges[:, 0], edges[:, 1])
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    return _Body(
        corners,
        model.opening[model.faces],
        np.repeat(normals[:, None], 3, axis=1),
        model.face_colors,
        GRIPPER_ID,
        model.face_parts,
    )


_UPPER, _FOREARM, _HAND = 0.42, 0.40, 0.145
_SHOULDER = np.array([0.0, 0.0, 0.30])
"""From the base."""

_WRIST = 0.27


@cache
def _bodies() -> dict[str, _Body]:
    """The arm's links along their own +z from the joint, and the cube."""
    import trimesh.creation as make

    white, grey, dark = (0.93, 0.94, 0.95), (0.62, 0.64, 0.67), (0.20, 0.21, 0.23)

    def tube(radius: float, length: float, colour: tuple[float, float, float]) -> _Body:
        mesh = make.cylinder(radius, length, sections=14)
        mesh.apply_translation([0, 0, length / 2])
        body = _body(mesh, colour, 3)
        wall = np.abs(body.normals[..., 2:]) < 0.5
        return replace(body, normals=np.where(wall, body.corners * [1, 1, 0] / radius, body.normals))

    def ball(radius: float, colour: tuple[float, float, float]) -> _Body:
        body = _body(make.icosphere(subdivisions=2, radius=radius), colour, 3)
        return replace(body, normals=body.corners / radius)

    return {
        "base": tube(0.085, 0.24, white),
        "column": tube(0.065, 0.30, grey),
        "shoulder": ball(0.082, white),
        "upper": tube(0.060, _UPPER, white),
        "elbow": ball(0.073, dark),
        "forearm": tube(0.052, _FOREARM, white),
        "wrist": ball(0.060, white),
        "link": tube(0.040, _WRIST - _HAND, grey),
        "cube": _body(make.box((_CUBE, _CUBE, _CUBE)), (1, 1, 1), 4),
    }


def _arm_poses(world_from_gripper: FloatArray, base: FloatArray) -> dict[str, FloatArray]:
    """Where the links are so that the last one meets the flange: two links with the elbow up."""
    wrist = transforms.apply(world_from_gripper, np.array([[0.0, 0.0, -_WRIST]]))[0]
    shoulder = base + _SHOULDER
    reach = wrist - shoulder
    distance = float(np.clip(np.linalg.norm(reach), 0.1, 0.999 * (_UPPER + _FOREARM)))
    ahead = reach / np.linalg.norm(reach)
    side = np.cross([0.0, 0.0, 1.0], ahead)
    side /= max(float(np.linalg.norm(side)), 1e-9)
    up = np.cross(ahead, side)
    along = (distance**2 + _UPPER**2 - _FOREARM**2) / (2 * distance)
    elbow = shoulder + along * ahead + np.sqrt(max(_UPPER**2 - along**2, 0.0)) * up
    return {
        "base": _along(base, np.array([0.0, 0.0, 1.0])),
        "column": _along(base, np.array([0.0, 0.0, 1.0])),
        "shoulder": _along(shoulder, ahead),
        "upper": _along(shoulder, elbow - shoulder),
        "elbow": _along(elbow, ahead),
        "forearm": _along(elbow, wrist - elbow),
        "wrist": _along(wrist, ahead),
        "link": _along(wrist, world_from_gripper[:3, 2]),
    }


def _along(origin: FloatArray, direction: FloatArray) -> FloatArray:
    z = direction / np.linalg.norm(direction)
    x = np.cross([0.0, 1.0, 0.0] if abs(z[1]) < 0.9 else [1.0, 0.0, 0.0], z)
    x /= np.linalg.norm(x)
    return np.asarray(transforms.make_transform(np.stack([x, np.cross(z, x), z], axis=1), origin))


@cache
def _table_apron() -> _Soup:
    import trimesh.creation as make

    x0, x1, y0, y1 = _TABLE
    top = make.box((x1 - x0, y1 - y0, 0.04))
    top.apply_translation([(x0 + x1) / 2, (y0 + y1) / 2, TABLE_HEIGHT - 0.021])
    legs = []
    for x in (x0 + 0.06, x1 - 0.06):
        for y in (y0 + 0.06, y1 - 0.06):
            leg = make.box((0.06, 0.06, TABLE_HEIGHT - 0.04))
            leg.apply_translation([x, y, (TABLE_HEIGHT - 0.04) / 2])
            legs.append(_body(leg, (0.34, 0.27, 0.22), 0))
    wood = _body(top, (0.52, 0.38, 0.26), 0)
    return _Soup.join([body.at(np.eye(4), 0.0) for body in (wood, *legs)])


# Textures.

_TEXELS = 640  # a metre


@cache
def _wood() -> NDArray[np.uint8]:
    """Planks with a faint grid of 10 cm."""
    x0, x1, y0, y1 = _TABLE
    height, width = round((y1 - y0) * _TEXELS), round((x1 - x0) * _TEXELS)
    rng = np.random.default_rng(20)
    grain = cv2.GaussianBlur(rng.normal(size=(height, width)).astype(np.float32), (0, 0), 26, sigmaY=1.2)
    grain = grain / grain.std()
    plank = np.arange(height) * len(_PLANKS) // height
    tone = np.array(_PLANKS, np.float32)[plank][:, None] + 0.022 * grain
    picture = tone[..., None] * np.array([0.80, 0.62, 0.43], np.float32)
    edges = np.flatnonzero(np.diff(plank))
    for edge in edges:
        picture[edge - 1 : edge + 2] *= 0.80
    for at in np.arange(0.1, max(x1 - x0, y1 - y0), 0.1):
        i = round(at * _TEXELS)
        if i < width:
            picture[:, i - 1 : i + 1] *= 0.93
    return np.asarray(np.rint(np.clip(picture, 0, 1) * 255), np.uint8)


def _table_texture(mat: FloatArray) -> NDArray[np.uint8]:
    """The planks with the mat on them."""
    x0, _, y0, _ = _TABLE
    picture = _wood().copy()
    centre = (mat[:2] - [x0, y0]) * _TEXELS
    turn = np.array([[np.cos(mat[2]), -np.sin(mat[2])], [np.sin(mat[2]), np.cos(mat[2])]])
    for half, colour in ((_MAT / 2, MAT_COLOUR), (_MAT / 2 * 0.86, (0.93, 0.95, 0.92)), (_MAT / 2 * 0.80, MAT_COLOUR)):
        corners = centre + np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half * _TEXELS @ turn.T
        paint = tuple(round(255 * c) for c in colour)
        cv2.fillConvexPoly(picture, np.rint(corners * 16).astype(np.int32), paint, cv2.LINE_AA, 4)
    return picture


_PLANKS = (1.00, 0.94, 1.03, 0.97, 1.05, 0.95, 1.01, 0.98)


@cache
def _floor_texture() -> NDArray[np.uint8]:
    """Grey tiles of half a metre."""
    tiles = np.indices((14, 14)).sum(0) % 2
    picture = np.where(tiles[..., None] == 0, [153, 153, 148], [133, 133, 130]).astype(np.uint8)
    return np.asarray(cv2.resize(picture, (700, 700), interpolation=cv2.INTER_NEAREST))


# Drawing.


def _project(points: FloatArray, K: FloatArray, camera_from_world: FloatArray) -> FloatArray:
    """Pixels and depth ``(..., 3)`` of world points ``(..., 3)``; meaningless at or behind the camera."""
    p = points @ camera_from_world[:3, :3].T + camera_from_world[:3, 3]
    z = p[..., 2:]
    uv = (p / np.where(np.abs(z) > 1e-6, z, 1e-6)) @ K.T
    return np.concatenate([uv[..., :2], z], axis=-1)


def _draw_plane(
    colour: NDArray[np.uint8],
    inverse_depth: NDArray[np.float32],
    ids: NDArray[np.uint8],
    texture: NDArray[np.uint8],
    extent: tuple[float, float, float, float],
    height: float,
    K: FloatArray,
    camera_from_world: FloatArray,
) -> None:
    """A level textured rectangle, by the homography between it and the picture; its id is 1."""
    x0, x1, y0, y1 = extent
    rows, columns = texture.shape[:2]
    sx, sy = (x1 - x0) / columns, (y1 - y0) / rows
    # Texel coordinates (texel centres at whole numbers) to the world, to the picture (pixel centres at whole numbers).
    world_from_texel = np.array([[sx, 0, x0 + sx / 2], [0, sy, y0 + sy / 2], [0, 0, height], [0, 0, 1.0]])
    centre = np.array([[1, 0, -0.5], [0, 1, -0.5], [0, 0, 1.0]])
    picture_from_texel = centre @ K @ camera_from_world[:3] @ world_from_texel
    s = len(colour)
    drawn = cv2.warpPerspective(texture, picture_from_texel, (s, s), flags=cv2.INTER_LINEAR)
    hit = cv2.warpPerspective(np.ones(texture.shape[:2], np.uint8), picture_from_texel, (s, s), flags=cv2.INTER_NEAREST)
    # Where n.p = d in camera coordinates, 1/z = n.(K^-1 (u, v, 1)) / d.
    normal = camera_from_world[:3, 2]
    distance = float(normal @ (camera_from_world[:3] @ [0, 0, height, 1.0]))
    a, b, c = (normal @ np.linalg.inv(K)) / distance
    pixels = np.arange(s, dtype=np.float32) + 0.5
    inverse = (np.float32(a) * pixels[None] + np.float32(b) * pixels[:, None] + np.float32(c)).astype(np.float32)
    nearer = ((hit > 0) & (inverse > inverse_depth) & (inverse < 1 / _NEAR)).view(np.uint8)
    cv2.copyTo(drawn, nearer, colour)
    cv2.copyTo(inverse, nearer, inverse_depth)
    np.maximum(ids, nearer, out=ids)


def _light(normals: FloatArray) -> FloatArray:
    key = np.maximum(normals @ _KEY_LIGHT, 0)
    fill = np.maximum(normals @ _FILL_LIGHT, 0)
    return np.asarray(0.36 + 0.10 * normals[..., 2] + 0.52 * key + 0.20 * fill)


def _rasterize(
    soup: _Soup,
    K: FloatArray,
    camera_from_world: FloatArray,
    colour: NDArray[np.uint8],
    inverse_depth: NDArray[np.float32],
    ids: NDArray[np.uint8],
) -> None:
    """Draw triangles into the three buffers.

    Part by part: the faces of a part are painted far to near (exact for a convex one) as face numbers, then each
    covered pixel gets its face's 1/z and brightness, which are linear in the picture, and is kept where it is nearest.
    """
    s = len(ids)
    uvz = _project(soup.corners, K, camera_from_world)
    uv, z = uvz[..., :2], uvz[..., 2]
    (x0, y0), (x1, y1), (x2, y2) = (uv[:, i].T for i in range(3))
    area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
    # The picture's y points down, so outward faces (counter-clockwise in the world) have a negative area.
    keep = (z > _NEAR).all(-1) & (area < -1e-9) & (uv.max(1) > 0).all(-1) & (uv.min(1) < s).all(-1)
    chosen = np.flatnonzero(keep)
    if len(chosen) == 0:
        return
    # Barycentric coordinates as planes over the picture: weight_i = e[i] . (x, y, 1).
    x, y = uv[chosen, :, 0], uv[chosen, :, 1]
    nx, ny, px, py = np.roll(x, -1, 1), np.roll(y, -1, 1), np.roll(x, -2, 1), np.roll(y, -2, 1)
    edges = np.stack([ny - py, px - nx, nx * py - px * ny], axis=-1) / area[chosen, None, None]
    values = np.stack([1 / z[chosen], _light(soup.normals[chosen])], axis=1)  # (F, 2, 3 corners)
    planes = (values @ edges).astype(np.float32)  # (F, 2, 3)
    # A pixel on a face's rim may lie just outside it: its values stay within those of the corners.
    least, most = values.min(-1).astype(np.float32), values.max(-1).astype(np.float32)
    parts = soup.parts[chosen]
    order = np.lexsort((-z[chosen].mean(-1), parts))
    low = np.floor(np.clip(uv[chosen].min(1), 0, s)).astype(int)
    high = np.ceil(np.clip(uv[chosen].max(1), 0, s)).astype(int)
    polygons = np.rint((np.clip(uv[chosen], -8 * s, 9 * s) - 0.5) * 16).astype(np.int32)
    colours = (soup.colours[chosen] * 255).astype(np.float32)
    for faces in np.split(order, np.flatnonzero(np.diff(parts[order])) + 1):
        (left, top), (right, bottom) = low[faces].min(0), high[faces].max(0)
        if right <= left or bottom <= top:
            continue
        numbers = np.zeros((bottom - top, right - left), np.int32)
        offset = np.array([left, top], np.int32) * 16
        for face, polygon in zip(faces.tolist(), polygons[faces] - offset, strict=True):
            cv2.fillConvexPoly(numbers, polygon, face + 1, cv2.LINE_8, 4)
        inside = np.flatnonzero(numbers)
        face = numbers.ravel()[inside] - 1
        rows, columns = np.divmod(inside.astype(np.int32), right - left)
        rows += top
        columns += left
        pixel = rows * s + columns
        own = planes[face]
        at_x, at_y = columns + np.float32(0.5), rows + np.float32(0.5)
        inverse = own[:, 0, 0] * at_x + own[:, 0, 1] * at_y + own[:, 0, 2]
        np.clip(inverse, least[face, 0], most[face, 0], out=inverse)
        nearest = np.flatnonzero(inverse > inverse_depth.ravel()[pixel])
        pixel, face, own = pixel[nearest], face[nearest], own[nearest]
        light = own[:, 1, 0] * at_x[nearest] + own[:, 1, 1] * at_y[nearest] + own[:, 1, 2]
        np.clip(light, least[face, 1], most[face, 1], out=light)
        inverse_depth.ravel()[pixel] = inverse[nearest]
        shade = np.minimum(colours[face] * light[:, None], 255)
        colour.reshape(-1, 3)[pixel] = shade.astype(np.uint8)
        ids.ravel()[pixel] = soup.ids[chosen[faces[0]]]
