"""What the pictures of one fixed camera say about where the gripper's outline is.

For chosen frames, in a window around the projected gripper, it is stored how much each pixel looks like an edge of each
direction that was not there before: an edge of the picture that is not an edge of the background (the median over
time), near pixels that differ from the background. An outline is then scored at any shift by looking up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation

from ..conventions import DEFAULT_NEAR
from ..geometry import pinhole, transforms
from ..model import Camera, CameraTrack, FrameSource, GripperTrajectory
from ..model.episode import Plane
from .outline import Drawn, Hand, Outline, Solid, unhidden

FloatArray = NDArray[np.float64]
Image = NDArray[np.uint8]

DIRECTIONS: Final = 12
HAND_PX: Final = 120.0
"""Pictures in which the gripper is larger are made smaller: more pixels would cost time and tell no more."""

SEARCH_SHARE: Final = 0.125
"""How far the gripper is looked for: this share of the picture's larger side, to all sides."""

LINKS_PX: Final = 256.0
"""And those in which the whole arm is larger than so, where the outlines of its links are looked for too."""

LINKS_RADIUS: Final = 8
"""Working pixels that windows reach beyond the projected links: they are not searched for, only sharpened by."""

BACKGROUND_FRAMES: Final = 25
MIN_INSIDE: Final = 0.6
_SOFT: Final = 4.0
_FOREGROUND: Final = 20.0
_BLUR: Final = 0.7
_STILL: Final = 1e-6


@dataclass(frozen=True)
class Masks:
    """Pictures of ids beside a camera's pictures, and which ids are the gripper's.

    Args:
        planes: Ids of each pixel; as large as the pictures.
        ids: Of the gripper's parts.
    """

    planes: FrameSource
    ids: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Link:
    """A link of the arm, whose place is known.

    Args:
        solid: Its shape.
        world_from_link: ``(T, 4, 4)`` at all frames of the episode.
        moves: Whether its outline is one to look for; one that stands still only hides others.
    """

    solid: Solid
    world_from_link: FloatArray
    moves: bool = True


@dataclass(frozen=True, eq=False)
class Seen:
    """A body's outline through a camera, where nothing hides it.

    Args:
        outline: Its points, in the body's frame.
        camera_from_body: ``(4, 4)``.
        hand: Whether it is the gripper, whose mounting and sizes may be others; a link's are known.
    """

    outline: Outline
    camera_from_body: FloatArray
    hand: bool


@dataclass(frozen=True, eq=False)
class Sight:
    """One frame of the evidence: where the gripper is said to be, and what the picture shows there.

    Args:
        index: Of the frame in the episode.
        arm: Name of the gripper, empty where there is one.
        world_from_gripper: ``(4, 4)``.
        openness: In [0, 1].
        corner: ``(2,)`` pixel of the window's upper left corner.
        edges: ``(DIRECTIONS, h, w)`` in [0, 1]: how much a new edge with that normal is there.
        moved: Share of the window that differs from the background.
        distance: ``(h, w)`` with a mask: signed pixels to the gripper's edge, positive outside.
        own: ``(h, w)`` with a mask: whether the nearest edge is the gripper's own, not that of something before it.
    """

    index: int
    arm: str
    world_from_gripper: FloatArray
    openness: float
    corner: NDArray[np.int_]
    edges: NDArray[np.float32]
    moved: float
    distance: NDArray[np.float32] | None = None
    own: NDArray[np.bool_] | None = None


@dataclass(frozen=True, eq=False)
class Evidence:
    """What one camera's pictures of one episode say, at the working size.

    Args:
        hand: The gripper model.
        K: ``(3, 3)`` of the working pictures.
        scale: Working pixels a pixel of the source.
        height: Of the working pictures.
        width: Of the working pictures.
        radius: Working pixels that the windows reach beyond the projected gripper.
        sights: The frames.
        distance: Median distance of the gripper from the camera, metres.
        pictures: The working pictures by frame, where they were to be kept.
        links: Of the arm, where their shapes are known.
    """

    hand: Hand
    K: FloatArray
    scale: float
    height: int
    width: int
    radius: int
    sights: tuple[Sight, ...]
    distance: float
    pictures: Mapping[int, Image] = field(default_factory=dict)
    links: tuple[Link, ...] = ()

    def seen(
        self, sight: Sight, camera_from_world: FloatArray, tool: FloatArray | None = None, max_points: int = 100
    ) -> list[Seen]:
        """What is seen of the gripper's outline, and of the links', in one frame.

        Args:
            sight: The frame.
            camera_from_world: ``(4, 4)``.
            tool: ``(4, 4)`` change of the gripper's mounting.
            max_points: Of each outline, about.
        """
        pose = camera_from_world @ (sight.world_from_gripper if tool is None else sight.world_from_gripper @ tool)
        bodies: list[tuple[Solid, FloatArray, bool]] = [(self.hand, pose, True)]
        bodies += [(k.solid, camera_from_world @ k.world_from_link[sight.index], k.moves) for k in self.links]
        drawn = [s.drawn(at, self.K, sight.openness) for s, at, _ in bodies]
        out = []
        for number, ((solid, at, wanted), one) in enumerate(zip(bodies, drawn, strict=True)):
            outline = solid.outlined(one, max_points) if wanted and one is not None else None
            if outline is not None and one is not None:
                others: list[Drawn] = [d for d in drawn if d is not None and d is not one]
                out.append(Seen(outline[unhidden(outline, one, others)] if others else outline, at, number == 0))
        return out

    def outlines(self, world_from_camera: FloatArray, max_points: int = 120) -> list[Outline | None]:
        """The gripper's outline in each frame through a camera pose."""
        camera_from_world = np.asarray(transforms.invert(world_from_camera))
        return [
            self.hand.outline(camera_from_world @ s.world_from_gripper, self.K, s.openness, max_points)
            for s in self.sights
        ]


def static_pose(camera: Camera | CameraTrack) -> FloatArray | None:
    """The pose ``(4, 4)`` of a camera that stands still; None for one that moves."""
    if isinstance(camera, Camera):
        return camera.world_from_camera
    same = np.ptp(camera.world_from_camera, axis=0).max() < _STILL and np.ptp(camera.K, axis=0).max() < _STILL
    return camera.world_from_camera[0] if same else None


def intrinsics(camera: Camera | CameraTrack) -> FloatArray:
    """The camera matrix ``(3, 3)`` of a camera that stands still."""
    return camera.K if isinstance(camera, Camera) else camera.K[0]


def choose_frames(
    trajectory: GripperTrajectory,
    hand: Hand,
    K: FloatArray,
    world_from_camera: FloatArray,
    size: tuple[int, int],
    count: int,
) -> NDArray[np.intp]:
    """Frames in which the gripper should be seen, as different from each other as can be.

    Where openness is only ever 0 or 1 it is a command: the fingers of a "closed" gripper may be anywhere, so frames
    near a closed one are left out.

    Args:
        trajectory: Of the gripper.
        hand: The gripper model.
        K: ``(3, 3)`` pixels.
        world_from_camera: ``(4, 4)`` where to expect the gripper from.
        size: ``(height, width)`` of the pictures.
        count: At most so many.
    """
    known = trajectory.known & np.isfinite(trajectory.openness)
    openness = trajectory.openness
    if np.isin(openness[known], (0.0, 1.0)).all():
        shut = binary_dilation(known & (openness == 0), iterations=2)
        if (known & ~shut).sum() >= 8:
            known &= ~shut
    indices = np.flatnonzero(known)
    if len(indices) == 0:
        return indices
    corners = transforms.apply(trajectory.world_from_gripper[indices], hand.corners)
    uv, depth, _ = (np.asarray(a) for a in pinhole.project(corners, K, world_from_camera))
    low, high = uv.min(1), uv.max(1)
    extent = np.maximum(high - low, 1e-9)
    seen = np.clip(np.minimum(high, [size[1], size[0]]) - np.maximum(low, 0), 0, None) / extent
    good: NDArray[np.bool_] = (depth.min(1) > DEFAULT_NEAR) & (seen.prod(1) >= MIN_INSIDE)
    indices = np.asarray(indices[good], np.intp)
    features = uv[good].reshape(len(indices), 2 * len(hand.corners))
    if len(indices) == 0:
        return indices
    chosen = [int(np.linalg.norm(features - features.mean(0), axis=1).argmin())]
    distance = np.linalg.norm(features - features[chosen[0]], axis=1)
    while len(chosen) < min(count, len(indices)) and distance.max() > 0:
        chosen.append(int(distance.argmax()))
        distance = np.minimum(distance, np.linalg.norm(features - features[chosen[-1]], axis=1))
    return np.sort(indices[chosen])


def gather(
    frames: FrameSource,
    arms: Mapping[str, GripperTrajectory],
    camera: Camera | CameraTrack,
    world_from_camera: FloatArray,
    hand: Hand,
    count: int,
    keep: bool = False,
    masks: Masks | None = None,
    cache: dict[object, NDArray[np.float32]] | None = None,
    links: Sequence[Link] = (),
) -> Evidence:
    """Read the pictures of one camera and keep what they say.

    Args:
        frames: The camera's pictures; read once, in order.
        arms: Trajectory of each gripper.
        camera: Its intrinsics and picture size are used.
        world_from_camera: ``(4, 4)`` where to expect the gripper from.
        hand: The gripper model.
        count: Frames to use, of all arms together.
        keep: Keep the working pictures, to draw on them.
        masks: Where the pictures show the gripper, if that is known.
        cache: Keeps the background of these ``frames`` by picture size, for who gathers more than once.
        links: Of the arm, whose outlines are wanted besides the gripper's.

    Returns:
        Evidence, without sights where the gripper is never expected in the picture.
    """
    K, size = intrinsics(camera), (camera.height, camera.width)
    each = max(1, count // len(arms))
    chosen = {
        arm: choose_frames(trajectory, hand, K, world_from_camera, size, each) for arm, trajectory in arms.items()
    }
    extents, depths = [], []
    for arm, indices in chosen.items():
        if len(indices):
            corners = transforms.apply(arms[arm].world_from_gripper[indices], hand.corners)
            uv, depth, _ = (np.asarray(a) for a in pinhole.project(corners, K, world_from_camera))
            extents.append(np.ptp(uv, axis=1).max(1))
            depths.append(depth.mean(1))
    if not extents:
        return Evidence(hand, K, 1.0, *size, 0, (), float("nan"))
    around = {int(i): _around(links, int(i), K, world_from_camera) for indices in chosen.values() for i in indices}
    wide = [float(np.ptp(_inside(box, size), axis=0).max()) for box in around.values() if box is not None]
    scale = HAND_PX / float(np.median(np.concatenate(extents)))
    if wide:
        scale = min(scale, LINKS_PX / max(float(np.median(wide)), 1.0))
    # A little smaller would only blur.
    scale = scale if scale < 0.9 else 1.0
    height, width = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
    K = np.diag([width / size[1], height / size[0], 1.0]) @ K
    radius = max(8, round(SEARCH_SHARE * max(height, width)))

    wanted = sorted({int(i) for indices in chosen.values() for i in indices})
    evenly = np.unique(np.linspace(0, len(frames) - 1, BACKGROUND_FRAMES).round().astype(int)).tolist()
    background = None if cache is None else cache.get((height, width))
    order = sorted({*wanted, *(evenly if background is None or masks is not None else ())})
    pictures: dict[int, Image] = {}
    for index, picture in zip(order, frames.frames(order), strict=True):
        same = picture.shape[:2] == (height, width)
        pictures[index] = picture if same else cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    if background is None:
        background = np.median(np.stack([pictures[i] for i in evenly]), axis=0).astype(np.float32)
        if cache is not None:
            cache[height, width] = background

    planes: dict[int, Plane] = {}
    usual: FloatArray | None = None
    if masks is not None:
        for index, plane in zip(order, masks.planes.frames(order), strict=True):
            same = plane.shape == (height, width)
            planes[index] = (
                plane
                if same
                else cv2.resize(plane.astype(np.float64), (width, height), interpolation=cv2.INTER_NEAREST).astype(
                    np.uint32
                )
            )
        # An id that a pixel has in most frames is its median.
        usual = np.median(np.stack([planes[i] for i in evenly]).astype(np.float64), axis=0)

    camera_from_world = np.asarray(transforms.invert(world_from_camera))
    sights = []
    for arm, indices in chosen.items():
        poses, openness = arms[arm].world_from_gripper, arms[arm].openness
        for index in indices.tolist():
            corners = transforms.apply(camera_from_world @ poses[index], hand.corners)
            uv = np.asarray(pinhole.project_camera_points(corners, K)[0])
            reach = radius + 3
            ends = [uv.min(0) - reach, uv.max(0) + reach]
            if (box := _around(links, index, K, world_from_camera)) is not None:
                ends = [np.minimum(ends[0], box[0] - LINKS_RADIUS), np.maximum(ends[1], box[1] + LINKS_RADIUS)]
            low = np.clip(np.floor(ends[0]).astype(int), 0, [width, height])
            high = np.clip(np.ceil(ends[1]).astype(int), 0, [width, height])
            window = np.s_[low[1] : high[1], low[0] : high[0]]
            edges, moved = _edges(pictures[index][window], background[window])
            sight = Sight(index, arm, poses[index], float(openness[index]), low, edges, moved)
            if masks is not None and usual is not None:
                distance, own = _mask_edges(planes[index], usual, masks.ids)
                sight = replace(sight, distance=distance[window], own=own[window])
            sights.append(sight)
    return Evidence(
        hand,
        K,
        scale,
        height,
        width,
        radius,
        tuple(sights),
        float(np.median(np.concatenate(depths))),
        {i: pictures[i] for i in wanted} if keep else {},
        tuple(links),
    )


def _around(links: Sequence[Link], index: int, K: FloatArray, world_from_camera: FloatArray) -> FloatArray | None:
    """Corners ``(2, 2)`` of the box about the moving links in a frame; None where there are none wholly in front."""
    corners = [transforms.apply(k.world_from_link[index], k.solid.corners) for k in links if k.moves]
    if not corners:
        return None
    seen = [np.asarray(a) for a in pinhole.project(np.concatenate(corners), K, world_from_camera)[:2]]
    ahead = seen[1].reshape(-1, 8).min(1) > DEFAULT_NEAR
    uv = seen[0].reshape(-1, 8, 2)[ahead].reshape(-1, 2)
    return np.stack([uv.min(0), uv.max(0)]) if len(uv) else None


def _inside(box: FloatArray, size: tuple[int, int]) -> FloatArray:
    return np.clip(box, 0, [size[1], size[0]])


def look_up(sight: Sight, uv: FloatArray, normal: FloatArray) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Edge strength at pixels ``(P, S, 2)`` for normals ``(P, 2)``: ``(P, S)``, and which lie in the window."""
    bins = _directions(normal)
    _, h, w = sight.edges.shape
    at = (uv - sight.corner - 0.5).astype(np.float32)
    x, y = at[..., 0], at[..., 1]
    inside = (x >= 0) & (y >= 0) & (x <= w - 1) & (y <= h - 1)
    x0 = np.clip(x.astype(np.int32), 0, max(w - 2, 0))
    y0 = np.clip(y.astype(np.int32), 0, max(h - 2, 0))
    fx, fy = x - x0, y - y0
    flat = sight.edges.reshape(-1)
    base = (bins[:, None] * h + y0) * w + x0
    right, down = (1 if w > 1 else 0), (w if h > 1 else 0)
    top = flat[base] * (1 - fx) + flat[base + right] * fx
    bottom = flat[base + down] * (1 - fx) + flat[base + right + down] * fx
    return np.where(inside, top * (1 - fy) + bottom * fy, 0).astype(np.float32), inside


def shift_scores(sight: Sight, outline: Outline, shifts: FloatArray) -> NDArray[np.float32]:
    """Mean edge strength ``(S,)`` along an outline moved by ``(S, 2)`` pixels; less where it leaves the window."""
    value, inside = look_up(sight, outline.uv[:, None] + shifts, outline.normal)
    return np.asarray(value.sum(0) / np.maximum(inside.sum(0), MIN_INSIDE * len(outline)))


def coarse_scores(sight: Sight, outline: Outline, radius: int) -> NDArray[np.float32]:
    """`shift_scores` on a grid ``(n, n)`` of shifts, two pixels apart, of ``2 * (i - n // 2)``; quickly."""
    n = radius // 2
    edges = sight.edges[:, : sight.edges.shape[1] // 2 * 2, : sight.edges.shape[2] // 2 * 2]
    half = np.maximum(
        np.maximum(edges[:, ::2, ::2], edges[:, 1::2, ::2]), np.maximum(edges[:, ::2, 1::2], edges[:, 1::2, 1::2])
    )
    padded = np.pad(half, ((0, 0), (1, 1), (1, 1)))
    points = outline[::2]
    at = np.floor((points.uv - sight.corner) / 2).astype(np.int32)
    bins = _directions(points.normal)
    steps = np.arange(-n, n + 1, dtype=np.int32)
    _, h, w = half.shape
    x = np.clip(at[:, :1] + steps + 1, 0, w + 1)
    y = np.clip(at[:, 1:] + steps + 1, 0, h + 1)
    total = np.zeros((len(steps), len(steps)), np.float32)
    for k, xs, ys in zip(bins, x, y, strict=True):
        total += padded[k][ys[:, None], xs]
    inside_x, inside_y = ((x >= 1) & (x <= w)).astype(np.float32), ((y >= 1) & (y <= h)).astype(np.float32)
    return np.asarray(total / np.maximum(inside_y.T @ inside_x, MIN_INSIDE * len(points)))


def _directions(normal: FloatArray) -> NDArray[np.int_]:
    return np.rint(np.arctan2(normal[:, 1], normal[:, 0]) * (DIRECTIONS / np.pi)).astype(int) % DIRECTIONS


def _edges(picture: Image, background: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    now, before = _gradient(picture.astype(np.float32)), _gradient(background)
    change = (now[0] - before[0], now[1] - before[1])
    a, b = _products(now), _products(change)
    strength = np.sqrt(a[0] + a[2])
    differs = np.abs(picture - background).max(-1) > _FOREGROUND
    near = cv2.GaussianBlur(cv2.dilate(differs.astype(np.float32), np.ones((3, 3))), (0, 0), _BLUR)
    gain = near / (strength + _SOFT)
    out = np.empty((DIRECTIONS, *strength.shape), np.float32)
    for k, angle in enumerate(np.arange(DIRECTIONS) * (np.pi / DIRECTIONS)):
        c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        # An edge of the picture alone may be the background's; one of the difference alone is what is now hidden.
        both = np.minimum(*(c * c * xx + 2 * c * s * xy + s * s * yy for xx, xy, yy in (a, b)))
        out[k] = np.sqrt(np.maximum(both, 0)) * gain
    return out, float(differs.mean())


def _mask_edges(plane: Plane, usual: FloatArray, ids: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Signed distance to the gripper's edge, and where the nearest edge is the gripper's own.

    Beside an edge of its own lies what is there without the gripper. What is not usual there (the arm, a thing that
    moves) may be before the gripper; and at the border of the picture the gripper goes on.
    """
    hand = np.isin(plane, ids)
    if not hand.any() or hand.all():
        return np.full(plane.shape, 1e3, np.float32), np.zeros(plane.shape, np.bool_)
    outside = cv2.distanceTransform((~hand).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    inside = cv2.distanceTransform(hand.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    distance = np.where(hand, 0.5 - inside, outside - 0.5).astype(np.float32)
    strange = ~hand & (plane != usual)
    touched = hand & (cv2.dilate(strange.astype(np.uint8), np.ones((3, 3))) > 0)
    touched[[0, -1]] |= hand[[0, -1]]
    touched[:, [0, -1]] |= hand[:, [0, -1]]
    # For pixels outside the nearest one of the gripper; for those inside the nearest one of its rim.
    rim = hand & (cv2.erode(hand.astype(np.uint8), np.ones((3, 3)), borderValue=1) == 0)
    rim |= touched
    _, labels = cv2.distanceTransformWithLabels(
        (~rim).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    bad = np.zeros(int(labels.max()) + 1, np.bool_)
    bad[labels[touched]] = True
    return distance, ~bad[labels]


def _gradient(picture: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    smooth = cv2.GaussianBlur(picture, (0, 0), _BLUR)
    half = np.array([-0.5, 0, 0.5], np.float32)
    one = np.ones(1, np.float32)
    return cv2.sepFilter2D(smooth, -1, half, one), cv2.sepFilter2D(smooth, -1, one, half)


def _products(
    gradient: Sequence[NDArray[np.float32]],
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    x, y = gradient
    return (x * x).sum(-1), (x * y).sum(-1), (y * y).sum(-1)


def split_sights(gathered: Sequence[Evidence]) -> tuple[list[Evidence], list[Evidence]]:
    """Every third sight judges what is fitted to the others."""
    fitted = [replace(e, sights=tuple(s for i, s in enumerate(e.sights) if i % 3 != 1)) for e in gathered]
    judged = [replace(e, sights=tuple(s for i, s in enumerate(e.sights) if i % 3 == 1)) for e in gathered]
    return fitted, judged
