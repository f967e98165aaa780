"""What has to be known about an RLDS data set before it can be drawn: one entry a data set, in YAML.

RLDS says how values are stored, not what they mean. An entry names the pictures, the absolute end-effector pose, the
gripper's signal and its polarity, the instruction, the rate and where the calibration is, each with the URL it was read
at. What nobody states stays unknown, and the converter asks for it; where sources disagree the entry lists what each
says, and the converter asks which to believe. ``columns`` name features as ``KEY`` or ``KEY[3]`` or ``KEY[0:3]``, where
``KEY`` is the feature's path below ``steps`` (or, with ``/`` in front, from the top), joined by ``/``.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from .camera_file import AxesField, CameraEntry, Matrix3, Resized, Transform
from .mapping import AngleUnit, ColumnRef, PoseMatrix, Position, Rotation

Key = Annotated[str, StringConstraints(min_length=1, max_length=500)]
ViewName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9_-]+$")]
Section = Literal["views", "pose", "gripper", "instruction", "fps", "tool_from_gripper", "calibration"]
CHOOSABLE = ("pose", "gripper", "tool_from_gripper")


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Source(_Model):
    """Where a fact was read."""

    url: Annotated[str, StringConstraints(pattern=r"^https://\S+$")] = Field(description="where the fact was read")
    says: str = Field("", description="what is said there, where that needs a word")


class RldsDepth(_Model):
    """Depth beside one camera's pictures, of their size, along the camera's axis."""

    image: Key = Field(description="the feature that holds it: pictures of one channel, uint16 or float32, or numbers")
    units_per_metre: float = Field(gt=0, description="1000 where it is in millimetres, 1 where it is in metres")


class RldsView(_Model):
    """One camera's pictures."""

    image: Key = Field(description="the feature that holds the pictures")
    flip: Literal["none", "vertical", "horizontal", "both"] = Field(
        "none", description="how stored pictures must be flipped to become what the camera saw"
    )
    may_be_fill: bool = Field(
        False,
        description="episodes without this camera hold black pictures in its place; the view is left out of them",
    )
    resized: Resized | None = Field(
        None,
        description="how pictures were made smaller since calibration: squeeze (width and height each by a factor of "
        "its own), crop (cut about the centre to the aspect, then scaled) or scale (both by one factor, the only way "
        "where nothing is said)",
    )
    depth: RldsDepth | None = Field(None, description="depth beside the pictures, flipped as they are")


class JointColumns(_Model):
    """Joint values; a robot file of the user's makes poses of them, or tells where the rest of the arm is."""

    columns: tuple[ColumnRef, ...] = Field(min_length=1, description="one number for each joint")
    names: tuple[str, ...] = Field(
        (), description="joints of the robot file, in the order of the columns; those from base to tip if not said"
    )
    unit: AngleUnit = Field("rad", description="of revolute joints; prismatic ones are metres")


class RldsJoints(_Model):
    """Joint values, and the robot file through which they become poses."""

    columns: tuple[ColumnRef, ...] = Field(min_length=1, description="one number for each joint")
    names: tuple[str, ...] = Field(
        (), description="joints of the robot file, in the order of the columns; those from base to tip if not said"
    )
    unit: AngleUnit = Field("rad", description="of revolute joints; prismatic ones are metres")
    robot: str = Field(description="URDF or MJCF file, relative to this one; its meshes are not needed")
    base: str | None = Field(None, description="link, body or site that poses are relative to; the root if not said")
    tip: str = Field(description="link, body or site whose pose is the end-effector's")


class RldsPose(_Model):
    """The absolute pose of the robot's end-effector: position and rotation, a 4x4 matrix, or joints."""

    position: Position | None = Field(None, description="columns of x, y, z and their unit")
    rotation: Rotation | None = Field(None, description="columns of the rotation, their form, order and unit")
    rotation_offset: Matrix3 | None = Field(
        None, description="the reported frame's rotation is what `rotation` gives times this 3x3 matrix (row by row)"
    )
    matrix: PoseMatrix | None = Field(None, description="columns of 16 numbers, their order and unit")
    joints: RldsJoints | None = Field(None, description="joint values, for data sets without poses")
    frame: str = Field(description="the frame that poses are given in, in words")

    @model_validator(mode="after")
    def _one_kind(self) -> RldsPose:
        parts = self.position is not None and self.rotation is not None
        kinds = parts + (self.matrix is not None) + (self.joints is not None)
        if kinds != 1 or (self.position is None) != (self.rotation is None):
            raise ValueError("give position and rotation, or matrix, or joints")
        if not parts and self.rotation_offset is not None:
            raise ValueError("rotation_offset goes with rotation")
        return self


class RldsGripper(_Model):
    """How open the gripper is."""

    columns: tuple[ColumnRef, ...] = Field(min_length=1, max_length=2, description="one, or two with `combine`")
    combine: Literal["difference", "sum", "mean"] | None = Field(
        None, description="of two columns, e.g. the difference of two finger joints"
    )
    kind: Literal["absolute", "relative"] = Field(
        description="absolute: each value says how open the gripper is. relative: `closed` and `open` are commands to "
        "close and to open, anything within a tenth of their distance from 0 says nothing; the last command holds, "
        "and before the first one the gripper is in the state which that one ends (open where there is none)"
    )
    closed: float = Field(description="the value for a closed gripper, or of the command to close")
    open: float = Field(description="the value for an open gripper, or of the command to open; beyond both is clipped")

    @model_validator(mode="after")
    def _consistent(self) -> RldsGripper:
        if self.closed == self.open:
            raise ValueError("closed and open must differ")
        if (len(self.columns) == 2) != (self.combine is not None):
            raise ValueError("two columns need combine, and only they have it")
        if self.kind == "relative" and self.closed * self.open >= 0:
            raise ValueError("the commands of a relative gripper have opposite signs")
        return self


class RldsInstruction(_Model):
    """What the demonstration does, in words."""

    keys: tuple[Key, ...] = Field(
        min_length=1,
        description="features of text, or of a row of code points that ends with 0; the first text that is not empty "
        "is the instruction, others are kept",
    )


class FeatureCamera(_Model):
    """A camera whose calibration the data set itself carries."""

    K: Key = Field(description="3x3 intrinsics, of pictures as stored")
    camera_from_world: Key | None = Field(None, description="4x4 or 3x4, world to camera")
    world_from_camera: Key | None = Field(None, description="4x4 or 3x4, camera to world")
    axes: AxesField = Field("opencv", description="of the camera's frame: opencv, or opengl (y up, looking along -z)")

    @model_validator(mode="after")
    def _one_pose(self) -> FeatureCamera:
        if (self.camera_from_world is None) == (self.world_from_camera is None):
            raise ValueError("give camera_from_world or world_from_camera")
        return self


class DroidFiles(_Model):
    """DROID's published side files (``--droid-calibration FOLDER``)."""

    path: Key = Field(description="text feature with the episode's path, which joins it to the side files")
    serials: dict[ViewName, str] = Field(description="view: its camera's role in camera_serials.json")
    either: dict[ViewName, tuple[ViewName, ...]] = Field(
        default_factory=dict,
        description="a view of the first of these cameras that the side files know in the episode; taken where no "
        "views are named",
    )


class RldsCalibration(_Model):
    """Where the cameras' calibration is."""

    kind: Literal["none", "features", "droid"] = Field(
        description="none: the data set has none; features: in the data set; droid: in DROID's side files"
    )
    cameras: dict[ViewName, FeatureCamera] = Field(default_factory=dict, description="features: each view's camera")
    droid: DroidFiles | None = Field(None, description="droid: how an episode is found in the side files")

    @model_validator(mode="after")
    def _consistent(self) -> RldsCalibration:
        if (self.kind == "features") != bool(self.cameras) or (self.kind == "droid") != (self.droid is not None):
            raise ValueError("kind features needs cameras, kind droid needs droid, and only they have them")
        return self


class Option(_Model):
    """What one side of a disagreement says."""

    value: Any = Field(description="the section as it would be, were this true")
    says: str = Field(description="in words")
    url: Annotated[str, StringConstraints(pattern=r"^https://\S+$")] = Field(description="who says so")


class Disagreement(_Model):
    """A section about which sources disagree; it is left out of the entry, and the user chooses."""

    why: str = Field(description="what is not agreed, and how to find out")
    options: dict[ViewName, Option] = Field(min_length=2, description="the sides, by name: --choose SECTION=NAME")


class RldsEntry(_Model):
    """A data set's entry."""

    names: tuple[str, ...] = Field(min_length=1, description="names of the data set; * and ? stand for any characters")
    requires: tuple[Key, ...] = Field(
        (), description="features that must exist; tells data sets of one name apart, e.g. two versions of Bridge"
    )
    robot: str = Field("", description="robot and gripper, in words")
    notes: str = Field("", description="what a user should know")
    views: dict[ViewName, RldsView] = Field(min_length=1, description="the pictures that become views, by view name")
    pose: RldsPose | None = Field(None, description="absent where sources disagree, of joints only, or without any")
    joints: JointColumns | None = Field(
        None, description="joint values, for --robot FILE --tip NAME, and beside poses for `calibrate guess --urdf`"
    )
    gripper: RldsGripper | None = Field(None, description="absent where sources disagree, or where none is recorded")
    instruction: RldsInstruction = Field(description="where the words are")
    fps: float | None = Field(None, gt=0, le=1000, description="steps per second; absent where unknown: --fps")
    tool_from_gripper: Transform | None = Field(
        None,
        description="the canonical gripper frame (origin between the fingertips, +z approach, fingers open along +-y) "
        "in the frame that poses are reported of; absent where nobody states it: --tool-from-gripper",
    )
    calibration: RldsCalibration = Field(description="where the cameras' calibration is")
    disagreements: dict[Literal["pose", "gripper", "tool_from_gripper"], Disagreement] = Field(
        default_factory=dict, description="sections about which sources disagree"
    )
    unstated: dict[Literal["pose", "gripper"], str] = Field(
        default_factory=dict,
        description="what the data set does not hold, in words; without a pose it is video only, without a gripper "
        "--openness says how open it is throughout",
    )
    sources: dict[Section, tuple[Source, ...]] = Field(
        default_factory=dict, description="for each section, where its facts were read"
    )

    @property
    def video_only(self) -> bool:
        """Whether the data set holds nothing that a pose of the hand could come from."""
        return "pose" in self.unstated

    @model_validator(mode="after")
    def _consistent(self) -> RldsEntry:
        if self.pose is None and self.joints is None and not {"pose"} & {*self.disagreements, *self.unstated}:
            raise ValueError("pose is required, unless sources disagree about it, or joints or unstated stand for it")
        if self.gripper is None and not self.video_only and not {"gripper"} & {*self.disagreements, *self.unstated}:
            raise ValueError("gripper is required, unless sources disagree about it, or it is unstated")
        for absent in self.unstated:
            if getattr(self, absent) is not None or absent in self.disagreements:
                raise ValueError(f"{absent} is given and unstated")
        if self.video_only and self.joints is not None:
            raise ValueError("joints are given, and the pose is unstated")
        for section, disagreement in self.disagreements.items():
            if getattr(self, section) is not None:
                raise ValueError(f"{section} is given although sources disagree about it")
            for name, option in disagreement.options.items():
                try:
                    self.chosen(section, option)
                except ValueError as error:
                    raise ValueError(f"disagreements.{section}.options.{name} is not a {section}: {error}") from None
        unknown = [v for v in (*self.calibration.cameras, *self._droid_views()) if v not in self.views]
        if unknown:
            raise ValueError(f"calibration names a view that does not exist: {unknown[0]}")
        return self

    def _droid_views(self) -> tuple[str, ...]:
        droid = self.calibration.droid
        return () if droid is None else (*droid.serials, *(v for views in droid.either.values() for v in views))

    def chosen(self, section: str, option: Option) -> RldsEntry:
        """The entry with one side of a disagreement taken as true."""
        values = self.model_dump(by_alias=False)
        values["disagreements"] = {k: v for k, v in values["disagreements"].items() if k != section}
        return RldsEntry.model_validate({**values, section: option.value})


class RldsCameraFile(BaseModel):
    """A user's camera file for an RLDS data set: for all of it, for a scene, for an episode.

    An episode's cameras are looked for in ``episodes`` first, then in ``scenes``, then in ``cameras``.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    cameras: dict[ViewName, CameraEntry] = Field(default_factory=dict, description="view: its camera, everywhere")
    scene_key: Key | None = Field(
        None, description="text feature that tells scenes apart, e.g. /episode_metadata/file_path"
    )
    scenes: dict[str, dict[ViewName, CameraEntry]] = Field(
        default_factory=dict,
        description="pattern (* and ?) of the scene's text: its cameras; the first that fits counts",
    )
    episodes: dict[str, dict[ViewName, CameraEntry]] = Field(
        default_factory=dict,
        description="pattern (* and ?) of the episode's id: its cameras; the first that fits counts",
    )
    axes: AxesField = Field("opencv", description="of all cameras that do not say otherwise: opencv or opengl")

    @model_validator(mode="after")
    def _consistent(self) -> RldsCameraFile:
        if not (self.cameras or self.scenes or self.episodes):
            raise ValueError("holds no cameras")
        if bool(self.scenes) != (self.scene_key is not None):
            raise ValueError("scenes and scene_key go together")
        return self
