"""Which gripper is looked for: the parametric one, a mesh, or a link of a URDF."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import ArrayLike

from ..errors import InvalidSpecError
from ..raster.gripper import GripperModel, gripper_model, load_mesh
from .outline import Hand, Size

MODEL_ERROR_M: Final = 0.001
"""How far a model's outline is taken to be off as a whole, one standard deviation: docs/calibration.md."""

SIZE_DEVIATION_M: Final = {
    "max_width": 0.01,
    "finger_length": 0.01,
    "finger_width": 0.004,
    "flange_radius": 0.01,
    "hand_size.x": 0.012,
    "hand_size.y": 0.04,
    "hand_size.z": 0.025,
}
"""Standard deviations, in metres, of parallel-jaw grippers' sizes from the parametric one's: about the spread over the
data sheets of the Franka Hand, the Robotiq 2F-85, the WSG 50, the xArm gripper and the hands of ViperX and Sawyer. The
reach of the fingertips is a shift of the mounting and stands in `Priors.tool_m`."""

_STEP_M: Final = 1e-4
_SIZES: Final = ("max_width", "finger_length", "finger_width", "flange_radius", "fingertip_reach")


@dataclass(frozen=True, eq=False)
class GripperShape:
    """The gripper to look for.

    Args:
        hand: The model, ready to be outlined.
        name: What the results call it.
        error_m: Standard deviation in metres of the model's outline against the real gripper's, as a whole.
    """

    hand: Hand
    name: str
    error_m: float = MODEL_ERROR_M

    def __post_init__(self) -> None:
        if not (np.isfinite(self.error_m) and 0 <= self.error_m <= 1):
            raise InvalidSpecError("is not a length in metres", field="error_m", expected="0 … 1", found=self.error_m)

    @classmethod
    def parametric(cls, error_m: float = MODEL_ERROR_M, **sizes: Any) -> GripperShape:
        """The parallel-jaw gripper of `gripper_model` with the given sizes in metres.

        Raises:
            InvalidSpecError: A size that there is not, or that cannot be.
        """
        known = (*_SIZES, "hand_size")
        unknown = sorted(set(sizes) - set(known))
        if unknown:
            raise InvalidSpecError("no such size", field="gripper", expected=" ".join(known), found=" ".join(unknown))
        told = ", ".join(f"{k}={v}" for k, v in sorted(sizes.items()))
        return cls(
            Hand(gripper_model(**sizes), _free_sizes(sizes)), "parametric" + (f" ({told})" if told else ""), error_m
        )

    @classmethod
    def from_model(cls, model: GripperModel, name: str, error_m: float = MODEL_ERROR_M) -> GripperShape:
        """Any `GripperModel`."""
        return cls(Hand(model), name, error_m)

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        link: str | None = None,
        *,
        gripper_from_mesh: ArrayLike | None = None,
        scale: float = 1.0,
        error_m: float = MODEL_ERROR_M,
    ) -> GripperShape:
        """A mesh file, or a link of a URDF; it does not open and close.

        Raises:
            ActionImgError: See `actionimg_data.mesh.load_mesh`.
        """
        mesh = load_mesh(path, link, gripper_from_mesh=gripper_from_mesh, scale=scale)
        kind = "URDF" if Path(path).suffix.lower() == ".urdf" else "mesh"
        name = f"{kind} {Path(path).name}" + (f" link {link}" if link else "")
        return cls(Hand(GripperModel.from_trimesh(mesh)), name, error_m)

    @classmethod
    def from_words(cls, words: Sequence[str]) -> GripperShape:
        """A gripper from ``NAME=VALUE`` texts: sizes of the parametric one in metres, or ``mesh=FILE``, ``link=NAME``.

        ``model_error=MM`` says how far the model may be off as a whole.

        Raises:
            ActionImgError: Not of that form, or the mesh cannot be read.
        """
        named = {name: value for name, equals, value in (w.partition("=") for w in words) if equals}
        sizes = [w for w in words if w.partition("=")[0] not in ("mesh", "link", "model_error")]
        try:
            error_m = float(named.get("model_error", "1")) / 1e3
        except ValueError:
            raise InvalidSpecError(
                "is not a number", field="model_error", expected="millimetres", found=named["model_error"]
            ) from None
        if "mesh" not in named:
            if "link" in named:
                raise InvalidSpecError("only a URDF has links", field="link", found=named["link"])
            return cls.parametric(error_m, **parse_sizes(sizes))
        if sizes:
            raise InvalidSpecError("the parametric gripper has sizes, a mesh has none", found=" ".join(sizes))
        return cls.from_file(named["mesh"], named.get("link"), error_m=error_m)


def _free_sizes(given: Mapping[str, Any]) -> list[Size]:
    """How the parametric gripper changes with each of its sizes."""
    defaults = {n: p.default for n, p in inspect.signature(gripper_model).parameters.items()}
    sizes = {**defaults, **given}
    base = gripper_model(**sizes)
    out = []
    for name, deviation in SIZE_DEVIATION_M.items():
        stem, _, axis = name.partition(".")
        if axis:
            changed = list(sizes[stem])
            changed["xyz".index(axis)] += _STEP_M
            other = gripper_model(**{**sizes, stem: tuple(changed)})
        else:
            other = gripper_model(**{**sizes, stem: sizes[stem] + _STEP_M})
        vertices, opening = other.vertices - base.vertices, other.opening - base.opening
        out.append(Size(name, deviation, vertices / _STEP_M, opening / _STEP_M))
    return out


def parse_sizes(texts: Sequence[str]) -> dict[str, Any]:
    """Sizes of the parametric gripper from ``NAME=METRES`` texts (``hand_size=X,Y,Z``).

    Raises:
        InvalidSpecError: Not of that form.
    """
    sizes: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        key = name.strip().replace("-", "_")
        try:
            numbers = tuple(float(v) for v in value.split(","))
        except ValueError:
            numbers = ()
        wanted = 3 if key == "hand_size" else 1
        if not equals or len(numbers) != wanted:
            raise InvalidSpecError(
                "is not a size of the gripper", field="gripper", expected="NAME=METRES, hand_size=X,Y,Z", found=text
            )
        sizes[key] = numbers if wanted == 3 else numbers[0]
    return sizes
