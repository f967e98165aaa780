"""``actionimg calibrate``: are the cameras true, how to mend them, and how far the clocks are apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ActionImgError, InvalidSpecError, OutputError
from ._calibration import gripper_shape, make_folder, source_episodes, source_options, write_picture
from ._common import emit_error, emit_json, output, progress
from .guess import guess

if TYPE_CHECKING:
    from ..calibrate import CameraCheck, CameraFit, Polarity, ToolCheck
    from ..model import Episode

_MARKS = {"ok": "green", "off": "red", "cannot tell": "yellow"}


@click.group("calibrate")
def command() -> None:
    """Check cameras against the pictures, refine them, find the offset between clocks, or cameras from nothing.

    Everything is judged by the gripper: its model, drawn where pose and camera put it, is held against the pictures'
    edges. Cameras that move are answered "cannot tell".

    \b
    actionimg calibrate check ~/rlbench_demos --out look
    actionimg calibrate refine ~/rlbench_demos --out cameras.json
    actionimg calibrate time ~/rlbench_demos
    actionimg calibrate guess recordings --mapping map.yaml --out cameras.json
    """


command.add_command(guess)


@command.command("check")
@source_options
@click.option("--out", "-o", metavar="DIR", help="Write a picture of each camera: model over frames, before and after.")
@click.option(
    "--frames", type=click.IntRange(6, 200), default=16, show_default=True, help="Frames to look at a camera."
)
@click.option("--tool/--no-tool", default=True, help="Where something is off, say whether tool or camera.")
def check(source: str, out: str | None, frames: int, tool: bool, as_json: bool, **given: Any) -> None:
    """Is the gripper seen where the recorded camera and pose put it?

    SOURCE is demonstrations in any format that `actionimg converters` lists, or a data set of ours. For each episode
    and camera: `ok`, `off` with the displacement in pixels, or `cannot tell` with the reason. Where a camera is off it
    is said whether `tool_from_gripper` explains it. Cameras of two views that were exchanged, and a gripper that looks
    closed where it is said to be open, are named. Ends with 3 where anything is wrong.

    \b
    actionimg calibrate check ~/rlbench_demos --out look
    actionimg calibrate check recordings --mapping map.yaml --gripper fingertip_reach=0.0135
    actionimg calibrate check ~/rlbench_demos --cameras cameras.json --views front,overhead
    """
    from ..calibrate import check_episode, polarity, swapped_cameras, tool_or_camera

    shape, folder = gripper_shape(given), make_folder(out)
    checks: list[CameraCheck] = []
    tools: dict[str, ToolCheck] = {}
    swapped: dict[str, list[tuple[str, str]]] = {}
    polarities: dict[str, Polarity] = {}
    pictures: list[str] = []
    failed = 0
    with progress("check", None, "episodes") as advance:
        for episode in source_episodes(source, given):
            if isinstance(episode, ActionImgError):
                emit_error(episode)
                failed += 1
                continue
            found = check_episode(episode, shape, frames=frames, keep=True)
            polarities[episode.id] = polarity(found, _poses(episode))
            exchanged = swapped_cameras(episode, shape, found, frames=frames)
            if exchanged:
                swapped[episode.id] = exchanged
            if tool and any(c.verdict == "off" for c in found.values()):
                tools[episode.id] = tool_or_camera(episode, shape, frames=frames, checks=found)
            for c in found.values():
                if folder is not None and c.evidence is not None:
                    pictures += _check_picture(folder, episode, c)
                checks.append(_light(c))
            advance()
    if as_json:
        emit_json(
            {
                "checks": [c.to_json() for c in checks],
                "tool": {name: t.to_json() for name, t in tools.items()},
                "swapped": {name: [list(pair) for pair in pairs] for name, pairs in swapped.items()},
                "polarity": {name: p.to_json() for name, p in polarities.items()},
                "pictures": pictures,
                "unreadable": failed,
            }
        )
    else:
        _print_checks(checks, tools)
        _print_mixups(swapped, polarities)
        for path in pictures:
            click.echo(path)
    inverted = any(p.verdict == "inverted" for p in polarities.values())
    _exit(failed, bool(swapped) or inverted or any(c.verdict == "off" for c in checks))


def _poses(episode: Episode) -> dict[str, Any]:
    """``world_from_camera`` of the cameras that stand still."""
    from ..calibrate.evidence import static_pose

    poses = {n: static_pose(v.camera) for n, v in episode.views.items() if v.camera is not None}
    return {name: pose for name, pose in poses.items() if pose is not None}


def _print_mixups(swapped: dict[str, list[tuple[str, str]]], polarities: dict[str, Polarity]) -> None:
    for name, pairs in swapped.items():
        for a, b in pairs:
            why = "each shows the gripper where the other's puts it"
            output().print(f"[red]{name}: the cameras of {a} and {b} are exchanged[/]: {why}", soft_wrap=True)
    for name, found in polarities.items():
        if found.verdict == "inverted":
            output().print(f"[red]{name}: open and closed are exchanged[/]: {found.reason}", soft_wrap=True)


@command.command("refine")
@source_options
@click.option("--out", "-o", required=True, metavar="FILE", help="Camera file to write.")
@click.option("--pictures", metavar="DIR", help="Write a picture of each camera, before and after.")
@click.option("--pool/--no-pool", default=False, help="One camera for all episodes whose recorded camera is the same.")
@click.option(
    "--mask-ids", metavar="ID,ID", help="Ids of the gripper in the source's masks: fit those instead of edges."
)
@click.option("--prior", nargs=2, type=float, default=(30.0, 3.0), show_default=True, metavar="MM DEG")
@click.option(
    "--frames", type=click.IntRange(9, 200), default=24, show_default=True, help="Frames of an episode to use."
)
def refine(
    source: str,
    out: str,
    pictures: str | None,
    pool: bool,
    mask_ids: str | None,
    prior: tuple[float, float],
    frames: int,
    as_json: bool,
    **given: Any,
) -> None:
    """Mend camera poses, and say how well they are known.

    Writes a camera file with the refined cameras and their figures: how many pixels the drawn gripper may be off, and,
    which is another matter, how many millimetres and degrees the camera's pose. A camera that cannot be made better is
    refused with the reason, and is not in the file. --prior says how far recorded poses may be off (one standard
    deviation an axis).

    \b
    actionimg calibrate refine ~/rlbench_demos --out cameras.json --pictures look
    actionimg calibrate refine recordings --mapping map.yaml --pool --out cameras.json
    actionimg calibrate check  recordings --mapping map.yaml --cameras cameras.json
    """
    import numpy as np

    from ..calibrate import Priors, Recorded, refine_camera
    from ..calibrate.files import write_camera_file

    if min(prior) <= 0:
        raise InvalidSpecError("must be positive", field="--prior", found=f"{prior[0]:g} {prior[1]:g}")
    priors = Priors(camera_m=prior[0] / 1e3, camera_rad=float(np.radians(prior[1])))
    ids = _ids(mask_ids)
    shape, folder = gripper_shape(given), make_folder(pictures)
    fits: list[CameraFit] = []
    written: list[str] = []
    failed = 0
    shared: dict[tuple[str, bytes], list[Recorded]] = {}
    with progress("refine", None, "cameras") as advance:

        def fit(view: str, recorded: Sequence[Recorded]) -> None:
            found = refine_camera(view, recorded, shape, priors=priors, frames=frames, keep=folder is not None)
            if folder is not None:
                written.extend(_fit_picture(folder, found))
            fits.append(_lighter(found))
            advance()

        for episode in source_episodes(source, given):
            if isinstance(episode, ActionImgError):
                emit_error(episode)
                failed += 1
                continue
            for name, view in episode.views.items():
                if view.camera is None:
                    continue
                one = Recorded(episode.id, view, episode.grippers, ids)
                if pool:
                    key = np.round(view.camera.world_from_camera, 6).tobytes() + np.round(view.camera.K, 3).tobytes()
                    shared.setdefault((name, key), []).append(one)
                else:
                    fit(name, [one])
        for (name, _), recorded in shared.items():
            fit(name, recorded)
    if not any(f.accepted for f in fits):
        click.echo("no camera was refined, so no camera file is written", err=True)
    else:
        try:
            write_camera_file(Path(out), fits)
        except OSError as error:
            raise OutputError("cannot write", where=out, found=error.strerror) from None
        written.insert(0, out)
    if as_json:
        emit_json({"cameras": [f.to_json() for f in fits], "files": written, "unreadable": failed})
    else:
        _print_fits(fits)
        for path in written:
            click.echo(path)
    _exit(failed, not any(f.accepted for f in fits))


@command.command("time")
@source_options
@click.option("--max-offset", type=click.FloatRange(0.02, 10), default=0.5, show_default=True, help="Seconds searched.")
@click.option("--write", "write_to", metavar="FILE", help="Write the mapping with an offset for each camera to FILE.")
def time(source: str, max_offset: float, write_to: str | None, as_json: bool, **given: Any) -> None:
    """How far is the clock of the poses from that of the pictures?

    What is seen to move near the gripper is compared with what its poses predict at other times; all fixed cameras of
    all episodes are pooled, and each stream's own answer is shown. The answer is the number of seconds to add to the
    poses' stamps (`convert -O time_offset=SECONDS` for raw logs), or `cannot tell` with the reason.

    \b
    actionimg calibrate time recordings --mapping map.yaml
    actionimg calibrate time recordings --mapping map.yaml --write synchronised.yaml
    actionimg calibrate time ~/rlbench_demos --episodes 5 --json
    """
    from ..calibrate import time_offset

    if write_to is not None:
        _write_offsets(source, max_offset, Path(write_to), as_json, given)
        return

    episodes, failed = [], 0
    for episode in source_episodes(source, given):
        if isinstance(episode, ActionImgError):
            emit_error(episode)
            failed += 1
        else:
            episodes.append(episode)
    found = time_offset(episodes, gripper_shape(given), max_offset_s=max_offset)
    if as_json:
        emit_json({**found.to_json(), "unreadable": failed})
    elif found.offset_s is None or found.interval_s is None:
        click.echo(f"cannot tell: {found.reason}")
    else:
        click.echo(f"{1e3 * found.offset_s:+.1f} ± {1e3 * found.interval_s:.1f} ms (90 %), {found.reason}")
    if not as_json:
        for name, value in found.streams.items():
            click.echo(f"  {name}: {1e3 * value:+.1f} ms")
    _exit(failed, False)


def _write_offsets(source: str, max_offset: float, out: Path, as_json: bool, given: dict[str, Any]) -> None:
    """``calibrate time --write``: each camera's clock by itself, into a mapping."""
    from ._inputs import make_converter
    from ._offsets import stream_offsets, write_offsets

    if given.get("mapping") is None:
        raise InvalidSpecError("needs the mapping that offsets are written into", field="--write", expected="--mapping")
    options = (*given["options"], f"mapping={given['mapping']}")
    converter = make_converter(source, given["format_name"], options)
    found = stream_offsets(converter, source, gripper_shape(given), max_offset, given["limit"])
    known = write_offsets(Path(given["mapping"]), out, found)
    if as_json:
        emit_json({"views": {name: offset.to_json() for name, offset in found.items()}, "file": str(out)})
    else:
        for name, offset in found.items():
            if offset.offset_s is None or offset.interval_s is None:
                click.echo(f"  {name}: cannot tell: {offset.reason}")
            else:
                click.echo(f"  {name}: {-1e3 * offset.offset_s:+.1f} ± {1e3 * offset.interval_s:.1f} ms (90 %)")
        click.echo(str(out))
    _exit(0, not known)


def _ids(text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(v) for v in text.split(",")) if text else ()
    except ValueError:
        raise InvalidSpecError("are not ids", field="--mask-ids", expected="numbers and commas", found=text) from None


def _light(check: CameraCheck) -> CameraCheck:
    """The check without its pictures, so that memory does not grow with the episodes."""
    from dataclasses import replace

    return replace(check, evidence=None, shift=None)


def _lighter(fit: CameraFit) -> CameraFit:
    from dataclasses import replace

    return replace(fit, evidence=())


def _check_picture(folder: Path, episode: Episode, check: CameraCheck) -> list[str]:
    from ..calibrate import pictures
    from ..calibrate.evidence import static_pose

    camera = episode.views[check.view].camera
    pose = None if camera is None else static_pose(camera)
    if check.evidence is None or pose is None:
        return []
    shift = None if check.shift_px is None or check.shift is None else check.shift.best
    return write_picture(folder, episode.id, check.view, pictures.sheet(check.evidence, pose, shift=shift))


def _fit_picture(folder: Path, fit: CameraFit) -> list[str]:
    from ..calibrate import pictures

    if not fit.evidence:
        return []
    name = fit.episodes[0] if len(fit.episodes) == 1 else f"{len(fit.episodes)}-episodes"
    return write_picture(folder, name, fit.view, pictures.sheet(fit.evidence[0], fit.recorded, fit.refined))


def _print_checks(checks: Sequence[CameraCheck], tools: dict[str, ToolCheck]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("episode", "view", "verdict", "off by (px, 90 %)", "why"):
        table.add_column(name, no_wrap=name != "why")
    for c in checks:
        off = "" if c.displacement_px is None else f"{c.displacement_px:.1f} ± {c.interval_px:.1f}"
        table.add_row(c.episode, c.view, f"[{_MARKS[c.verdict]}]{c.verdict}[/]", off, c.reason)
    output().print(table)
    for name, found in tools.items():
        what = {"tool": "tool_from_gripper is off", "camera": f"cameras are off: {', '.join(found.cameras)}"}
        output().print(f"{name}: {what.get(found.blame, found.blame)}: {found.reason}", soft_wrap=True)
        values = found.to_json()
        if "shift_mm" in values:
            shift = ", ".join(
                f"{v:+.1f} ± {w:.1f}" for v, w in zip(values["shift_mm"], values["shift_interval_mm"], strict=True)
            )
            output().print(f"  the gripper is {shift} mm (x, y, z of the gripper, 90 %) from where the poses put it")
    if checks:
        output().print(f"gripper model: {checks[0].model}")


def _print_fits(fits: Sequence[CameraFit]) -> None:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for name in ("view", "episodes", "result", "fit", "moved px", "overlay px", "pose mm", "pose deg", "why; not seen"):
        table.add_column(name, no_wrap=name not in ("episodes", "why; not seen"))

    def number(value: float | None, text: str) -> str:
        return "" if value is None else text.format(value)

    for f in fits:
        fit = "" if f.score_before is None else f"{f.score_before:.2f} → {f.score_after:.2f}"
        table.add_row(
            f.view,
            f.episodes[0] if len(f.episodes) == 1 else str(len(f.episodes)),
            "[green]refined[/]" if f.accepted else "[yellow]refused[/]",
            fit,
            number(f.moved_px, "{:.1f}"),
            number(f.overlay_px, "≤ {:.1f}"),
            number(f.position_mm, "≤ {:.0f}"),
            number(f.rotation_deg, "≤ {:.1f}"),
            f.reason if not f.unseen else "not seen: " + "; ".join(f.unseen),
        )
    output().print(table)
    output().print("overlay: how far the drawn gripper may be off; pose: how far the camera (both 90 %)")
    if fits:
        output().print(f"gripper model: {fits[0].model}")


def _exit(failed: int, off: bool) -> None:
    from ._common import EXIT_FAILED, EXIT_VERIFICATION_FAILED

    if failed or off:
        click.get_current_context().exit(EXIT_FAILED if failed else EXIT_VERIFICATION_FAILED)
