"""LIBERO's HDF5 files, as its ``scripts/create_dataset.py`` writes them."""

from __future__ import annotations

from typing import ClassVar, Literal

import h5py
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ..errors import WrongFormatError
from ..untrusted.text import parse_json
from .base import ConverterOptions
from .recording import streams
from .recording.demos import Demo
from .recording.rows import plain_view
from .robosuite import ArmNames, RobosuiteConverter, RobosuiteOptions

FloatArray = NDArray[np.float64]


class LiberoOptions(RobosuiteOptions):
    """Options of the LIBERO converter."""

    flip: Literal["auto", "none", "vertical"] = Field(
        "auto",
        description="how pictures are stored; auto: upside down, as LIBERO's own files, unless they say "
        "macros_image_convention opencv",
    )


class LiberoConverter(RobosuiteConverter):
    """LIBERO: HDF5 files ``*_demo.hdf5`` with groups ``data/demo_N``.

    Read are ``obs/ee_pos``, ``obs/ee_ori`` (axis-angle of robosuite's ``eef_quat``), ``obs/gripper_states`` and every
    ``obs/NAME_rgb``: ``agentview_rgb``, and ``eye_in_hand_rgb`` of the camera ``robot0_eye_in_hand``.

    * **Flip.** Pictures are stored upside down, as OpenGL draws them, and are turned upright.
    * **Frame offset.** Observation j was made after action j; row j of ``states`` is before it. Poses and pictures are
      both of the observation, so that they belong together as they are; only the simulator's state of picture j is
      row j + 1.
    * **Cameras.** The attribute ``model_file`` through MuJoCo (``pip install '.[joints]'``); the camera
      on the hand is placed in it, so that the missing last state is not needed.
    * **Hand and gripper.** As robomimic's Panda; another robot needs ``--tool-from-gripper`` and ``--gripper``.
    * **Rate.** ``control_freq`` of ``env_args`` (20 Hz), else ``--fps``.
    * **Instruction.** ``language_instruction`` of the attribute ``problem_info``, else ``--instruction``.

    Depth of LIBERO's files is the raw depth buffer, not metres, and is left out.
    """

    name: ClassVar[str] = "libero"
    summary: ClassVar[str] = "LIBERO: HDF5, cameras through MuJoCo, pictures turned upright"
    examples: ClassVar[tuple[str, ...]] = (
        "actionimg convert libero libero_90/ shards",
        "actionimg convert libero libero_90/ shards --views agentview",
    )
    Options: ClassVar[type[ConverterOptions]] = LiberoOptions
    state_shift: ClassVar[int] = 1
    flip: ClassVar[str] = "vertical"

    @classmethod
    def _recognises(cls, file: h5py.File, demo: h5py.Group) -> str | None:
        obs = demo.get("obs")
        own = isinstance(obs, h5py.Group) and {"ee_pos", "ee_ori", "gripper_states"} <= set(obs)
        return "LIBERO" if own else None

    def _flip(self, demo: Demo) -> str:
        if self.options.flip != "auto":
            return str(self.options.flip)
        convention = demo.attributes.get("macros_image_convention", "opengl").lower()
        if convention not in ("opengl", "opencv"):
            raise WrongFormatError(
                "is not known",
                where=demo.where,
                field="macros_image_convention",
                expected="opengl | opencv, or --flip",
                found=convention,
            )
        return "vertical" if convention == "opengl" else "none"

    def _arms(self, demo: Demo) -> dict[str, ArmNames]:
        return {"": ArmNames("ee_pos", "ee_ori", False, "gripper_states")}

    def _rotation(self, values: FloatArray, where: str) -> FloatArray:
        if values.shape[1] != 3:
            raise WrongFormatError("is not axis-angle", where=where, expected="(T, 3)", found=str(values.shape))
        return streams.quaternions(values, "rotation_vector", None, "rad", where)

    def _pictures(self, demo: Demo) -> dict[str, tuple[str, str]]:
        found = {}
        for key in demo.obs:
            if key.endswith("_rgb"):
                name = key.removesuffix("_rgb")
                found[plain_view(name)] = (key, f"robot0_{name}" if name == "eye_in_hand" else name)
        return found

    def _texts(self, demo: Demo) -> list[str]:
        text = demo.attributes.get("problem_info")
        info = {} if text is None else parse_json(text, demo.where, "problem_info")
        found = info.get("language_instruction") if isinstance(info, dict) else None
        # Some files hold it letter by letter, some in quotation marks.
        found = "".join(map(str, found)) if isinstance(found, list) else found
        return [found.strip().strip('"')] if isinstance(found, str) else []
