"""Drawings of a report, as SVG whose colours are CSS variables, so that they follow the page's light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import MissingExtraError, install_hint
from ..geometry import rotations
from ..model import CameraTrack, GripperTrajectory
from .collect import Path3
from .pictures import evenly

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FloatArray = NDArray[np.float64]

# Colours that no plot would have by chance; each stands for a CSS variable in the finished SVG.
_PALETTE: Final = {
    "ink": "#010a0b",
    "muted": "#010a0c",
    "rule": "#010a0d",
    "red": "#010a0e",
    "green": "#010a0f",
    "blue": "#010a1b",
    "accent": "#010a1c",
}
AXES: Final = (("x", "red"), ("y", "green"), ("z", "blue"))
_YAW, _PITCH = np.deg2rad(-58.0), np.deg2rad(26.0)


def _figure(width: float = 2.75, height: float = 1.6) -> tuple[Figure, Axes]:
    """A figure of the page's look; inches of 72 points, shown at about 1.35 pixels a point."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("a report needs matplotlib", field="matplotlib", hint=install_hint("report")) from None
    style = {
        "font.size": 8.0,
        "axes.linewidth": 0.6,
        "axes.edgecolor": _PALETTE["rule"],
        "axes.labelcolor": _PALETTE["muted"],
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.grid.axis": "y",
        "axes.axisbelow": True,
        "axes.unicode_minus": True,
        "grid.color": _PALETTE["rule"],
        "grid.linewidth": 0.5,
        "xtick.color": _PALETTE["rule"],
        "ytick.color": _PALETTE["rule"],
        "xtick.labelcolor": _PALETTE["muted"],
        "ytick.labelcolor": _PALETTE["muted"],
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "ytick.major.size": 0,
        "xtick.major.size": 3,
        "text.color": _PALETTE["ink"],
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height))
        # Measuring the labels for every plot would take most of a report's time.
        figure.subplots_adjust(left=0.14, right=0.955, top=0.96, bottom=0.34 / height)
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
    return figure, axes


def _svg(figure: Figure, name: str, title: str, about: str = "") -> str:
    """The figure as inline SVG: text stays text, ids are unique to ``name``, colours are the page's.

    ``about`` is further attributes, from which the page's script reads values where one points.
    """
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font: \1 var(--sans)", text)
    for colour, code in _PALETTE.items():
        text = text.replace(code, f"var(--{colour})")
    head = re.search(r'viewBox="([^"]+)"', text)
    box = head[1] if head else "0 0 100 100"
    body = text[text.index(">", text.index("<svg")) + 1 :]
    label = escape(title, quote=True)
    return f'<svg class="plot" viewBox="{box}" role="img" aria-label="{label}"{about}>{body}'


def _scale(figure: Figure, axes: Axes) -> str:
    """Where the axes are in the drawing (left, top, right, bottom), and the values at its edges, as an attribute."""
    width, height = 72 * figure.get_size_inches()
    place = axes.get_position()
    box = (place.x0 * width, (1 - place.y1) * height, place.x1 * width, (1 - place.y0) * height)
    return f' data-axes="{" ".join(f"{value:.7g}" for value in (*box, *axes.get_xlim(), *axes.get_ylim()))}"'


def _lines(name: str, title: str, times: FloatArray, values: Sequence[tuple[str, FloatArray]], **limits: Any) -> str:
    figure, axes = _figure()
    for i, (colour, series) in enumerate(values):
        (line,) = axes.plot(
            times, series, color=_PALETTE[colour], linewidth=1.3, solid_capstyle="round", solid_joinstyle="round"
        )
        line.set_gid(f"curve-{i}-{colour}")
    axes.set_xlabel("s", loc="right", labelpad=1)
    axes.margins(x=0.01, y=0.08)
    axes.locator_params(axis="y", nbins=5)
    if "ylim" in limits:
        axes.set_ylim(*limits["ylim"])
    return _svg(figure, name, title, _scale(figure, axes))


def trajectory_plots(name: str, trajectory: GripperTrajectory, most: int = 400) -> list[dict[str, Any]]:
    """Position, rotation and openness of one sample over time: caption, key and SVG of each."""
    pick = evenly(len(trajectory), most)
    chosen = trajectory[np.array(pick, np.intp)]
    times = chosen.times - trajectory.times[0]
    angles = np.full((len(chosen), 3), np.nan)
    if chosen.known.any():
        euler = np.asarray(rotations.euler_from_matrix(chosen.rotation[chosen.known]))
        angles[chosen.known] = np.rad2deg(np.unwrap(euler, axis=0))
    kinds: list[tuple[str, str, str, list[tuple[str, FloatArray]], dict[str, Any]]] = [
        ("p", "Position", "m", [(c, chosen.position[:, i]) for i, (_, c) in enumerate(AXES)], {}),
        ("r", "Rotation", "° about fixed axes", [(c, angles[:, i]) for i, (_, c) in enumerate(AXES)], {}),
        ("o", "Openness", "1 is open", [("accent", chosen.openness)], {"ylim": (-0.06, 1.06)}),
    ]
    return [
        {
            "title": title,
            "unit": unit,
            "key": AXES if len(series) == 3 else (),
            "svg": _lines(f"{name}{letter}", f"{title} over time, {unit}", times, series, **limits),
        }
        for letter, title, unit, series, limits in kinds
    ]


def histogram(
    name: str, title: str, values: ArrayLike, unit: str, *, bins: int = 32, whole: bool = False, colour: str = "accent"
) -> str:
    """A histogram; ``whole`` for counts, which get a bin each where they are few."""
    figure, axes = _figure()
    data = np.asarray(values, np.float64)
    data = data[np.isfinite(data)]
    low, high = (float(data.min()), float(data.max())) if len(data) else (0.0, 1.0)
    if whole and high - low < 2 * bins:
        edges: Any = np.arange(np.floor(low) - 0.5, np.ceil(high) + 1.5)
        axes.set_xlim(edges[0] - 0.5, edges[-1] + 0.5)
    else:
        pad = 0.0 if high > low else max(abs(low) * 0.05, 0.5)
        edges = np.linspace(low - pad, high + pad, bins + 1)
    heights, sides, _ = axes.hist(data, edges, color=_PALETTE[colour], rwidth=0.9, linewidth=0)
    bars = ";".join(f"{a:.5g} {b:.5g} {n:.0f}" for a, b, n in zip(sides[:-1], sides[1:], heights, strict=True))
    axes.set_xlabel(unit, loc="right", labelpad=1)
    axes.locator_params(axis="y", nbins=4, integer=True, min_n_ticks=1)
    axes.locator_params(axis="x", nbins=6, integer=whole, min_n_ticks=1 if whole else 2)
    return _svg(figure, name, title, f'{_scale(figure, axes)} data-bars="{bars}"')


def coverage(name: str, title: str, points: FloatArray, across: int, up: int, cells: int = 36) -> str:
    """Where the gripper has been, seen along one axis: squares, darker where it was more often.

    All plots of the same ``points (n, 3)`` have one scale.
    """
    from matplotlib.collections import PolyCollection
    from matplotlib.colors import to_rgb

    reach = max(float(np.ptp(points, axis=0).max()), 0.02)
    size = reach / cells
    seen = points[:, [across, up]]
    low, high = seen.min(axis=0), seen.max(axis=0)
    edges = [low[k] + size * np.arange(np.floor((high[k] - low[k]) / size) + 2) for k in range(2)]
    amount, _, _ = np.histogram2d(seen[:, 0], seen[:, 1], bins=edges)
    figure, axes = _figure(2.75, 2.5)
    figure.subplots_adjust(left=0.18, bottom=0.18)
    i, j = np.nonzero(amount)
    x, y = edges[0][i], edges[1][j]
    gap = 0.06 * size
    corners = [(gap, gap), (size - gap, gap), (size - gap, size - gap), (gap, size - gap)]
    squares = np.stack([np.stack([x + dx, y + dy], axis=1) for dx, dy in corners], axis=1)
    alpha = 0.18 + 0.82 * np.sqrt(amount[i, j] / amount.max())
    colours = [(*to_rgb(_PALETTE["accent"]), float(a)) for a in np.round(alpha, 2)]
    axes.add_collection(PolyCollection(list(squares), facecolors=colours, linewidths=0))
    middle, half = (low + high) / 2, 0.54 * reach
    axes.set_xlim(middle[0] - half, middle[0] + half)
    axes.set_ylim(middle[1] - half, middle[1] + half)
    axes.set_aspect("equal")
    axes.set_xlabel(f"{'xyz'[across]} (m)")
    axes.set_ylabel(f"{'xyz'[up]} (m)")
    axes.locator_params(nbins=5)
    return _svg(figure, name, title)


@dataclass(frozen=True)
class _Line:
    points: FloatArray
    kind: str
    label: str = ""


def scene(paths: Sequence[Path3], most: int = 40, points: int = 80) -> dict[str, Any]:
    """Gripper paths and cameras in space: an SVG, and the points that the page's script turns.

    Returns:
        ``svg``, ``shown`` (how many paths are drawn), ``grid`` (metres from line to line), and the first view. Without
        the script that view stays.
    """
    chosen = [paths[i] for i in evenly(len(paths), most)]
    lines: list[_Line] = []
    names = list(dict.fromkeys(path.gripper for path in paths))
    for path in chosen:
        known = path.position[np.isfinite(path.position).all(axis=1)]
        if len(known):
            kind = f"path g{names.index(path.gripper)}"
            label = f"{path.key}, {path.gripper}" if path.gripper else path.key
            lines.append(_Line(known[evenly(len(known), points)], kind, label))
    everything = np.concatenate([line.points for line in lines])
    eyes = [camera.world_from_camera[:, :3, 3] for camera in chosen[0].cameras.values()]
    reach = max(float(np.linalg.norm(np.ptp(np.concatenate([everything, *eyes]), axis=0))), 0.3)
    marks = [_Line(line.points[:1], "start") for line in lines] + [_Line(line.points[-1:], "end") for line in lines]
    frusta: list[_Line] = []
    for name, camera in chosen[0].cameras.items():
        if not camera.is_static:
            centres = camera.world_from_camera[evenly(len(camera), points), :3, 3]
            frusta.append(_Line(centres, "track"))
        frusta += _frustum(name, camera, 0.08 * reach)
    ground, step = _ground(
        np.concatenate([everything, *(line.points for line in frusta)]), float(everything[:, 2].min())
    )
    lines = [*ground, *frusta, *lines, *marks]
    cloud = np.concatenate([line.points for line in lines])
    centre = (cloud.min(axis=0) + cloud.max(axis=0)) / 2
    radius = float(np.linalg.norm(cloud - centre, axis=1).max())
    for i, line in enumerate(lines):
        lines[i] = _Line((line.points - centre) / radius, line.kind, line.label)
    span = np.abs(np.concatenate([project(line.points, _YAW, _PITCH) for line in lines])).max(axis=0)
    zoom = float(min(95 / span[0], 56 / span[1]))
    body = "".join(_draw(line, zoom) for line in lines)
    view = {"yaw": f"{_YAW:.4f}", "pitch": f"{_PITCH:.4f}", "zoom": f"{zoom:.4f}"}
    return {"svg": body, "shown": len(chosen), "grid": step, **view}


def _frustum(name: str, camera: CameraTrack, depth: float) -> list[_Line]:
    K, pose = camera.K[0], camera.world_from_camera[0]
    u, v = np.array([0, camera.width, camera.width, 0]), np.array([0, 0, camera.height, camera.height])
    rays = np.stack([(u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], np.ones(4)], axis=1)
    corners = depth * rays @ pose[:3, :3].T + pose[:3, 3]
    apex = pose[:3, 3]
    c = corners
    outline = np.stack([c[0], c[1], c[2], c[3], c[0], apex, c[1], c[2], apex, c[3]])
    return [_Line(outline, "camera"), _Line(c[:2], "up"), _Line(apex[None], "name", name)]


def _ground(points: FloatArray, height: float) -> tuple[list[_Line], float]:
    """A grid of 10 cm, or coarser where the scene is large, under the paths; and its step."""
    low, high = points.min(axis=0)[:2], points.max(axis=0)[:2]
    step = 0.1
    while (high - low).max() / step > 24:
        step *= 2
    x = np.arange(np.floor(low[0] / step), np.ceil(high[0] / step) + 1) * step
    y = np.arange(np.floor(low[1] / step), np.ceil(high[1] / step) + 1) * step
    rows = [np.array([[a, y[0], height], [a, y[-1], height]]) for a in x]
    rows += [np.array([[x[0], b, height], [x[-1], b, height]]) for b in y]
    return [_Line(row, "grid") for row in rows], step


def project(points: FloatArray, yaw: float, pitch: float) -> FloatArray:
    """``(n, 2)`` SVG coordinates in [-100, 100] of ``(n, 3)`` points within the unit ball, seen without perspective.

    The page's script holds the same formula.
    """
    x = np.cos(yaw) * points[:, 0] - np.sin(yaw) * points[:, 1]
    y = np.sin(yaw) * points[:, 0] + np.cos(yaw) * points[:, 1]
    return np.stack([100 * x, -100 * (np.cos(pitch) * points[:, 2] + np.sin(pitch) * y)], axis=1)


def _draw(line: _Line, zoom: float) -> str:
    at = " ".join(f"{u:.2f},{v:.2f}" for u, v in zoom * project(line.points, _YAW, _PITCH))
    data = " ".join(f"{value:.4f}" for value in line.points.ravel())
    if line.kind == "name":
        x, y = at.split(",")
        return f'<text class="name" data-p="{data}" x="{x}" y="{y}" dy="-2.5">{escape(line.label)}</text>'
    if line.kind in ("start", "end"):
        x, y = at.split(",")
        return (
            f'<circle class="{line.kind}" data-p="{data}" cx="{x}" cy="{y}" r="{1.1 if line.kind == "end" else 0.9}"/>'
        )
    title = f"<title>{escape(line.label)}</title>" if line.label else ""
    return f'<polyline class="{line.kind}" data-p="{data}" points="{at}">{title}</polyline>'


def curves(
    name: str,
    title: str,
    x: FloatArray,
    values: Sequence[tuple[str, FloatArray]],
    xlabel: str,
    *,
    ylim: tuple[float, float] | None = None,
) -> str:
    """Curves over anything, as SVG; each of ``values`` is the name of a colour of the page and ``(N,)`` numbers."""
    figure, axes = _figure()
    for i, (colour, series) in enumerate(values):
        single = np.isfinite(series).sum() == 1
        (line,) = axes.plot(
            x, series, color=_PALETTE[colour], linewidth=1.3, marker="o" if single else None, markersize=3
        )
        line.set_gid(f"curve-{i}-{colour}")
    axes.set_xlabel(xlabel, loc="right", labelpad=1)
    axes.margins(x=0.01, y=0.08)
    axes.locator_params(axis="y", nbins=5)
    if ylim is not None:
        axes.set_ylim(*ylim)
    return _svg(figure, name, title, _scale(figure, axes))
