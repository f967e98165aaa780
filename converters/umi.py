"""UMI's data sets: one zarr, mostly zipped, of all episodes one after the other.

As ``scripts_slam_pipeline/07_generate_replay_buffer.py`` of
https://github.com/real-stanford/universal_manipulation_interface writes it: ``data/robotN_eef_pos`` (m),
``robotN_eef_rot_axis_angle``, ``robotN_gripper_width`` (m), ``cameraN_rgb`` (JPEG-XL, one picture a chunk) and
``meta/episode_ends``. Poses are those of the tool's tip in the frame of the tag on the table. The tip's frame has the
axes of the camera above it (OpenCV: z along the approach, the fingers opening along x), and lies 0.086 m below it and
0.01465 m + ``tcp_offset`` in front of it (``06_generate_dataset_plan.py``; 0.205 m where the user of UMI said nothing).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..cameras.calibrated import CalibratedCamera
from ..cameras.kinds import gopro
from ..errors import (
    ActionImgError,
    AmbiguousSourceError,
    BadFileError,
    MissingCalibrationError,
    SourceNotFoundError,
    WrongFormatError,
)
from ..geometry import crop, exact
from ..model import Episode, EpisodeRef, SelectedFrames
from ..untrusted.text import load_any
from .base import ConverterOptions, Detection
from .kit import tables
from .kit.detection import detect_file
from .kit.frames import ZarrFrames
from .kit.tree import file_stamp, natural_key, plain_id
from .recording import streams
from .recording.episode import assemble
from .recording.recording import Arm, Recording, ViewInput
from .recording.rows import RowConverter, RowOptions, check_rows, gripper_values, log_files, parse_gripper
from .recording.sync import PoseSamples, ScalarSamples

FloatArray = NDArray[np.float64]
ENDINGS = (".zarr.zip", ".zarr")
CAMERA_ABOVE_TIP_M = 0.086
CAMERA_TO_MOUNT_M = 0.01465
TOOL_FROM_GRIPPER = np.array([[0.0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
"""The fingers open along x of the tip's frame; the canonical x, which the opening leaves free, points to the camera."""


class UmiOptions(RowOptions):
    """Options of the UMI converter."""

    gripper: str | None = Field(
        None, description="required: widths of the gripper in metres when closed and when open, e.g. '0 0.08'"
    )
    tcp_offset: float | None = Field(
        None,
        description="metres from the gripper's tip to the camera's mounting screw, as it was given to UMI's pipeline "
        "(0.205 where nothing was): places the GoPro; else the camera file says tool_from_camera",
    )
    fov: float | None = Field(
        None,
        gt=0,
        lt=170,
        description="horizontal field of view in degrees of the pictures that are made from a fisheye's, e.g. 100: the "
        "GoPro sees more than any picture without distortion can show",
    )


class UmiConverter(RowConverter):
    """UMI: ``dataset.zarr.zip`` with hand-held grippers and a GoPro on each.

    * **Poses** are of the tool's tip (axis-angle, metres) in the frame of the tag on the table, which is the world.
      The tip's frame has the camera's axes: z along the approach, fingers opening along x. The canonical gripper is
      that frame turned by -90 degrees about z, so that its normal points to the camera; ``--tool-from-gripper`` says
      otherwise.
    * **Widths** in metres; ``--gripper 'CLOSED OPEN'`` gives the two ends, which the file does not hold.
    * **Rate**: ``--fps``, the rate of the videos (a GoPro's 59.94 for UMI's own data).
    * **Pictures**: JPEG-XL, ``pip install '.[teleop]'``.
    * **Camera**: ``--camera-file``: a camera file with ``camera0``, or UMI's own ``gopro_intrinsics_2_7k.json``.
      Intrinsics of the whole GoPro picture are cropped and scaled as UMI crops its pictures. A fisheye's pictures are
      made straight, ``--fov`` degrees wide. Where the camera sits on the gripper: ``tool_from_camera`` of the camera
      file, or ``--tcp-offset``.
    * **Instruction**: ``--instruction``.
    * **Two grippers**, ``robot0`` (right) and ``robot1`` (left), keep these names.
    """

    name: ClassVar[str] = "umi"
    summary: ClassVar[str] = "UMI: zarr (zip) of hand-held grippers, JPEG-XL pictures from the wrist"
    examples: ClassVar[tuple[str, ...]] = (
        "actionimg convert umi dataset.zarr.zip shards --fps 59.94 --gripper '0 0.08' --tcp-offset 0.205 --fov 100 \\",
        '    --camera-file gopro_intrinsics_2_7k.json --instruction "put the cup on the saucer"',
    )
    Options: ClassVar[type[ConverterOptions]] = UmiOptions

    @classmethod
    def detect(cls, source: str) -> Detection | None:
        """Whether ``source`` is, or holds, such a zarr."""

        def look(path: Path) -> Detection | None:
            arrays = _arrays(path)
            if "meta/episode_ends" not in arrays or "data/robot0_eef_pos" not in arrays:
                return None
            return Detection("UMI", f"{path.name}: {arrays['meta/episode_ends'].shape[0]} episodes")

        return detect_file(source, ENDINGS, look)

    def discover(self, source: str) -> Iterator[EpisodeRef]:
        """One reference for each episode that ``meta/episode_ends`` lists."""
        root, paths = log_files(source, ENDINGS, "UMI zarr") if not _is_zarr(Path(source)) else _single(source)
        stamp = self.stamp()
        count = 0
        for path in paths:
            relative = path.relative_to(root).as_posix()
            stem = re.sub(r"\.zarr(\.zip)?\Z", "", relative)
            try:
                arrays = _arrays(path)
                if "data/robot0_eef_pos" not in arrays or "meta/episode_ends" not in arrays:
                    continue
                ends = _episode_ends(arrays, path)
                size = _size(path, arrays)
            except ActionImgError:
                if len(paths) == 1:
                    raise
                # It is refused when its turn comes; the other files are not to suffer.
                count += 1
                where = {"source": str(root), "path": relative, "start": 0, "stop": 0, "index": 0}
                yield EpisodeRef(plain_id(f"{stem}/unreadable"), where, fingerprint=stamp[:16])
                continue
            for index, (start, stop) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
                count += 1
                yield EpisodeRef(
                    plain_id(f"{stem}/episode_{index}"),
                    {"source": str(root), "path": relative, "start": start, "stop": stop, "index": index},
                    num_frames=stop - start,
                    fingerprint=_fingerprint(stamp, size, start, stop),
                )
        if count == 0:
            raise WrongFormatError(
                "no UMI episode found",
                where=root,
                expected="a .zarr.zip with data/robot0_eef_pos and meta/episode_ends",
                found="none",
            )

    def fingerprint(self, ref: EpisodeRef) -> str | None:
        """The episode's fingerprint as its files are now."""
        path = Path(ref.location["source"]) / ref.location["path"]
        size = _size(path, {} if path.is_file() else _arrays(path))
        return _fingerprint(self.stamp(), size, ref.location["start"], ref.location["stop"])

    def read(self, ref: EpisodeRef) -> Episode:
        """One episode; its pictures are decoded when asked for."""
        return assemble(self.recording(ref))

    def recording(self, ref: EpisodeRef) -> Recording:
        """Everything that the episode's rows and the options say."""
        path = Path(ref.location["source"]) / ref.location["path"]
        start, stop = int(ref.location["start"]), int(ref.location["stop"])
        where = f"{path}#{start}:{stop}"
        fps = self.fps(None, where, "It is the rate of the videos; UMI's own are 59.94.")
        arrays = _arrays(path)
        robots = sorted((m[1] for n in arrays if (m := re.fullmatch(r"data/(robot\d+)_eef_pos", n))), key=natural_key)
        cameras = sorted((m[1] for n in arrays if (m := re.fullmatch(r"data/(camera\d+)_rgb", n))), key=natural_key)
        times = np.arange(stop - start) / fps
        arms = {robot: self._arm(arrays, robot, start, stop, times, path) for robot in robots}
        arms = arms if len(arms) > 1 else {"": next(iter(arms.values()))}
        views = {name: self._view(path, name, start, stop, arms) for name in self.chosen_views(cameras, path)}
        return Recording(
            id=ref.id,
            arms=arms,
            views=views,
            instructions=self.instructions((), where),
            rows_fps=fps,
            provenance={
                "format": self.name,
                "file": ref.location["path"],
                "rows": [start, stop],
                "world": "the tag on the table",
                "tcp_offset_m": self.options.tcp_offset,
            },
        )

    def _arm(self, arrays: dict[str, Any], robot: str, start: int, stop: int, times: FloatArray, path: Path) -> Arm:
        where = str(path)

        def rows(name: str, width: int) -> FloatArray:
            key = f"data/{robot}_{name}"
            if key not in arrays:
                raise WrongFormatError("has no such array", where=where, field=key, expected=" | ".join(arrays))
            values = np.asarray(tables.read_zarr(arrays[key], slice(start, stop), where, key), dtype=np.float64)
            values = values.reshape(len(values), -1)
            if values.shape[1] != width:
                raise WrongFormatError(
                    "has the wrong shape", where=where, field=key, expected=f"(N, {width})", found=str(values.shape)
                )
            check_rows({key: len(values)}, stop - start, "meta/episode_ends", where)
            return values

        if self.options.gripper is None:
            raise AmbiguousSourceError(
                "the widths of a closed and an open gripper are not in the file",
                where=where,
                field="gripper",
                expected="--gripper 'CLOSED OPEN' in metres, e.g. '0 0.08'",
            )
        gripper = parse_gripper(f"0 {self.options.gripper}")
        key = f"data/{robot}_gripper_width"
        width = gripper_values(rows("gripper_width", 1), gripper, where, key)
        openness = streams.openness_from_columns(width, gripper, f"{where}: {key}")
        q = streams.quaternions(rows("eef_rot_axis_angle", 3), "rotation_vector", None, "rad", where)
        tool = self.tool(TOOL_FROM_GRIPPER, where, "")
        return Arm(PoseSamples(times, rows("eef_pos", 3), q), ScalarSamples(times, openness), tool)

    def _view(self, path: Path, name: str, start: int, stop: int, arms: dict[str, Arm]) -> ViewInput:
        whole = ZarrFrames(path, f"data/{name}_rgb")
        if stop > len(whole):
            check_rows({f"data/{name}_rgb": len(whole)}, stop, "meta/episode_ends", path)
        frames = SelectedFrames(whole, np.arange(start, stop))
        robot = name.replace("camera", "robot")
        arm = robot if robot in arms else ""
        if self.options.poses_only:
            return ViewInput(frames, None, None)
        camera = self._camera(name, whole.width, whole.height, path)
        return ViewInput(frames, None, camera, arm=arm, pinhole_K=self._pinhole(camera, name, path))

    def _pinhole(self, camera: CalibratedCamera, name: str, path: Path) -> FloatArray | None:
        """Intrinsics of the straight pictures that are made from a fisheye's."""
        if camera.distortion is None or camera.distortion.is_zero:
            return None
        if self.options.fov is None:
            raise AmbiguousSourceError(
                "the lens distorts, and pictures without distortion can show a part of what it sees only",
                where=path,
                field=name,
                expected="--fov DEGREES, e.g. 100",
            )
        f = 0.5 * camera.width / float(exact.tan(0.5 * np.radians(self.options.fov)))
        return np.array([[f, 0.0, camera.width / 2], [0.0, f, camera.height / 2], [0.0, 0.0, 1.0]])

    def _camera(self, name: str, width: int, height: int, path: Path) -> CalibratedCamera:
        given = self.given_cameras()
        known = given.get(name, given.get("*"))
        if known is None:
            raise MissingCalibrationError(
                "UMI's files hold no intrinsics",
                where=path,
                field=name,
                expected=f"--camera-file with {name}, or UMI's gopro_intrinsics_2_7k.json",
                found=", ".join(given) or "no camera file",
            )
        if (known.width, known.height) != (width, height):
            # UMI scales the shorter side to the picture and crops the longer one about its middle.
            change = crop.center_crop(known.height, known.width, height, width)
            K = crop.apply_to_K(known.K, change, known.pixel_centre)
            known = replace(known, K=np.asarray(K), width=width, height=height)
        if known.tool_from_camera is None and known.world_from_camera is None:
            if self.options.tcp_offset is None:
                raise MissingCalibrationError(
                    "where the camera sits on the gripper is not known",
                    where=path,
                    field=name,
                    expected="tool_from_camera in the camera file, or --tcp-offset",
                )
            pose = np.eye(4)
            pose[:3, 3] = 0, -CAMERA_ABOVE_TIP_M, -(CAMERA_TO_MOUNT_M + self.options.tcp_offset)
            known = replace(known, tool_from_camera=pose)
        return known

    def given_cameras(self) -> dict[str, CalibratedCamera]:
        """The user's cameras; of UMI's own intrinsics file one for all, called ``*``."""
        if self._cameras is None and self.options.camera_file is not None:
            path = Path(self.options.camera_file)
            value = load_any(path) if path.suffix == ".json" else None
            if isinstance(value, dict) and "intrinsic_type" in value:
                self._cameras = {"*": gopro(value, path)}
        return dict(super().given_cameras())

    def inspect(self, source: str) -> dict[str, Any]:
        """Episodes, arrays, and what has still to be given."""
        refs = list(self.discover(source))
        arrays = _arrays(Path(refs[0].location["source"]) / refs[0].location["path"])
        found: dict[str, Any] = {
            "format": self.name,
            "episodes": len(refs),
            "frames": sum(r.num_frames or 0 for r in refs),
            "first": refs[0].id,
            "arrays": {n: f"{'×'.join(map(str, a.shape))} {a.dtype}" for n, a in arrays.items()},
        }
        found["to be given"] = self.open_questions(fps=False, instruction=False, gripper=False, camera_file=False)
        return found


def _is_zarr(path: Path) -> bool:
    return path.name.rstrip("/").endswith(ENDINGS)


def _single(source: str) -> tuple[Path, list[Path]]:
    path = Path(source).absolute()
    if not path.exists():
        raise SourceNotFoundError("no such file or folder", where=source)
    return path.parent, [path]


def _arrays(path: Path) -> dict[str, Any]:
    return tables.zarr_arrays(tables.open_zarr(path))


def _episode_ends(arrays: dict[str, Any], path: Path) -> list[int]:
    """Ends of the episodes, which increase and lie within the arrays."""
    ends = np.asarray(tables.read_zarr(arrays["meta/episode_ends"], slice(None), path, "meta/episode_ends"))
    rows = int(arrays["data/robot0_eef_pos"].shape[0]) if arrays["data/robot0_eef_pos"].ndim else 0
    if ends.ndim != 1 or len(ends) == 0 or ends.dtype.kind not in "iu" or ends[0] <= 0 or (np.diff(ends) <= 0).any():
        raise BadFileError(
            "is not a list of ends that increase", where=path, field="meta/episode_ends", found=ends[:8].tolist()
        )
    if ends[-1] > rows:
        raise BadFileError(
            "episodes end after the data", where=path, field="meta/episode_ends", expected=f"≤ {rows}", found=ends[-1]
        )
    return [int(e) for e in ends]


def _size(path: Path, arrays: Mapping[str, Any]) -> str:
    return file_stamp(path) if path.is_file() else str(int(arrays["data/robot0_eef_pos"].shape[0]))


def _fingerprint(stamp: str, size: str, start: int, stop: int) -> str:
    return hashlib.sha256(f"{stamp} {size} {start} {stop}".encode()).hexdigest()[:16]
