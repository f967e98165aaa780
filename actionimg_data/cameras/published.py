"""Cameras that data sets' own sources publish (``published.yaml``), with whether they are exact or an estimate."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from functools import cache
from importlib import resources
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from ..geometry import exact, rotations, transforms
from ..schemas.camera_file import CameraOrigin, Matrix3, Vec3, Vec4
from ..untrusted.text import load_yaml, parse
from .calibrated import CalibratedCamera

_FROM_OPENCV: dict[str, NDArray[np.float64]] = {
    "opencv": np.eye(3),
    "opengl": np.diag([1.0, -1.0, -1.0]),
    # SAPIEN's camera looks along +x, with y to the left and z up.
    "sapien": np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]]),
}


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class PublishedCamera(_Model):
    """One camera, as its source writes it."""

    K: Matrix3 | None = Field(None, description="3x3 pixels")
    fovy_deg: float | None = Field(None, gt=0, lt=180, description="vertical field of view, instead of K (MuJoCo)")
    width: int = Field(ge=1, description="of the pictures")
    height: int = Field(ge=1, description="of the pictures")
    position: Vec3 = Field(description="of the camera, metres, in the frame that poses are given in")
    quaternion_wxyz: Vec4 = Field(description="of the camera's frame, real part first")
    axes: Literal["opencv", "opengl", "sapien"] = Field(description="of the camera's frame")
    pixel_centre: float = Field(0.0, description="where K has the centre of the first pixel: 0 or 0.5")
    source: Annotated[str, StringConstraints(pattern=r"^https://\S+$")] = Field(description="where it is published")

    @model_validator(mode="after")
    def _one_lens(self) -> PublishedCamera:
        if (self.K is None) == (self.fovy_deg is None):
            raise ValueError("give K or fovy_deg")
        return self

    def calibrated(self, kind: Literal["published", "estimate"]) -> CalibratedCamera:
        """The camera in OpenCV axes, with where it comes from."""
        if self.K is not None:
            K = np.asarray(self.K, dtype=np.float64)
        else:
            f = self.height / 2 / np.tan(np.radians(self.fovy_deg or 0.0) / 2)
            K = np.array([[f, 0.0, self.width / 2], [0.0, f, self.height / 2], [0.0, 0.0, 1.0]])
        quaternion = np.asarray(self.quaternion_wxyz, dtype=np.float64)
        rotation = rotations.matrix_from_quaternion((quaternion / np.linalg.norm(quaternion))[[1, 2, 3, 0]])
        turned = exact.matmul(np.asarray(rotation), _FROM_OPENCV[self.axes])
        return CalibratedCamera(
            K=K,
            width=self.width,
            height=self.height,
            world_from_camera=np.asarray(transforms.make_transform(turned, np.asarray(self.position))),
            pixel_centre=self.pixel_centre,
            origin=CameraOrigin(kind=kind, source=self.source),
        )


class PublishedView(_Model):
    """Which camera a view has, in data sets whose name fits: one for all, or one for each scene."""

    datasets: tuple[str, ...] = Field(min_length=1, description="patterns of the data set's name")
    camera: str | None = Field(None, description="the camera of every episode")
    scene_key: str | None = Field(None, description="the feature that tells scenes apart")
    scenes: dict[str, str] = Field(default_factory=dict, description="pattern of the scene's text: its camera")

    @model_validator(mode="after")
    def _one_way(self) -> PublishedView:
        if (self.camera is None) != bool(self.scenes) or bool(self.scenes) != (self.scene_key is not None):
            raise ValueError("give camera, or scene_key and scenes")
        return self


class PublishedSet(_Model):
    """The cameras of the data sets of one registry entry."""

    kind: Literal["published", "estimate"] = Field(
        description="published: what the pictures were drawn with; estimate: fitted to them by somebody else"
    )
    cameras: dict[str, PublishedCamera] = Field(min_length=1)
    views: dict[str, tuple[PublishedView, ...]] = Field(min_length=1)

    @model_validator(mode="after")
    def _known(self) -> PublishedSet:
        for view in (v for rows in self.views.values() for v in rows):
            for name in (view.camera, *view.scenes.values()):
                if name is not None and name not in self.cameras:
                    raise ValueError(f"names a camera that does not exist: {name}")
        return self

    def rows(self, view: str, dataset: str) -> tuple[PublishedView, ...]:
        """What is published of a view in a data set of this name."""
        rows = self.views.get(view, ())
        return tuple(r for r in rows if any(fnmatch.fnmatchcase(dataset.lower(), p) for p in r.datasets))

    def camera(self, view: str, dataset: str, scene: Callable[[str], str]) -> CalibratedCamera | None:
        """A view's camera in an episode, or None where none is published.

        Args:
            view: Of the episode.
            dataset: Name of the data set.
            scene: Gives the text of the feature that tells scenes apart.
        """
        for row in self.rows(view, dataset):
            name = row.camera
            if row.scene_key is not None:
                text = scene(row.scene_key)
                name = next((c for p, c in row.scenes.items() if fnmatch.fnmatchcase(text, p)), None)
            if name is not None:
                return self.cameras[name].calibrated(self.kind)
        return None


@cache
def published() -> Mapping[str, PublishedSet]:
    """The cameras that are part of the package, by name of the RLDS registry's entry."""
    with resources.as_file(resources.files("actionimg_data.cameras") / "published.yaml") as path:
        return {name: parse(PublishedSet, value, path) for name, value in load_yaml(path).items()}
