"""The mapping file: how one lab's log becomes an episode. Users write it in YAML; ``docs/mapping.md`` explains it.

One schema serves every kind of log. What names a stream differs (a table's file and columns, a topic, a tf chain);
what has to be known about it does not: units, the form and order of rotations, the frames, the gripper's range and
polarity, and whose clock stamped it. Nothing of that has a default where a wrong guess would give a wrong picture.
"""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from typing import Annotated, Any, Final, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from .camera_file import CameraEntry, CameraFile, Matrix3, Transform
from .plausibility import FindingKind, Limits

UNKNOWN = "???"
"""What a proposed mapping writes where only the user can know; a mapping that still holds it is refused."""

ColumnRef = Annotated[str, StringConstraints(min_length=1, max_length=500)]
"""A column, ``NAME``, or a part of one that holds vectors: ``NAME[3]``, ``NAME[0:3]``."""

LENGTH_UNITS = {"m": 1.0, "cm": 1e-2, "mm": 1e-3}
ANGLE_UNITS = {"rad": 1.0, "deg": 0.017453292519943295}
TIME_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}

ArmName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]+$")]
LengthUnit = Literal["m", "cm", "mm"]
AngleUnit = Literal["rad", "deg"]
TimeUnit = Literal["s", "ms", "us", "ns"]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def moment_of(text: str) -> datetime:
    """The date and time of an ISO 8601 text.

    Raises:
        ValueError: It is none.
    """
    # Python 3.10 does not know the letter for UTC.
    return datetime.fromisoformat(text.removesuffix("Z") + "+00:00" if text.endswith("Z") else text)


class TimeSource(_Model):
    """Whose stamps a stream has: a column of stamps, or (assumed, and recorded as such) a constant rate."""

    column: ColumnRef | None = Field(None, description="column of stamps")
    unit: TimeUnit | None = Field(
        None, description="unit of the stamps; required with a `column` of numbers, not of dates and times"
    )
    file: str | None = Field(None, description="file that holds the column, where it is not the stream's own")
    fps: float | None = Field(None, gt=0, le=10000, description="constant rate, for streams without stamps")
    start_s: float = Field(0.0, description="time of the first sample, with `fps`")
    video: Literal[True] | None = Field(None, description="folder logs: the stamps that the video itself has")
    stamp: Literal["header", "log"] | None = Field(
        None, description="bags: the message's own stamp, or the time at which it was logged"
    )
    start: float | str | None = Field(
        None,
        description="when the stream's clock was at zero: seconds since 1970, or a date and time "
        "(2024-05-01T12:00:00+02:00)",
    )
    zone: str | None = Field(
        None, description="time zone of stamps that are local times, and of `start` where it names none: Europe/Berlin"
    )
    offset_s: float = Field(0.0, description="seconds added to every stamp of this stream")
    drift_ppm: float = Field(
        0.0,
        ge=-10_000,
        le=10_000,
        description="by how much this stream's clock runs slow: microseconds added for each second since its first "
        "stamp",
    )

    @model_validator(mode="after")
    def _one_kind(self) -> TimeSource:
        given = [n for n in ("column", "fps", "video", "stamp") if getattr(self, n) is not None]
        if len(given) > 1:
            raise ValueError(f"give one of column, fps, video and stamp, not {' and '.join(given)}")
        if self.unit is not None and self.column is None:
            raise ValueError("a unit needs a column")
        if self.file is not None and self.column is None:
            raise ValueError("a file of stamps needs a column")
        if self.zone is not None:
            try:
                ZoneInfo(self.zone)
            except (ZoneInfoNotFoundError, ValueError, OSError):
                raise ValueError(f"{self.zone!r} is no time zone; one is e.g. Europe/Berlin, or UTC") from None
        if isinstance(self.start, str):
            try:
                moment_of(self.start)
            except ValueError:
                raise ValueError(f"start is no date and time: {self.start!r}") from None
        return self

    @property
    def start_epoch_s(self) -> float:
        """Seconds since 1970 of `start`; 0 where it is not said."""
        if not isinstance(self.start, str):
            return self.start or 0.0
        moment = moment_of(self.start)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=ZoneInfo(self.zone or "UTC"))
        return moment.timestamp()


class Position(_Model):
    """Where the tool is."""

    columns: tuple[ColumnRef, ...] = Field(min_length=1, max_length=3, description="x, y, z; 3 numbers in all")
    unit: LengthUnit


class Rotation(_Model):
    """How the tool is turned; ``order`` says what the numbers mean, by form."""

    columns: tuple[ColumnRef, ...] = Field(min_length=1, max_length=9)
    form: Literal["quaternion", "euler", "rotation_vector", "matrix", "rotation_6d"]
    order: str | None = Field(
        None,
        description="quaternion: xyzw | wxyz; euler: scipy's letters, lowercase about fixed axes (xyz), uppercase "
        "about moving ones (ZYX); matrix: row | column; rotation_6d: columns | rows (of the matrix)",
    )
    unit: AngleUnit | None = Field(None, description="of euler angles and rotation vectors")
    checked: bool = Field(
        False, description="the order was checked by eye: do not ask about it where the motion looks implausible"
    )

    @model_validator(mode="after")
    def _fits(self) -> Rotation:
        orders: dict[str, tuple[str, ...]] = {
            "quaternion": ("xyzw", "wxyz"),
            "matrix": ("row", "column"),
            "rotation_6d": ("columns", "rows"),
        }
        if self.form in orders and self.order not in orders[self.form]:
            raise ValueError(f"order of a {self.form} must be {' or '.join(orders[self.form])}")
        if self.form == "euler":
            order = self.order or ""
            one_case = order.islower() or order.isupper()
            letters = order.lower()
            adjacent = any(a == b for a, b in pairwise(letters))
            if len(order) != 3 or not one_case or set(letters) - set("xyz") or adjacent:
                raise ValueError("order of euler angles must be three of xyz (fixed axes) or XYZ (moving axes)")
        if self.form == "rotation_vector" and self.order is not None:
            raise ValueError("a rotation vector has no order")
        angular = self.form in ("euler", "rotation_vector")
        if angular != (self.unit is not None):
            raise ValueError(f"a {self.form} {'needs a' if angular else 'has no'} unit")
        return self


class PoseMatrix(_Model):
    """Poses given as 4x4 matrices: 16 numbers, e.g. libfranka's ``O_T_EE`` (column)."""

    columns: tuple[ColumnRef, ...] = Field(min_length=1, max_length=16)
    order: Literal["row", "column"]
    unit: LengthUnit


class TfChain(_Model):
    """A pose from a bag's ``/tf`` and ``/tf_static``: the pose of ``child`` in ``parent``."""

    parent: str
    child: str


class Joints(_Model):
    """Poses from joint values through the robot's own kinematics."""

    columns: tuple[ColumnRef, ...] = Field(min_length=1, description="one number for each of `names`")
    names: tuple[str, ...] = Field(min_length=1, description="joints of the robot file, in the order of the columns")
    unit: AngleUnit = Field(description="of revolute joints; prismatic ones are metres")
    robot: str = Field(description="URDF or MJCF (MuJoCo) file, beside the mapping file; its meshes are not needed")
    base: str | None = Field(
        None, description="link, body or site whose frame is the poses' frame; the root link, or MJCF's world"
    )
    tip: str = Field(description="link, body or site whose pose is the tool's")


class PoseStream(_Model):
    """A stream of poses: position and rotation, a matrix, a topic, a tf chain, or joints."""

    file: str | None = Field(None, description="folder logs: table beside the recording, e.g. poses.csv")
    topic: str | None = Field(None, description="bags: PoseStamped, TransformStamped, Odometry")
    tf: TfChain | None = None
    position: Position | None = None
    rotation: Rotation | None = None
    matrix: PoseMatrix | None = None
    joints: Joints | None = None
    time: TimeSource | None = None
    inverse: bool = Field(False, description="the log holds the inverse: the frame's pose in the tool")

    @model_validator(mode="after")
    def _one_kind(self) -> PoseStream:
        given = [n for n in ("matrix", "joints", "tf") if getattr(self, n) is not None]
        parts = self.position is not None or self.rotation is not None
        if parts and (self.position is None or self.rotation is None):
            raise ValueError("position and rotation go together")
        if len(given) + parts + (self.topic is not None and not parts and not given) != 1:
            raise ValueError("give one of: position and rotation; matrix; joints; topic; tf")
        return self


class ArmJoints(_Model):
    """The arm's joint values beside its poses; `calibrate guess --urdf` sees the whole arm by them."""

    columns: tuple[ColumnRef, ...] = Field(min_length=1, description="one number for each joint")
    names: tuple[str, ...] = Field(
        (), description="joints of the robot file, in the order of the columns; those of its one arm if not said"
    )
    unit: AngleUnit = Field(description="with `rad` joints that slide are metres; `deg` is for arms that only turn")
    file: str | None = Field(None, description="folder logs: the table, where it is not that of the poses")
    topic: str | None = Field(None, description="bags: the topic, where it is not that of the poses")
    time: TimeSource | None = Field(None, description="that of the poses, if not said")


class ToolPose(PoseStream):
    """The poses of the robot's end-effector."""

    arm_joints: ArmJoints | None = Field(None, description="the arm's joint values, where the log has both")

    tool_from_gripper: Transform = Field(
        description="the canonical gripper frame (origin between the fingertips, +z approach, fingers open along "
        "+-y) in the frame that the log reports"
    )
    world_from_frame: Transform | None = Field(
        None, description="the frame of the poses in the cameras' world, where the two differ"
    )


class Gripper(_Model):
    """How open the gripper is."""

    columns: tuple[ColumnRef, ...] = Field(min_length=1, max_length=2, description="one, or two with `combine`")
    combine: Literal["difference", "sum", "mean"] | None = Field(
        None, description="of two columns, e.g. the difference of two finger joints"
    )
    closed: float = Field(description="the value when the gripper is closed")
    open: float = Field(description="the value when the gripper is open")
    kind: Literal["measured", "command"] = Field(
        description="measured values are interpolated; commands hold until the next one"
    )
    tolerance: float = Field(
        0.02, ge=0, le=0.5, description="how far values may leave the range, as a fraction of it, before refusal"
    )
    file: str | None = None
    topic: str | None = None
    time: TimeSource | None = None

    @model_validator(mode="after")
    def _range(self) -> Gripper:
        if self.closed == self.open:
            raise ValueError("closed and open must differ")
        if len(self.columns) == 2 and self.combine is None:
            raise ValueError("two columns need combine")
        if self.combine is not None and len(self.columns) != 2:
            raise ValueError("combine needs two columns")
        return self


class Arm(_Model):
    """One gripper of several: where it is and how open it is."""

    pose: ToolPose
    gripper: Gripper

    @property
    def joints(self) -> ArmJoints | None:
        """Where the joint values are, beside the poses or in their place."""
        pose = self.pose
        if pose.arm_joints is not None or pose.joints is None:
            own = pose.arm_joints
            return own and own.model_copy(
                update={
                    "file": own.file or pose.file,
                    "topic": own.topic or pose.topic,
                    "time": own.time or pose.time,
                }
            )
        given = pose.joints
        return ArmJoints(
            columns=given.columns, names=given.names, unit=given.unit, file=pose.file, topic=pose.topic, time=pose.time
        )


class PoseFile(_Model):
    """A pose in a file: easy_handeye's YAML, DROID's calibration_info.json, or a transform as it is written here."""

    file: str
    name: str | None = Field(None, description="camera within the file")
    axes: Literal["optical", "body"] | None = Field(
        None,
        description="of the frame whose pose it is: a camera's (x right, y down), or a ROS body's (x forward, z up); "
        "asked about where its name does not say",
    )


class PoseColumns(_Model):
    """A camera's pose in columns of a table: 16 numbers, or 12 by rows; one pose, or one for each picture."""

    columns: tuple[ColumnRef, ...] = Field(min_length=1, max_length=16)
    holds: Literal["world_from_camera", "camera_from_world", "tool_from_camera"]
    order: Literal["row", "column"] = "row"
    axes: Literal["opencv", "opengl"] = "opencv"
    file: str | None = Field(None, description="the table, where it is not that of the poses")


class KFile(_Model):
    """A camera matrix in a file of nine numbers: text, or .npy; of the pictures as they are."""

    file: str


class ViewCamera(_Model):
    """Where a view's calibration is: a file, the log itself (bags), or written here; or that it is not known."""

    file: str | None = Field(
        None, description="camera file; OpenCV, ROS or Kalibr YAML; RealSense, ZED, GoPro (UMI) or COLMAP"
    )
    name: str | None = Field(None, description="camera within the file")
    entry: CameraEntry | None = Field(None, description="the camera itself, as in a camera file")
    camera_info: str | None = Field(None, description="bags: topic of the CameraInfo")
    K_columns: tuple[ColumnRef, ...] | None = Field(
        None,
        description="lerobot and folder (CSV, HDF5, zarr, NPZ): columns that hold K, 9 numbers row by row, the same in "
        "every row",
    )
    K: Matrix3 | KFile | None = Field(None, description="the camera matrix of the pictures as they are, or its file")
    pose_columns: PoseColumns | None = Field(None, description="folder: the camera's pose in columns of a table")
    pixel_centre: float | None = Field(
        None, description="where K has the centre of the first pixel, 0 or 0.5; as the kind of file says, if not said"
    )
    uncalibrated: bool = Field(
        False, description="nobody knows the camera; written as the word alone, camera: uncalibrated"
    )
    rectified: bool = Field(False, description="bags: the pictures are rectified already: use P, no distortion")
    scaled: bool = Field(False, description="the pictures are the calibrated ones scaled, whole, to another size")
    tf: TfChain | None = Field(None, description="bags: the camera's optical frame in the poses' frame")
    world_from_camera: Transform | PoseFile | None = Field(
        None,
        description="the camera's pose, or a file that has it, where its own has none; for a Kalibr chain that of its "
        "first camera",
    )
    tool_from_camera: Transform | PoseFile | None = Field(
        None,
        validation_alias=AliasChoices("tool_from_camera", "camera_in_tool"),
        description="of a camera fixed to the end-effector; or a file",
    )
    gripper: str | None = Field(
        None, description="of several grippers the one whose end-effector a camera with tool_from_camera is fixed to"
    )
    poses: PoseStream | None = Field(None, description="the camera's own pose stream, for one that is tracked")

    @model_validator(mode="before")
    @classmethod
    def _word(cls, value: Any) -> Any:
        return {"uncalibrated": True} if value == "uncalibrated" else value

    @model_validator(mode="after")
    def _one_source(self) -> ViewCamera:
        if self.uncalibrated:
            if self.model_fields_set != {"uncalibrated"}:
                raise ValueError("an uncalibrated camera has nothing else")
            return self
        given = [n for n in ("file", "entry", "camera_info", "K_columns", "K") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError("give one of file, entry, camera_info, K_columns and K, or the word uncalibrated")
        names = ("tf", "world_from_camera", "tool_from_camera", "poses", "pose_columns")
        poses = [n for n in names if getattr(self, n) is not None]
        if len(poses) > 1:
            raise ValueError(f"give one pose, not {' and '.join(poses)}")
        return self


class ViewSource(_Model):
    """One camera's pictures."""

    frames: str | None = Field(
        None, description="folder logs: a video, a pattern of pictures (rgb/*.png), or FILE.hdf5#DATASET (zarr, too)"
    )
    feature: str | None = Field(None, description="lerobot: the feature, e.g. observation.images.front")
    topic: str | None = Field(None, description="bags: Image or CompressedImage")
    time: TimeSource | None = None
    camera: ViewCamera
    flip: Literal["none", "vertical", "horizontal", "both"] = Field(
        "none", description="pictures are stored flipped, the calibration is of the upright ones: flip them back"
    )
    rotate: Literal[0, 90, 180, 270] = Field(
        0, description="degrees by which to turn the pictures clockwise, before they are flipped"
    )
    rotation: Literal["applied", "ignored"] = Field(
        "applied",
        description="how a video or a picture says that it is to be shown (display matrix, EXIF orientation): turn it "
        "so, as OpenCV and browsers do, or take it as it is stored",
    )


class Instruction(_Model):
    """What the demonstration does, in words: text, or where to read it."""

    text: str | None = None
    file: str | None = Field(None, description="a .txt file, or a .json file with `key`")
    key: str | None = None
    column: str | None = None
    topic: str | None = Field(None, description="bags: std_msgs/String; the first message")

    @model_validator(mode="after")
    def _one_kind(self) -> Instruction:
        given = [n for n in ("text", "file", "column", "topic") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError("give one of text, file, column and topic")
        return self


class Sync(_Model):
    """How streams with their own stamps are brought together."""

    mode: Literal["stamps", "rows"] = Field(
        "stamps", description="rows: sample i of every stream belongs to picture i, and the rate is stated"
    )
    fps: float | None = Field(None, gt=0, le=1000, description="the rate, with rows")
    master: str | None = Field(None, description="view whose pictures set the times; the slowest if not said")
    max_pose_gap_s: float | None = Field(
        None, gt=0, description="longest gap between poses to interpolate over; else 2 periods or 50 ms"
    )
    max_frame_gap_s: float = Field(0.5, gt=0, description="longest gap between pictures within an episode")

    @model_validator(mode="after")
    def _rows(self) -> Sync:
        if (self.mode == "rows") != (self.fps is not None):
            raise ValueError("rows need fps, and only they have one")
        return self


class Mapping(_Model):
    """A mapping file."""

    version: Literal[1]
    format: Literal["folder", "lerobot", "rosbag"]
    episodes: str | None = Field(
        None,
        description="pattern of episode folders (or bags) below the source; all that hold the pose file if not said",
    )
    group: str | None = Field(
        None, description="pattern of groups within an HDF5 or zarr file, each an episode, e.g. data/demo_*"
    )
    task: str | None = None
    instruction: Instruction | None = Field(None, description="lerobot has its own; else required")
    pose: ToolPose | None = Field(None, description="with `gripper`, for a robot with one arm")
    gripper: Gripper | None = None
    grippers: dict[ArmName, Arm] = Field(
        default_factory=dict, description="in place of both: several grippers by name, e.g. left and right"
    )
    views: dict[Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]+$")], ViewSource] = Field(min_length=1)
    sync: Sync = Sync()
    allow: tuple[FindingKind, ...] = Field(
        (), description="kinds of findings that are meant and taken, as --allow (docs/plausibility.md)"
    )
    limits: Limits = Field(Limits(), description="where plausible ends, as --limit")

    @property
    def arms(self) -> dict[str, Arm]:
        """The grippers by name, in order; the only one is called ""."""
        if self.pose is not None and self.gripper is not None:
            return {"": Arm(pose=self.pose, gripper=self.gripper)}
        return dict(self.grippers)

    @model_validator(mode="after")
    def _one_or_several(self) -> Mapping:
        if (self.pose is None) != (self.gripper is None):
            raise ValueError("pose and gripper go together")
        if (self.pose is None) == (not self.grippers):
            raise ValueError("give pose and gripper, or grippers")
        if len(self.grippers) == 1:
            raise ValueError("grippers are for several; one is written as pose and gripper")
        for name, view in self.views.items():
            if view.camera.gripper is not None and view.camera.gripper not in self.grippers:
                raise ValueError(
                    f"views.{name}.camera.gripper is not one of the grippers {', '.join(self.grippers) or '(none)'}"
                )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Mapping:
        if self.sync.master is not None and self.sync.master not in self.views:
            raise ValueError(f"sync.master is not one of the views {', '.join(self.views)}")
        if self.format != "lerobot" and self.instruction is None:
            raise ValueError("instruction is required: no default is made up")
        kind = {"folder": "frames", "lerobot": "feature", "rosbag": "topic"}[self.format]
        for name, view in self.views.items():
            if getattr(view, kind) is None:
                raise ValueError(f"views.{name}: a {self.format} view needs {kind}")
        return self


EXPORTED: Final[dict[str, type[BaseModel]]] = {"mapping": Mapping, "camera-file": CameraFile}
"""Files that users write, by the name of their schema file: editors complete and check YAML by them."""
