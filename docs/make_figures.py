"""Make the drawings of the documents: ``python docs/make_figures.py [NAME...]``, into ``docs/images``.
``examples`` runs the examples (minutes; two need torch and PyTorch3D) and keeps small copies of their pictures.

Each is drawn from synthetic data by the project's own code: scene and gripper by `actionimg_data.demo.scene`, action
images by `actionimg_data.render`, trajectories by `actionimg_data.decode`. The same versions give the same bytes.
Needs the extra "report" (matplotlib).
"""

from __future__ import annotations

import importlib
import runpy
import sys
import tempfile
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

import actionimg_data as aid
from actionimg_data import codecs, engine
from actionimg_data.converters.rlds import RLDSConverter, RLDSOptions
from actionimg_data.decode import decode
from actionimg_data.demo import scene
from actionimg_data.demo.rlds import write_libero_demo
from actionimg_data.geometry import crop, pinhole, rotations, transforms
from actionimg_data.raster import held_camera, project_keypoints, wrist_spec
from actionimg_data.raster.keypoints import gripper_keypoints
from actionimg_data.report import pictures
from actionimg_data.schemas import ConvertOptions
from actionimg_data.video import open_video

FloatArray = NDArray[np.float64]
FOLDER = Path(__file__).resolve().parent / "images"
PAPER, INK, GREY, FAINT = "#fafaf8", "#1f2328", "#6a737d", "#d5d8dc"
RED, GREEN, BLUE = "#e5342b", "#2b9a3e", "#3a5cf0"
KEYPOINTS = (("R  origin", RED), ("G  +0.1 m x, “normal”", GREEN), ("B  −0.1 m z, “up”", BLUE))
_PAPER_RGB = (250, 250, 248)
LIBERO_FRAMES = (2, 8, 14, 20)
matplotlib.rcParams.update(
    {
        "font.family": "DejaVu Sans",
        "font.size": 9,
        "text.color": INK,
        "axes.edgecolor": GREY,
        "axes.labelcolor": INK,
        "xtick.color": GREY,
        "ytick.color": GREY,
        "axes.linewidth": 0.8,
    }
)


def sheet(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    figure = Figure(figsize=(width, height), dpi=170, facecolor=PAPER)
    FigureCanvasAgg(figure)
    return figure


def panel(figure: Figure, box: Sequence[float], title: str = "") -> Axes:
    """Axes without ticks in ``box`` (left, bottom, width, height, as fractions), with a title above."""
    axes = figure.add_axes(tuple(box))
    axes.set_axis_off()
    if title:
        axes.set_title(title, fontsize=9.5, loc="left", color=INK, pad=5)
    return axes


def show(axes: Axes, picture: NDArray[np.uint8]) -> None:
    """A picture in the coordinates of K: its corner at 0, pixel centres at a half."""
    height, width = picture.shape[:2]
    axes.imshow(picture, extent=(0, width, height, 0), interpolation="lanczos" if picture.ndim == 3 else "nearest")
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)


def arrow(axes: Axes, start: FloatArray, end: FloatArray, colour: str, width: float = 2.0) -> None:
    """An arrow between two points of a picture."""
    style = {
        "arrowstyle": "-|>,head_width=0.28,head_length=0.55",
        "color": colour,
        "lw": width,
        "shrinkA": 0,
        "shrinkB": 0,
    }
    axes.annotate("", xy=tuple(end), xytext=tuple(start), arrowprops=style, annotation_clip=False)


def words(axes: Axes, at: Sequence[float], text: str, colour: str = INK, **options: object) -> None:
    """Text with a halo of paper, so that it can be read over a picture."""
    from matplotlib.patheffects import withStroke

    halo = [withStroke(linewidth=3.0, foreground=PAPER)]
    axes.text(at[0], at[1], text, color=colour, path_effects=halo, **{"fontsize": 9, **options})  # type: ignore[arg-type]


def look_at(
    eye: Sequence[float], target: Sequence[float], size: int, degrees: float, up: Sequence[float] = (0, 0, 1)
) -> aid.Camera:
    """A square camera at ``eye``, ``degrees`` wide."""
    z = np.subtract(target, eye)
    z = z / np.linalg.norm(z)
    x = np.cross(z, up)
    x /= np.linalg.norm(x)
    f = size / 2 / np.tan(np.radians(degrees) / 2)
    pose = np.asarray(transforms.make_transform(np.stack([x, np.cross(z, x), z], axis=1), np.asarray(eye, float)))
    return aid.Camera([[f, 0, size / 2], [0, f, size / 2], [0, 0, 1]], pose, size, size)


def projected(camera: aid.Camera, points: FloatArray) -> FloatArray:
    """Points ``(..., 3)`` in the picture ``(..., 2)``, in the coordinates of K."""
    uv, _, _ = pinhole.project(np.atleast_2d(points), camera.K, camera.world_from_camera)
    return np.asarray(uv).reshape(*np.shape(points)[:-1], 2)


def still(pose: FloatArray, openness: float) -> aid.GripperTrajectory:
    """A trajectory of one frame."""
    return aid.GripperTrajectory.from_transforms(pose[None], np.array([openness]), np.zeros(1))


def demo(frames: int = 61, size: int = 384, seed: int = 0) -> tuple[scene.DemoMotion, scene.SceneRenderer]:
    """The demo's motion and the renderer of its scene."""
    motion = scene.make_motion(frames, seed)
    return motion, scene.SceneRenderer(motion, size)


def keypoint_dots(axes: Axes, uv: FloatArray, size: float = 60) -> None:
    """The three keypoints in their channels' colours."""
    for point, (_, colour) in zip(uv, KEYPOINTS, strict=True):
        axes.scatter(*point, s=size, c=colour, edgecolors="white", linewidths=1.4, zorder=5)


def gripper_frame() -> Figure:
    """The canonical frame over the gripper, its three keypoints, and their action image."""
    size = 420
    # Turned so that the approach points down the page, as grippers mostly work.
    pose = np.eye(4)
    pose[:3, :3] = rotations.matrix_from_euler(np.array([np.pi, 0.0, 0.0]))
    camera = look_at((0.66, 0.44, 0.30), (0.0, 0.0, 0.030), size, 19.0)
    drawn = scene.draw_gripper(camera, 1.0, pose, _PAPER_RGB).rgb
    figure = sheet(9.0, 3.375)

    axes = panel(figure, (0.012, 0.03, 0.32, 0.86), "The canonical gripper frame")
    show(axes, drawn)
    length = 0.085
    ends = projected(camera, pose[:3, 3] + length * pose[:3, :3].T)
    middle = projected(camera, pose[:3, 3])
    behind = projected(camera, pose[:3, 3] - length * pose[:3, 1])
    arrow(axes, middle, behind, INK, 1.6)
    for end, label, shift in zip(ends, "xyz", ((-4, 16), (-16, 4), (0, 16)), strict=True):
        arrow(axes, middle, end, INK)
        words(axes, end + np.array(shift), label, va="center", ha="center", fontsize=11, fontweight="bold")
    words(axes, ends[2] + np.array([12, 14]), "approach", GREY, va="center")
    words(axes, ends[1] + np.array([-10, 22]), "fingers open\nalong ±y", GREY, va="top", ha="center")
    axes.scatter(*middle, s=46, c=INK, edgecolors="white", linewidths=1.4, zorder=5)
    words(axes, (14, size - 6), "origin: between the fingertips", GREY, fontsize=8.5)

    axes = panel(figure, (0.345, 0.03, 0.32, 0.86), "Three points of it are drawn")
    show(axes, (0.45 * drawn + 0.55 * np.array(_PAPER_RGB)).astype(np.uint8))
    uv = projected(camera, np.asarray(gripper_keypoints(pose[:3, 3], pose[:3, :3])))
    for end in uv[1:]:
        axes.plot(*zip(uv[0], end, strict=True), color=INK, lw=1.2, ls=(0, (4, 3)), zorder=4)
    keypoint_dots(axes, uv, 110)
    for point, (label, colour), (shift, align) in zip(
        uv, KEYPOINTS, (((16, 8), "left"), ((0, 28), "center"), ((16, -6), "left")), strict=True
    ):
        words(axes, point + np.array(shift), label, colour, va="center", ha=align, fontsize=9.5, fontweight="bold")

    axes = panel(figure, (0.678, 0.03, 0.31, 0.86), "The action image of this view")
    spec = aid.ActionImageSpec(height=size, width=size)
    show(axes, aid.render(still(pose, 1.0), [camera], spec)[0, 0])
    axes.text(12, size - 14, "dim blue everywhere: the gripper is open", color="#b9c4ff", fontsize=8.5)
    return figure


def blob_channels() -> Figure:
    """What each channel holds, and the pedestal under the blue one."""
    motion, _ = demo()
    frame, size = 22, 256
    camera = scene.make_cameras(motion, size, ("right_shoulder",))["right_shoulder"]
    assert isinstance(camera, aid.Camera)
    spec = aid.ActionImageSpec(height=size, width=size)
    pose = motion.world_from_gripper[frame]
    opened, closed = (aid.render(still(pose, o), [camera], spec)[0, 0] for o in (1.0, 0.0))
    figure = sheet(9.0, 3.5)
    names = ("action image", "R: origin", "G: normal", "B: up + pedestal")
    tints = (None, (1.0, 0.25, 0.2), (0.2, 0.95, 0.3), (0.35, 0.45, 1.0))
    for row, (picture, label) in enumerate(((opened, "open"), (closed, "closed"))):
        for column, (name, tint) in enumerate(zip(names, tints, strict=True)):
            axes = panel(figure, (0.035 + 0.142 * column, 0.50 - 0.425 * row, 0.136, 0.40), name if row == 0 else "")
            axes.title.set_fontsize(8)
            shown = picture if tint is None else (picture[..., column - 1, None] * np.array(tint)).astype(np.uint8)
            show(axes, shown)
            if column == 0:
                axes.text(-0.06, 0.5, label, transform=axes.transAxes, rotation=90, ha="right", va="center", fontsize=9)
            if column == 3:
                uv = project_keypoints(still(pose, 1.0), [camera], spec)[0][0, 0]
                line = round(float(uv[2, 1]))
                axes.axhline(line + 0.5, color="white", lw=0.9, ls=(0, (3, 3)))
    axes = figure.add_axes((0.662, 0.135, 0.322, 0.745), facecolor=PAPER)
    x = np.arange(size)
    row_of = round(float(uv[2, 1]))
    axes.plot(x, opened[row_of, :, 2], color=BLUE, lw=1.8, label="B, open")
    axes.plot(x, closed[row_of, :, 2], color=INK, lw=1.4, ls=(0, (4, 2)), label="B, closed")
    axes.axhline(64, color=GREY, lw=0.8, ls=(0, (2, 3)))
    axes.text(4, 70, "0.25 → grey level 64", color=GREY, fontsize=8.5)
    right = uv[2, 0] + 0.05 * size
    axes.annotate(
        "",
        xy=(right, 155),
        xytext=(uv[2, 0], 155),
        arrowprops={"arrowstyle": "|-|,widthA=0.3,widthB=0.3", "color": INK, "lw": 1.2, "shrinkA": 0, "shrinkB": 0},
    )
    axes.text(right + 9, 155, "σ = 0.05 · min(H, W)", va="center", fontsize=8.5)
    axes.set_xlim(0, size)
    axes.set_ylim(0, 270)
    axes.set_xlabel("pixel along the dashed line")
    axes.set_title("The pedestal carries the openness", fontsize=9.5, loc="left", pad=5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8.5, loc="upper right")
    return figure


def triad(axes: Axes, turn: FloatArray) -> None:
    """Three axes of a camera that looks away from the reader, into the page."""
    axes.set_xlim(-1.4, 1.4)
    axes.set_ylim(-1.4, 1.4)
    # The camera's own right, down and forward on the page.
    page = np.array([[1.0, 0.0], [0.0, -1.0], [0.66, 0.56]])
    body = np.array([[-0.42, -0.3], [0.42, -0.3], [0.42, 0.3], [-0.42, 0.3], [-0.42, -0.3]])
    axes.fill(*body.T, color="#e3e6ea", zorder=1)
    axes.plot(*body.T, color=GREY, lw=1.0, zorder=2)
    for direction, name, colour in zip(turn, "xyz", (RED, GREEN, BLUE), strict=True):
        end = direction @ page
        arrow(axes, np.zeros(2), end, colour)
        words(axes, end * 1.25, name, colour, ha="center", va="center", fontweight="bold")


def camera_axes() -> Figure:
    """OpenCV's axes at a camera of the scene, and what other sources mean by the same camera."""
    size = 420
    motion, renderer = demo(size=size)
    frame = 22
    stand = scene.make_cameras(motion, size, ("front",))["front"]
    assert isinstance(stand, aid.Camera)
    watcher = look_at((1.80, -2.05, 2.05), (0.80, 0.05, 1.03), size, 42.0)
    figure = sheet(9.0, 3.5)
    axes = panel(figure, (0.008, 0.03, 0.345, 0.87), "A camera of the scene, from outside")
    show(axes, renderer.draw(watcher, frame).rgb)
    pose = stand.world_from_camera
    corners = np.array([[0, 0], [size, 0], [size, size], [0, size]], float)
    rays = np.concatenate([corners, np.ones((4, 1))], axis=1) @ np.linalg.inv(stand.K).T
    depth = 0.30
    frustum = projected(watcher, transforms.apply(pose, rays * depth))
    eye = projected(watcher, pose[:3, 3])
    for corner in frustum:
        axes.plot(*zip(eye, corner, strict=True), color="white", lw=1.2)
    axes.fill(*frustum.T, color="white", alpha=0.25)
    axes.plot(*np.concatenate([frustum, frustum[:1]]).T, color="white", lw=1.2)
    for i, (name, colour) in enumerate((("x right", RED), ("y down", GREEN), ("z forward", BLUE))):
        end = projected(watcher, pose[:3, 3] + (0.22, 0.22, 0.42)[i] * pose[:3, i])
        arrow(axes, eye, end, colour, 2.4)
        words(axes, end + np.array([(4, -12), (-20, 24), (-40, 20)][i]), name, colour, fontweight="bold")
    axes = panel(figure, (0.362, 0.03, 0.345, 0.87), "What it sees: u along x, v along y")
    show(axes, renderer.draw(stand, frame).rgb)
    arrow(axes, np.array([10, 10]), np.array([120, 10]), RED, 2.2)
    arrow(axes, np.array([10, 10]), np.array([10, 120]), GREEN, 2.2)
    words(axes, (126, 14), "u", RED, va="center", fontweight="bold")
    words(axes, (10, 136), "v", GREEN, ha="center", fontweight="bold")
    words(axes, (20, 34), "(0, 0)", fontsize=8.5)
    uv = projected(stand, motion.world_from_gripper[frame][:3, 3])
    axes.scatter(*uv, s=70, facecolors="none", edgecolors=INK, linewidths=1.6)
    words(axes, (14, size - 34), f"u = fx·X/Z + cx = {uv[0]:.0f}", fontsize=9)
    words(axes, (14, size - 12), f"v = fy·Y/Z + cy = {uv[1]:.0f}", fontsize=9)
    triads = (
        ((1, 1, 1), "OpenCV, ROS optical", "ours; fx, fy > 0"),
        ((1, -1, -1), "OpenGL, MuJoCo", "pose · diag(1, −1, −1, 1)"),
        ((-1, -1, 1), "CoppeliaSim, RLBench", "pose · diag(−1, −1, 1, 1)\nand |fx|, |fy|"),
    )
    for i, (signs, title, note) in enumerate(triads):
        triad(panel(figure, (0.716, 0.625 - 0.305 * i, 0.105, 0.27)), np.diag(np.array(signs, float)))
        figure.text(0.833, 0.785 - 0.305 * i, title, fontsize=9.5)
        figure.text(0.833, 0.762 - 0.305 * i, note, fontsize=8.5, color=GREY, va="top")
    figure.text(0.716, 0.93, "The same camera, by others' axes", fontsize=9.5)
    return figure


def published_camera() -> Figure:
    """A LIBERO-shaped RLDS data set, converted with the camera that LIBERO publishes: pictures, and what is drawn."""
    with tempfile.TemporaryDirectory() as folder:
        source = write_libero_demo(Path(folder), frames=24, size=256)
        converter = RLDSConverter(RLDSOptions(cameras="published"))
        out = Path(folder) / "out"
        engine.convert(converter, str(source), out, ConvertOptions.parse(height=256, width=256))
        (sample,) = aid.open_dataset(out)
        seen, drawn = sample.rgb("image", LIBERO_FRAMES), sample.action("image", LIBERO_FRAMES)
    figure = sheet(9.0, 4.75)
    for column, (picture, action) in enumerate(zip(seen, drawn, strict=True)):
        for row, shown in enumerate((picture, np.maximum((picture * 0.6).astype(np.uint8), action))):
            box = (0.01 + 0.247 * column, 0.505 - 0.475 * row, 0.239, 0.453)
            axes = panel(figure, box, f"frame {LIBERO_FRAMES[column]}" if row == 0 else "")
            show(axes, shown)
    return figure


def pixels() -> Figure:
    """Where pixel centres are, for K and for drawing; crop and resize with their K."""
    figure = sheet(9.0, 3.5)
    axes = panel(figure, (0.03, 0.10, 0.27, 0.76), "Two ways to count, half a pixel apart")
    for i in range(4):
        for j in range(3):
            axes.add_patch(Rectangle((i, j), 1, 1, facecolor="#eef0f3", edgecolor=GREY, lw=0.9))
            axes.plot(i + 0.5, j + 0.5, "o", color=BLUE, ms=5)
    axes.plot(0, 0, "s", color=RED, ms=7, clip_on=False)
    axes.set_xlim(-0.15, 4.25)
    axes.set_ylim(4.15, -0.45)
    axes.set_aspect("equal")
    for i in range(5):
        axes.text(i, -0.12, f"{i}", color=RED, ha="center", va="bottom", fontsize=8.5)
    for i in range(4):
        axes.text(i + 0.5, 0.80, f"{i}", color=BLUE, ha="center", va="center", fontsize=8)
    axes.text(0, 3.30, "K:  the corner is 0, centres are at ½", color=RED, fontsize=9)
    axes.text(0, 3.72, "drawing:  the first pixel is 0, as published", color=BLUE, fontsize=9)

    size = 360
    motion, renderer = demo(size=size)
    frame = 22
    camera = scene.make_cameras(motion, size, ("front",))["front"]
    assert isinstance(camera, aid.Camera)
    rgb = renderer.draw(camera, frame).rgb
    height, width = 144, 256
    box = crop.center_crop(size, size, height, width)
    small = camera.resized(height, width)
    tip = motion.world_from_gripper[frame][:3, 3]

    def about(axes: Axes, cam: aid.Camera) -> None:
        uv = projected(cam, tip)
        axes.scatter(*uv, s=80, facecolors="none", edgecolors=INK, linewidths=1.6)
        words(axes, uv + np.array([0.0, 0.085]) * cam.width, f"({uv[0]:.1f}, {uv[1]:.1f})", fontsize=8.5, ha="center")
        axes.plot(cam.K[0, 2], cam.K[1, 2], "+", color=INK, ms=11, mew=1.6)
        words(axes, (cam.K[0, 2] + 0.03 * cam.width, cam.K[1, 2] - 0.02 * cam.width), "(cx, cy)", fontsize=8.5)

    axes = panel(figure, (0.325, 0.10, 0.30, 0.76), f"Recorded, {size} × {size}:  cut the largest centred box")
    show(axes, rgb)
    edge = {"facecolor": PAPER, "alpha": 0.62, "edgecolor": "none"}
    axes.add_patch(Rectangle((0, 0), size, box.top, **edge))
    axes.add_patch(Rectangle((0, box.top + box.crop_height), size, size, **edge))
    axes.add_patch(Rectangle((0, box.top), size, box.crop_height, fill=False, edgecolor=INK, lw=1.4))
    words(axes, (6, box.top - 8), f"dy = {box.top}", fontsize=8.5)
    about(axes, camera)
    axes.text(
        0, size + 26, f"fx = {camera.K[0, 0]:.1f}   cx = {camera.K[0, 2]:.1f}   cy = {camera.K[1, 2]:.1f}", fontsize=9
    )
    axes = panel(figure, (0.645, 0.10, 0.345, 0.76), f"Stored, {height} × {width}:  scaled by s = {box.scale[0]:.4f}")
    from actionimg_data.video import resize

    show(axes, resize.apply(rgb, box))
    about(axes, small)
    axes.text(
        0,
        height + 18,
        f"fx·s = {small.K[0, 0]:.1f}   cx·s = {small.K[0, 2]:.1f}   (cy − dy)·s = {small.K[1, 2]:.1f}",
        fontsize=9,
    )
    return figure


def two_views() -> Figure:
    """Decoding: blobs in two views, their rays, and the one rigid pose that fits them."""
    size = 420
    motion, renderer = demo(size=size)
    frame = 22
    names = ("front", "left_shoulder")
    cameras = [c for c in scene.make_cameras(motion, size, names).values() if isinstance(c, aid.Camera)]
    spec = aid.ActionImageSpec(height=size, width=size)
    truth = still(motion.world_from_gripper[frame], motion.gripper_open[frame])
    videos = aid.render(truth, cameras, spec)
    found = decode(videos, cameras, spec)
    uv = found.keypoints[:, 0]
    figure = sheet(9.0, 3.5)
    for i, (name, picture) in enumerate(zip(names, videos[:, 0], strict=True)):
        title = ("1  The blobs of each view", "")[i]
        axes = panel(figure, (0.008, 0.475 - 0.46 * i, 0.172, 0.44), title)
        show(axes, picture)
        for point in uv[i]:
            axes.plot(*(point + 0.5), "+", color="white", ms=9, mew=1.1)
        axes.text(10, size - 16, name.replace("_", " "), color="white", fontsize=8.5)

    axes = panel(figure, (0.205, 0.015, 0.345, 0.90), "2  Their rays meet in space")
    watcher = look_at((2.45, 2.05, 2.55), (0.62, 0.42, 1.02), size, 42.0)
    show(axes, renderer.draw(watcher, frame).rgb)
    points = np.asarray(gripper_keypoints(found.trajectory.position[0], found.trajectory.rotation[0]))
    seen = projected(watcher, points)
    for camera, name in zip(cameras, names, strict=True):
        eye = projected(watcher, camera.world_from_camera[:3, 3])
        for point, (_, colour) in zip(seen, KEYPOINTS, strict=True):
            axes.plot(*zip(eye, point, strict=True), color=colour, lw=1.3)
        axes.scatter(*eye, s=60, marker="s", c=INK, edgecolors="white", linewidths=1.2, zorder=6)
        words(axes, eye + np.array([0, -16]), name.replace("_", " "), fontsize=8.5, ha="center")
    keypoint_dots(axes, seen, 48)

    axes = panel(figure, (0.575, 0.015, 0.345, 0.90), "3  One rigid pose that fits them all")
    tip = found.trajectory.position[0]
    close = look_at(tip + np.array([0.55, -0.42, 0.28]), tip + np.array([0, 0, 0.045]), size, 27.0)
    pose = found.trajectory.world_from_gripper[0]
    show(axes, scene.draw_gripper(close, float(motion.jaw[frame]), pose, _PAPER_RGB).rgb)
    corner = projected(close, points)
    for end in corner[1:]:
        axes.plot(*zip(corner[0], end, strict=True), color=INK, lw=1.6)
    keypoint_dots(axes, corner, 80)
    error = 1e3 * float(np.linalg.norm(found.trajectory.position[0] - truth.position[0]))
    angle = float(np.degrees(rotations.angle_between(found.trajectory.rotation[0], truth.rotation[0])))
    text = (
        f"position  {error:.3f} mm off\nrotation  {angle:.3f}° off\ngripper   "
        f"{'open' if found.trajectory.openness[0] > 0.5 else 'closed'}, from the pedestal"
    )
    axes.text(0.03, 0.02, text, transform=axes.transAxes, fontsize=9, va="bottom", family="DejaVu Sans Mono")
    return figure


def hero() -> Figure:
    """The whole of it: pictures in, action images, the trajectory back."""
    size, spec_size = 320, 320
    motion, renderer = demo(61, size)
    names = ("front", "right_shoulder", "overhead")
    cameras = [c for c in scene.make_cameras(motion, size, names).values() if isinstance(c, aid.Camera)]
    spec = aid.ActionImageSpec(height=spec_size, width=spec_size)
    trajectory = aid.GripperTrajectory.from_transforms(
        motion.world_from_gripper, motion.gripper_open, np.arange(len(motion)) / 20
    )
    videos = aid.render(trajectory, cameras, spec)
    found = decode(videos, cameras, spec)
    figure = sheet(9.4, 3.2)
    frame = 24
    gap, side, top = 0.006, 0.1483, 0.475
    for i, (camera, name) in enumerate(zip(cameras[:2], names, strict=False)):
        rgb = renderer.draw(camera, frame).rgb
        action = videos[i, frame]
        overlay = pictures.blend(rgb, action, spec)
        uv, valid = project_keypoints(trajectory[frame : frame + 1], [camera], spec)
        pictures.mark(overlay, uv[0, 0], valid[0, 0])
        heads = ("demonstration", "action image", "both")
        for j, (picture, head) in enumerate(zip((rgb, action, overlay), heads, strict=True)):
            box = (0.008 + j * (side + gap), top - i * 0.455, side, 0.435)
            axes = panel(figure, box, head if i == 0 else "")
            axes.set_aspect("auto")
            show(axes, picture)
            if j == 0:
                axes.text(8, size - 12, name.replace("_", " "), color="white", fontsize=8.5)
    axes = figure.add_axes((0.478, -0.04, 0.33, 1.0), projection="3d", facecolor=PAPER, computed_zorder=False)
    p, q = trajectory.position, found.trajectory.position
    axes.plot(*p.T, color="#b9bec5", lw=5.5, solid_capstyle="round", label="recorded")
    axes.plot(*q.T, color=INK, lw=1.5, label="decoded from the action images")
    axes.plot(*np.stack([p[:, 0], p[:, 1], np.full(len(p), scene.TABLE_HEIGHT)]), color=FAINT, lw=1.2)
    for t in range(0, len(q), 6):
        points = np.asarray(gripper_keypoints(q[t], found.trajectory.rotation[t], 0.055))
        for k, colour in ((1, GREEN), (2, BLUE)):
            axes.plot(*np.stack([points[0], points[k]], axis=1), color=colour, lw=1.6)
        axes.plot(*points[0], "o", color=RED if found.trajectory.openness[t] < 0.5 else "white", mec=RED, ms=4.5)
    axes.view_init(22, -38)
    axes.set_box_aspect((1, 1.25, 1))
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_zticks([])
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_pane_color((0.965, 0.965, 0.96, 1.0))
        axis.line.set_color(FAINT)
    figure.text(0.49, 0.925, "and the trajectory back", fontsize=9.5)
    axes.legend(frameon=False, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 0.0), ncols=1)
    t = trajectory.times
    for k, (values, label) in enumerate((((q - p) * 1e3, "position error, mm"), (None, "openness"))):
        axes = figure.add_axes((0.845, 0.575 - 0.46 * k, 0.145, 0.29), facecolor=PAPER)
        if values is not None:
            for i, name in enumerate("xyz"):
                axes.plot(t, values[:, i], lw=1.2, color=(RED, GREEN, BLUE)[i], label=name)
            axes.set_ylim(-0.05, 0.05)
            axes.legend(frameon=False, fontsize=7.5, ncols=3, loc="upper center", handlelength=1, columnspacing=1)
        else:
            axes.plot(t, trajectory.openness, color="#b9bec5", lw=4.5)
            axes.plot(t, found.trajectory.openness, color=INK, lw=1.3)
            axes.set_ylim(-0.12, 1.12)
            axes.set_xlabel("seconds", fontsize=8)
        axes.set_title(label, fontsize=8.5, loc="left", pad=4)
        axes.tick_params(labelsize=7.5, length=2)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def variants() -> Figure:
    """What each field of the spec changes, where the half pixel is, and a wrist camera's picture."""
    size = 256
    motion, renderer = demo(size=size)
    frame = 22
    stand = scene.make_cameras(motion, 2 * size, ("front",))["front"]
    assert isinstance(stand, aid.Camera)
    tip = projected(stand, motion.world_from_gripper[frame][:3, 3])
    left, top = (round(float(v)) for v in tip)
    # The red point well inside at the left border, and just outside of it.
    inside, gone = (stand.cropped((left + shift, top - 150, size, size)) for shift in (-12, 10))
    spec = aid.ActionImageSpec(height=size, width=size)
    shown = still(motion.world_from_gripper[frame], 1.0)

    def draw(camera: aid.Camera, **drawing: object) -> NDArray[np.uint8]:
        return np.asarray(aid.render(shown, [camera], spec.changed(**drawing))[0, 0])

    figure = sheet(9.4, 4.3)
    wide, high, gap = 0.186, 0.407, 0.0125
    boxes = [(0.01 + (wide + gap) * (i % 5), 0.515 - 0.495 * (i // 5), wide, high) for i in range(10)]
    heads = ("the camera's picture", "as published", "fov_scale=1.6", 'pixel_centre="true"')
    shots = (renderer.draw(inside, frame).rgb, draw(inside), draw(inside, fov_scale=1.6))
    for box, head, picture in zip(boxes, heads, shots, strict=False):
        axes = panel(figure, box, head)
        show(axes, picture)
        if head.startswith("fov"):
            edge = size / 2 * (1 - 1 / 1.6)
            axes.add_patch(Rectangle((edge, edge), size / 1.6, size / 1.6, fill=False, edgecolor="white", lw=0.9))
            axes.text(size / 2, edge - 6, "the camera's picture", color="white", ha="center", fontsize=7.5)
    few = 12
    small = stand.resized(few, few)
    point = projected(small, motion.world_from_gripper[frame][:3, 3])
    axes = panel(figure, boxes[3], heads[3])
    for i, (kind, colour) in enumerate((("published", GREY), ("true", RED))):
        line = aid.render(shown, [small], aid.ActionImageSpec(height=few, width=few, sigma=0.1, pixel_centre=kind))[
            0, 0
        ]
        row = line[round(float(point[1] - 0.5 * i)), :, 0].astype(float)
        axes.bar(np.arange(few) + 0.5, row / row.max(), width=0.86, color=colour, alpha=0.45, label=kind)
    axes.axvline(float(point[0]), ymax=0.8, color=INK, lw=1.1)
    axes.set_xlim(float(point[0]) - 3.4, float(point[0]) + 4.2)
    axes.set_ylim(0, 1.5)
    axes.text(float(point[0]) + 0.15, 1.12, "the point", fontsize=8)
    axes.legend(frameon=False, fontsize=8, loc="upper right", ncols=2, handlelength=1, columnspacing=1)

    heads = ("the red point is outside", "as published", 'outside="drop"', 'ground="in_view"')
    shots = (renderer.draw(gone, frame).rgb, draw(gone), draw(gone, outside="drop"), draw(gone, ground="in_view"))
    for box, head, picture in zip(boxes[5:], heads, shots, strict=False):
        show(panel(figure, box, head), picture)
    wrist = scene.make_cameras(motion, size, ("wrist",))["wrist"]
    assert isinstance(wrist, aid.CameraTrack)
    path = aid.GripperTrajectory.from_transforms(motion.world_from_gripper, motion.gripper_open, np.arange(61) / 20)
    start, end = 4, 44
    held = held_camera(wrist[start:], {"": path[start:]})
    for box, head, camera, drawing in (
        (boxes[4], "wrist camera, 0 and 2 s", wrist, spec),
        (boxes[9], "held at the start", held.track(61), wrist_spec(spec)),
    ):
        axes = panel(figure, box, head)
        video = aid.render(path, [camera], drawing)[0]
        both = np.concatenate([video[start], np.full((size, 8, 3), 250, np.uint8), video[end]], axis=1)
        axes.imshow(both, interpolation="lanczos")
    return figure


def segments() -> Figure:
    """Depth, labels and normals of a picture as the videos that training samples carry."""
    size, frame = 384, 30
    motion, renderer = demo(size=size)
    camera = scene.make_cameras(motion, size, ("left_shoulder",))["left_shoulder"]
    assert isinstance(camera, aid.Camera)
    drawn = renderer.draw(camera, frame)
    depth = np.rint(1000 * drawn.depth).astype(np.uint16)
    shots = (
        ("video", drawn.rgb),
        ("depth", codecs.DepthCodec().encode(depth)),
        ("mask", codecs.encode_labels(drawn.ids, codecs.largest_labels(drawn.ids))),
        ("normals", codecs.encode_normals(codecs.normals_from_depth(depth, camera.K))),
        (
            "action",
            aid.render(
                still(motion.world_from_gripper[frame], float(motion.gripper_open[frame])),
                [camera],
                aid.ActionImageSpec(height=size, width=size),
            )[0, 0],
        ),
    )
    figure = sheet(9.4, 2.15)
    for i, (name, picture) in enumerate(shots):
        show(panel(figure, (0.01 + 0.1985 * i, 0.03, 0.186, 0.83), name), picture)
    return figure


FIGURES: dict[str, Callable[[], Figure]] = {
    f.__name__: f
    for f in (hero, gripper_frame, camera_axes, blob_channels, pixels, variants, segments, two_views, published_camera)
}


def webp(figure: Figure) -> bytes:
    """The figure as a WebP file."""
    raw = BytesIO()
    figure.savefig(raw, format="png", facecolor=PAPER)
    out = BytesIO()
    with Image.open(raw) as picture:
        picture.convert("RGB").save(out, format="WEBP", quality=86, method=6)
    return out.getvalue()


def examples() -> None:
    """Run every example and keep a small copy of the picture that it leaves."""
    folder = FOLDER / "examples"
    folder.mkdir(exist_ok=True)
    for script in sorted((FOLDER.parents[1] / "examples").glob("[0-9][0-9]_*.py")):
        with tempfile.TemporaryDirectory() as out:
            runpy.run_path(str(script))["main"](["--out", out])
            # Example 05 leaves a picture of each stage: the last one.
            left = sorted(Path(out).glob("*.png"))[-1]
            with Image.open(left) as picture:
                _keep(picture, folder / f"{script.stem}.webp")
            for video in Path(out).glob(f"{script.stem}.mp4"):
                _keep_video(video, folder / f"{script.stem}_video.webp")
    plugin = FOLDER.parents[1] / "examples" / "07_converter_plugin"
    sys.path.insert(0, str(plugin))
    jsonarm, make_logs = importlib.import_module("jsonarm"), importlib.import_module("make_logs")
    with tempfile.TemporaryDirectory() as out:
        make_logs.write_logs(Path(out), 1)
        converter = jsonarm.JsonArmConverter()
        episode = converter.read(next(converter.discover(out)))
        sheet = pictures.contact_sheet(episode, aid.ActionImageSpec(height=192, width=192))
    _keep(Image.fromarray(sheet), folder / f"{plugin.name}.webp")


def _keep(picture: Image.Image, path: Path) -> None:
    shown = picture.convert("RGB")
    shown.thumbnail((900, 900), Image.Resampling.LANCZOS)
    shown.save(path, quality=80, method=6)
    print(path.name)


def _keep_video(video: Path, path: Path, width: int = 480, rate: float = 5.0) -> None:
    """A small animated copy of a video, which every browser shows as a picture."""
    with open_video(video) as reader:
        step = max(1, round(reader.info.fps / rate))
        frames = [Image.fromarray(f) for f in reader.frames(range(0, reader.info.frames, step))]
    small = [f.resize((width, round(f.height * width / f.width)), Image.Resampling.LANCZOS) for f in frames]
    small[0].save(
        path, save_all=True, append_images=small[1:], duration=round(1000 / rate), loop=0, quality=55, method=6
    )
    print(path.name)


def main(names: Sequence[str]) -> None:
    """Write the named drawings, or all."""
    unknown = set(names) - {*FIGURES, "examples"}
    if unknown:
        raise SystemExit(f"no such drawing: {', '.join(sorted(unknown))}; there are {', '.join(FIGURES)}, examples")
    for name in names or [*FIGURES, "examples"]:
        if name == "examples":
            examples()
            continue
        data = webp(FIGURES[name]())
        (FOLDER / f"{name}.webp").write_bytes(data)
        print(f"{name}.webp  {len(data) / 1024:.0f} kB")


if __name__ == "__main__":
    main(sys.argv[1:])
