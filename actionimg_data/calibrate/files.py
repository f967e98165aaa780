"""Camera files of refined cameras: written for every converter, and laid over an episode's own cameras."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..cameras.files import CalibratedCamera, UserCameras, scaled_to
from ..errors import InvalidCameraError
from ..model import Episode
from .guessed import CameraGuess
from .refine import CameraFit, Recorded


def camera_file(fits: Sequence[CameraFit]) -> dict[str, Any]:
    """The content of a camera file with the refined cameras.

    Only accepted fits are in it, each with its error figures. A camera that is shared by all episodes stands under
    ``cameras``; others stand under ``episodes``.
    """
    good = [f for f in fits if f.accepted]
    everyone = {episode for f in fits for episode in f.episodes}
    names = [f.view for f in fits]
    shared = {f.view: f for f in good if set(f.episodes) == everyone and names.count(f.view) == 1}
    cameras = {name: f.entry() for name, f in shared.items()}
    episodes: dict[str, dict[str, Any]] = {}
    for f in good:
        if f.view not in shared:
            for episode in f.episodes:
                episodes.setdefault(episode, {})[f.view] = f.entry()
    out: dict[str, Any] = {"axes": "opencv"}
    if cameras:
        out["cameras"] = cameras
    if episodes:
        out["episodes"] = episodes
    out["refinement"] = [f.to_json() for f in fits]
    return out


def write_camera_file(path: Path, fits: Sequence[CameraFit]) -> None:
    """Write `camera_file`; nothing but the text of the file decides its bytes."""
    path.write_text(json.dumps(camera_file(fits), indent=1) + "\n", encoding="utf-8")


def guess_file(
    guesses: Sequence[CameraGuess],
    recorded: Mapping[str, Recorded],
    lenses: Mapping[str, CalibratedCamera] | None = None,
) -> dict[str, Any]:
    """The content of a camera file with the cameras that were found, and with what was found out of all of them.

    Args:
        guesses: Of all views.
        recorded: The episodes, by id: a camera on the hand has a pose a picture.
        lenses: Of views whose distortion was taken out before: the file is for the pictures as they are.
    """
    good = [g for g in guesses if g.found]
    names = [g.view for g in guesses]
    cameras: dict[str, Any] = {}
    episodes: dict[str, dict[str, Any]] = {}
    for g in good:
        if g.gripper_from_camera is None and names.count(g.view) == 1:
            cameras[g.view] = g.entry() | _lens(g.view, lenses)
        else:
            for episode in g.episodes:
                trajectory = next(iter(recorded[episode].arms.values()))
                episodes.setdefault(episode, {})[g.view] = g.entry(trajectory) | _lens(g.view, lenses)
    out: dict[str, Any] = {"axes": "opencv"}
    if cameras:
        out["cameras"] = cameras
    if episodes:
        out["episodes"] = episodes
    out["guesses"] = [g.to_json() for g in guesses]
    return out


def _lens(view: str, lenses: Mapping[str, CalibratedCamera] | None) -> dict[str, Any]:
    """What an entry says of a lens that distorts."""
    lens = None if lenses is None else lenses.get(view)
    if lens is None or lens.distortion is None or lens.distortion.is_zero:
        return {}
    distortion = {"model": lens.distortion.model, "coefficients": list(lens.distortion.coefficients)}
    return {"K": lens.K.tolist(), "pixel_centre": lens.pixel_centre, "distortion": distortion}


def write_guesses(
    path: Path,
    guesses: Sequence[CameraGuess],
    recorded: Mapping[str, Recorded],
    lenses: Mapping[str, CalibratedCamera] | None = None,
) -> None:
    """Write `guess_file`."""
    path.write_text(json.dumps(guess_file(guesses, recorded, lenses), indent=1) + "\n", encoding="utf-8")


def with_cameras(episode: Episode, cameras: UserCameras) -> Episode:
    """The episode with the cameras that a file knows of it in place of its own.

    Raises:
        InvalidCameraError: A camera is for pictures of another shape, or its lens distorts: the file may be for other
            data.
    """
    views = {}
    for name, view in episode.views.items():
        found = cameras.camera(name, episode.id)
        if found is None:
            views[name] = view
            continue
        if found.distortion is not None and not found.distortion.is_zero:
            raise InvalidCameraError(
                "the lens distorts; pictures are taken as undistorted", where=cameras.path, field=name
            )
        fitted = scaled_to(found, view.frames.width, view.frames.height, f"{cameras.path}: {name}")
        camera = fitted.camera(f"{cameras.path}: {name}")
        views[name] = replace(view, camera=camera, origin=found.origin)
    return replace(episode, views=views)
