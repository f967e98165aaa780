"""``actionimg calibrate guess``: cameras for sources that have none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ActionImgError, InvalidSpecError, MissingViewError, OutputError, WrongFormatError
from ._calibration import gripper_shape, make_folder, source_episodes, source_options, write_picture
from ._common import EXIT_FAILED, EXIT_VERIFICATION_FAILED, emit_error, emit_json, output, progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..calibrate import CameraGuess, Recorded
    from ..cameras.files import CalibratedCamera
    from ..model import JointTrack, View

POOLS = ("none", "all", "auto")


@click.command("guess")
@source_options
@click.option("--out", "-o", metavar="FILE", help="Camera file to write: only the cameras that were found are in it.")
@click.option("--pictures", metavar="DIR", help="Write a picture of each camera: as the motion gave it, and found.")
@click.option(
    "--pool",
    type=click.Choice(POOLS),
    is_flag=False,
    flag_value="all",
    default="none",
    show_default=True,
    help="Episodes that share a camera: none, all, or auto: those whose backgrounds are the same.",
)
@click.option("--intrinsics", metavar="FILE", help="Camera file of any kind with the focal lengths, by view.")
@click.option("--fov", type=click.FloatRange(5, 150), metavar="DEG", help="Horizontal field of view of all views.")
@click.option(
    "--mark",
    "marks",
    multiple=True,
    metavar="FRAME:X,Y",
    help="Where the point between the fingertips is seen (EPISODE@FRAME:X,Y for another than the first); repeat.",
)
@click.option(
    "--urdf",
    metavar="FILE",
    help="Robot whose joints SOURCE has: the whole arm is used; of links with meshes, outlines too.",
)
@click.option(
    "--joints",
    "joint_names",
    metavar="NAME,NAME",
    help="With --urdf: its joints in the order of SOURCE's values, where neither says it.",
)
@click.option("--sheet", metavar="DIR", help="Only write numbered frames with a grid to read marks from.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the cameras that are tried.")
def guess(
    source: str,
    out: str | None,
    pictures: str | None,
    pool: str,
    intrinsics: str | None,
    fov: float | None,
    marks: tuple[str, ...],
    urdf: str | None,
    joint_names: str | None,
    sheet: str | None,
    seed: int,
    as_json: bool,
    **given: Any,
) -> None:
    """Find cameras that nobody calibrated, from the gripper's motion.

    SOURCE has poses and pictures; whatever cameras it has are not looked at. For each view: `found`, with the pixels,
    millimetres and degrees that it may be off in 90 of 100 cases, or `cannot tell` with the reason. Give the focal
    length where it is known (--intrinsics, --fov); otherwise it is estimated, with the principal point in the middle.
    Look at the cameras before they are used: --pictures, `actionimg render --cameras`. Ends with 3 where none was
    found. With --urdf, points of every link that moves count, which finds more cameras in small pictures; where its
    meshes are there, the outlines of its links tell the camera more exactly.

    \b
    actionimg calibrate guess recordings --mapping map.yaml --pool auto --out cameras.json --pictures look
    actionimg calibrate guess ~/rlbench_demos --urdf panda.urdf --fov 40 --out cameras.json
    actionimg calibrate guess recordings --mapping map.yaml --views front --sheet marks
    actionimg calibrate guess recordings --mapping map.yaml --views front --mark 40:212,118 --out cameras.json
    """
    from ..calibrate import Mark, Recorded, guess_camera
    from ..calibrate.files import write_guesses

    if intrinsics is not None and fov is not None:
        raise InvalidSpecError("the focal length is given twice", field="--fov", expected="--intrinsics or --fov")
    if out is None and sheet is None:
        raise click.UsageError("Give --out FILE, or --sheet DIR to read marks from.")
    if joint_names is not None and urdf is None:
        raise InvalidSpecError("needs the robot file", field="--joints", expected="--urdf FILE")
    lenses = _lenses(intrinsics)
    marked = [Mark.parse(text) for text in marks]
    shape, folder, sheets = gripper_shape(given), make_folder(pictures), make_folder(sheet)
    recorded: dict[str, list[Recorded]] = {}
    joints: dict[str, JointTrack] = {}
    written: list[str] = []
    failed = 0
    for episode in source_episodes(source, given, cameras_needed=False):
        if isinstance(episode, ActionImgError):
            emit_error(episode)
            failed += 1
            continue
        if episode.joints is not None:
            joints[episode.id] = episode.joints
        for name, view in episode.views.items():
            if sheets is not None:
                written += _sheet(sheets, episode.id, name, view)
            recorded.setdefault(name, []).append(Recorded(episode.id, _straight(view, lenses, name), episode.grippers))
    if sheets is not None:
        _finish(as_json, [], written, failed, not written)
        return
    guesses: list[CameraGuess] = []
    if urdf is not None:
        recorded = _with_arm(recorded, urdf, joint_names, joints, pool)
    groups = [(name, group) for name, all_of in recorded.items() for group in _pooled(all_of, pool)]
    with progress("guess", len(groups), "cameras") as advance:
        for name, group in groups:
            frames = group[0].view.frames
            found = guess_camera(
                name,
                group,
                shape,
                K=_focal(lenses, name, fov, frames.width, frames.height),
                marks=[m for m in marked if not m.episode or m.episode in {r.episode for r in group}],
                keep=folder is not None,
                seed=seed,
            )
            if folder is not None:
                written += _picture(folder, found)
            guesses.append(found)
            advance()
    if out is not None and any(g.found for g in guesses):
        try:
            episodes = {r.episode: r for all_of in recorded.values() for r in all_of}
            write_guesses(Path(out), guesses, episodes, _scaled(lenses, recorded))
        except OSError as error:
            raise OutputError("cannot write", where=out, found=error.strerror) from None
        written.insert(0, out)
    _finish(as_json, guesses, written, failed, not any(g.found for g in guesses))


def _finish(as_json: bool, guesses: Sequence[CameraGuess], files: list[str], failed: int, nothing: bool) -> None:
    if as_json:
        emit_json({"cameras": [g.to_json() for g in guesses], "files": files, "unreadable": failed})
    else:
        if guesses:
            _print(guesses)
        for path in files:
            click.echo(path)
        if guesses and nothing:
            click.echo("no camera was found, so no camera file is written", err=True)
    if failed or nothing:
        click.get_current_context().exit(EXIT_FAILED if failed else EXIT_VERIFICATION_FAILED)


def _lenses(path: str | None) -> dict[str, CalibratedCamera]:
    from ..cameras.files import load_cameras

    return {} if path is None else load_cameras(Path(path))


def _lens(lenses: dict[str, CalibratedCamera], name: str) -> CalibratedCamera | None:
    """The lens of a view: its own, or that of a file which names no view."""
    if not lenses:
        return None
    if name not in lenses and len(lenses) > 1:
        raise MissingViewError("has no such camera", field="--intrinsics", expected=" ".join(lenses), found=name)
    return lenses.get(name) or next(iter(lenses.values()))


def _scaled(
    lenses: dict[str, CalibratedCamera], recorded: Mapping[str, Sequence[Recorded]]
) -> dict[str, CalibratedCamera]:
    """The lens of each view, for pictures of its size."""
    from ..cameras.files import scaled_to

    found = {}
    for name, episodes in recorded.items():
        lens, frames = _lens(lenses, name), episodes[0].view.frames
        if lens is not None:
            found[name] = scaled_to(lens, frames.width, frames.height, name)
    return found


def _straight(view: View, lenses: dict[str, CalibratedCamera], name: str) -> View:
    """The view without its camera, and with the distortion of its lens taken out."""
    from ..cameras.files import scaled_to
    from ..cameras.undistort import UndistortedFrames, undistorted_K

    lens = _lens(lenses, name)
    if lens is None or lens.distortion is None or lens.distortion.is_zero:
        return replace(view, camera=None)
    width, height = view.frames.width, view.frames.height
    lens = scaled_to(lens, width, height, name)
    K = undistorted_K(lens.K, lens.distortion, width, height, name)  # type: ignore[arg-type]
    frames = UndistortedFrames(view.frames, lens.K, lens.distortion, K)  # type: ignore[arg-type]
    return replace(view, camera=None, frames=frames)


def _focal(
    lenses: dict[str, CalibratedCamera], name: str, fov: float | None, width: int, height: int
) -> NDArray[np.float64] | None:
    """The camera matrix that is given for a view's (undistorted) pictures; None where none is."""
    import numpy as np

    from ..cameras.files import scaled_to
    from ..cameras.undistort import undistorted_K

    if fov is not None:
        focal = width / 2 / np.tan(np.radians(fov) / 2)
        return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
    lens = _lens(lenses, name)
    if lens is None:
        return None
    lens = scaled_to(lens, width, height, name)
    K = lens.K.copy()
    if lens.distortion is not None and not lens.distortion.is_zero:
        K = np.array(undistorted_K(lens.K, lens.distortion, width, height, name))
    K[:2, 2] += 0.5 - lens.pixel_centre
    return K


def _pooled(recorded: Sequence[Recorded], pool: str) -> list[list[Recorded]]:
    from ..calibrate.pool import same_camera

    if pool == "all":
        return [list(recorded)]
    return [[r] for r in recorded] if pool == "none" else same_camera(recorded)


def _with_arm(
    recorded: Mapping[str, Sequence[Recorded]], urdf: str, names: str | None, joints: dict[str, JointTrack], pool: str
) -> dict[str, list[Recorded]]:
    """The episodes with the whole arm; those that are pooled are of one robot in one place."""
    from ..calibrate import with_arm
    from ..converters.kit.robot import Robot

    if not joints:
        raise WrongFormatError(
            "has no joint values, by which the robot file could be used",
            field="--urdf",
            expected="a source with joints; of raw logs pose.arm_joints in the mapping",
        )
    if names is not None:
        joints = {episode: track.renamed(names.split(",")) for episode, track in joints.items()}
    first = next(iter(joints.values()))
    robot = Robot.load(Path(urdf), first.names, first.values.shape[1])
    other = next(
        (e for e, t in joints.items() if (t.names, t.values.shape[1:]) != (first.names, first.values.shape[1:])), None
    )
    if other is not None:
        raise WrongFormatError(
            "has other joints than the first episode",
            where=other,
            field="joints",
            expected=" ".join(robot.joints),
            found=" ".join(joints[other].names) or str(joints[other].values.shape[1]),
        )
    placed: dict[str, Recorded] = {}
    each = {r.episode: r for all_of in recorded.values() for r in all_of}
    for group in [list(each.values())] if pool == "all" else [[r] for r in each.values()]:
        placed.update((r.episode, r) for r in with_arm(group, robot, joints))
    return {view: [replace(placed[r.episode], view=r.view) for r in all_of] for view, all_of in recorded.items()}


def _sheet(folder: Path, episode: str, view_name: str, view: View) -> list[str]:
    from ..calibrate import pictures

    return write_picture(folder, episode, view_name, pictures.mark_sheet(view.frames))


def _picture(folder: Path, found: CameraGuess) -> list[str]:
    from ..calibrate import pictures

    if not found.evidence or found.start is None or found.world_from_camera is None:
        return []
    evidence = max(found.evidence, key=lambda e: len(e.sights))
    return write_picture(
        folder, found.episodes[0], found.view, pictures.sheet(evidence, found.start, found.world_from_camera)
    )


def _print(guesses: Sequence[CameraGuess]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("view", "episodes", "result", "overlay px", "focal px", "pose mm", "pose deg", "why"):
        table.add_column(name, no_wrap=name not in ("episodes", "why"))

    def bound(value: float | None, text: str) -> str:
        return "" if value is None else text.format(value)

    for g in guesses:
        focal = bound(g.focal_px, "{:.0f}") + ("" if g.focal_known else bound(g.focal_interval_px, " ± {:.0f}"))
        table.add_row(
            g.view,
            g.episodes[0] if len(g.episodes) == 1 else str(len(g.episodes)),
            "[green]found[/]" if g.found else "[yellow]cannot tell[/]",
            bound(g.overlay_px, "≤ {:.1f}"),
            focal,
            bound(g.position_mm, "≤ {:.0f}"),
            bound(g.rotation_deg, "≤ {:.1f}"),
            g.reason,
        )
    output().print(table)
    output().print("overlay: how far the drawn gripper may be off; pose: how far the camera (both 90 %)")
    for text in dict.fromkeys(g.arm for g in guesses if g.arm):
        output().print(f"arm: {text}", soft_wrap=True)
    for g in guesses:
        if g.rivals:
            others = "; ".join(f"fit {edges:.2f}, {away:.0f} px away" for edges, away in g.rivals)
            output().print(f"{g.view}: other candidates at the end: {others}", soft_wrap=True)
        if g.found and g.gripper:
            text = f"{g.view}: your gripper seems to differ from the model: {'; '.join(g.gripper)}"
            output().print(text, soft_wrap=True)
