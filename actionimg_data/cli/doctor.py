"""``actionimg doctor``: is this machine able to do the work?"""

from __future__ import annotations

import importlib
import importlib.util
import platform
import shutil
import sys
import tempfile
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from .. import __version__
from ..errors import install_hint
from ._common import EXIT_DONE, EXIT_FAILED, cores, emit_json, output

_CORE: tuple[str, ...] = (
    "numpy",
    "scipy",
    "pyarrow",
    "webdataset",
    "h5py",
    "trimesh",
    "click",
    "av",
)
_CORE += ("pydantic", "rich", "fsspec", "array-api-compat", "pyyaml", "simplejpeg")
_EXTRAS = {
    "torch": ("torch",),
    "pytorch3d": ("pytorch3d",),
    "rlds": ("array_record", "google_crc32c"),
    "training": ("torch", "torchdata"),
    "teleop": ("rosbags", "zarr"),
    "joints": ("mujoco", "yourdfpy"),
    "hdf5": ("hdf5plugin",),
    "report": ("jinja2", "matplotlib"),
    "view": ("starlette", "uvicorn"),
    "rerun": ("rerun",),
    "ray": ("ray",),
    "s3": ("s3fs",),
    "gcs": ("gcsfs",),
    "azure": ("adlfs",),
    "hub": ("huggingface_hub",),
    "mcap": ("mcap", "mcap_protobuf", "foxglove_schemas_protobuf"),
}
_NATIVE = ("torch", "pytorch3d")
_OPENCV = ("opencv-python-headless", "opencv-python", "opencv-contrib-python-headless", "opencv-contrib-python")
_X264 = "core 165"
"""The x264 that the project's own reference bytes were made with."""


def _check_core() -> list[dict[str, Any]]:
    rows = [
        {"check": name, "ok": (found := _version(name)) is not None, "found": found or "not installed"}
        for name in _CORE
    ]
    return [*rows, _check_opencv()]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _check_opencv() -> dict[str, Any]:
    """One of OpenCV's wheels, and not two: they write into the same folder ``cv2``."""
    found = {name: version for name in _OPENCV if (version := _version(name)) is not None}
    text = ", ".join(f"{name} {version}" for name, version in found.items()) or "not installed"
    if len(found) > 1:
        names = " ".join(found)
        text += f": they overwrite each other → pip uninstall -y {names} && pip install opencv-python-headless"
    return {"check": "opencv", "ok": len(found) == 1, "found": text}


def _check_x264() -> dict[str, Any]:
    """Which x264 encodes: it decides the bytes of lossy videos."""
    from ..video import x264_build

    build = x264_build()
    ok = build.startswith(_X264)
    other = f"{build or 'none'}: sound data sets, of other bytes than those of {_X264} → pip install --upgrade av"
    return {"check": "x264", "ok": ok, "found": build if ok else other, "optional": True}


def _check_torch() -> list[dict[str, Any]]:
    """Whether torch sees the GPU that is there."""
    if _absent("torch", load=True) is not None:
        return []
    import torch

    built = getattr(torch.version, "cuda", None) or getattr(torch.version, "hip", None)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    found = f"{torch.__version__}, " + (f"built for CUDA {built}" if built else "built for the CPU alone")
    found += f", {count} GPU{'s' * (count != 1)} in use of it"
    there = any(Path("/dev").glob("nvidia[0-9]*"))
    if there and not count:
        why = "its driver is older than that CUDA wants" if built else "this torch was built without CUDA"
        found += f"; this machine has one, but {why} → https://pytorch.org/get-started/locally/"
    return [{"check": "torch and GPU", "ok": bool(count) or not there, "found": found, "optional": True}]


def _check_codecs() -> list[dict[str, Any]]:
    import av

    available = av.codec.codecs_available
    wanted = {
        "libx264": "h264 videos",
        "h264": "reading h264",
        "ffv1": "lossless action videos",
        "png": "png",
    }
    return [
        {
            "check": f"codec {name}",
            "ok": name in available,
            "found": use if name in available else "not in this PyAV",
        }
        for name, use in wanted.items()
    ]


def _check_round_trip() -> dict[str, Any]:
    """Draw and decode one clip, in memory: the whole kernel in a few milliseconds."""
    import numpy as np

    from ..decode import decode
    from ..model import Camera, GripperTrajectory
    from ..raster import render
    from ..schemas import ActionImageSpec

    spec = ActionImageSpec(height=128, width=128)
    K = np.array([[150.0, 0, 64], [0, 150, 64], [0, 0, 1]])
    pose = np.eye(4)
    side = np.array([[0, 0, -1.0, 1.0], [0, 1, 0, 0], [1, 0, 0, 1], [0, 0, 0, 1]])
    cameras = [Camera(K, pose, 128, 128), Camera(K, side, 128, 128)]
    path = np.linspace([-0.05, 0, 0.95], [0.05, 0.02, 1.05], 3)
    truth = GripperTrajectory(path, [[0.0, 0, 0, 1]] * 3, [1.0, 0.0, 1.0], [0.0, 0.1, 0.2])
    decoded = decode(render(truth, cameras, spec), cameras, spec)
    error = float(np.abs(decoded.trajectory.position - truth.position).max() * 1000)
    ok = bool(decoded.valid.all()) and error < 1.0
    return {"check": "render and decode", "ok": ok, "found": f"{error:.3f} mm"}


def _check_extras() -> list[dict[str, Any]]:
    rows = []
    for extra, modules in _EXTRAS.items():
        missing = [reason for module in modules if (reason := _absent(module, load=module in _NATIVE)) is not None]
        found = "installed" if not missing else f"{'; '.join(missing)} → {install_hint(extra)}"
        rows.append({"check": f"extra {extra}", "ok": not missing, "found": found, "optional": True})
    return rows


def _absent(module: str, load: bool) -> str | None:
    """Why a module cannot be used; None where it can. Only those that fail by their libraries are loaded."""
    try:
        if load:
            importlib.import_module(module)
        elif importlib.util.find_spec(module) is None:
            return f"{module} is not installed"
    except (ImportError, OSError) as error:
        return f"{module}: {str(error).splitlines()[0][:80]}"
    return None


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Check this machine: versions, codecs, extras, disk, and one render-and-decode round trip.

    Exit code 0 when everything that is not optional works, else 1.

    \b
    actionimg doctor
    """
    free = shutil.disk_usage(tempfile.gettempdir()).free / 1e9
    rows = [
        {"check": "python", "ok": sys.version_info >= (3, 10), "found": platform.python_version()},
        {"check": "actionimg-data", "ok": True, "found": __version__},
        {"check": "cores", "ok": True, "found": str(cores())},
        {"check": "free space for temporary files", "ok": free > 1, "found": f"{free:.0f} GB"},
        *_check_core(),
        *_check_codecs(),
        _check_x264(),
        _check_round_trip(),
        *_check_extras(),
        *_check_torch(),
    ]
    ok = all(row["ok"] or row.get("optional") for row in rows)
    if as_json:
        emit_json({"ok": ok, "checks": rows})
    else:
        from rich.markup import escape
        from rich.table import Table

        table = Table(box=None, pad_edge=False, show_header=False)
        for row in rows:
            sign = "[green]✓[/green]" if row["ok"] else "[yellow]–[/yellow]" if row.get("optional") else "[red]✗[/red]"
            table.add_row(sign, row["check"], escape(row["found"]))
        output().print(table)
    ctx.exit(EXIT_DONE if ok else EXIT_FAILED)
