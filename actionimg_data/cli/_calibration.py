"""What all of ``actionimg calibrate`` share: which episodes, which gripper, and where pictures go."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..errors import ActionImgError, InvalidSpecError, OutputError, WrongFormatError
from ._inputs import episode_of, make_converter, split_names

if TYPE_CHECKING:
    from ..calibrate import GripperShape
    from ..model import Episode, EpisodeRef
    from ..shards import Dataset
    from ..shards.prepare import Reader


def source_options(function: Callable[..., None]) -> Callable[..., None]:
    """The options that name a source and a gripper."""
    options = [
        click.argument("source"),
        click.option("--format", "format_name", metavar="NAME", help="Source format; detected where it can be."),
        click.option("--option", "-O", "options", multiple=True, metavar="NAME=VALUE", help="Option of the converter."),
        click.option("--mapping", metavar="FILE", help="Mapping file of a raw log: short for -O mapping=FILE."),
        click.option(
            "--cameras", "camera_file", metavar="FILE", help="Camera file to use instead of SOURCE's cameras."
        ),
        click.option(
            "--episode", "wanted", multiple=True, metavar="ID", help="Only this episode, id or number; repeat."
        ),
        click.option("--episodes", "limit", type=click.IntRange(1), help="At most so many episodes.  [default: all]"),
        click.option("--views", multiple=True, help="Only these views, comma-separated.  [default: all]"),
        click.option(
            "--gripper", "sizes", multiple=True, metavar="NAME=METRES", help="Size of the parametric gripper."
        ),
        click.option(
            "--mesh", "mesh_file", metavar="FILE", help="Gripper mesh or URDF in place of the parametric one."
        ),
        click.option("--link", metavar="NAME", help="Link of the URDF."),
        click.option(
            "--model-error",
            type=click.FloatRange(0, 100),
            default=1.0,
            show_default=True,
            help="Millimetres by which the gripper model may be off as a whole.",
        ),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def gripper_shape(given: dict[str, Any]) -> GripperShape:
    """The gripper that the options name."""
    from ..calibrate import GripperShape
    from ..calibrate.shape import parse_sizes

    error_m = given["model_error"] / 1e3
    if given["mesh_file"] is None:
        if given["link"] is not None:
            raise InvalidSpecError("only a URDF has links", field="--link", found=given["link"])
        return GripperShape.parametric(error_m, **parse_sizes(given["sizes"]))
    if given["sizes"]:
        raise InvalidSpecError("the parametric gripper has sizes, a mesh has none", field="--gripper")
    return GripperShape.from_file(given["mesh_file"], given["link"], error_m=error_m)


def make_folder(path: str | None) -> Path | None:
    """The folder at ``path``, made where it is not there."""
    if path is None:
        return None
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError("cannot make the folder", where=path, found=error.strerror) from None
    return Path(path)


def source_episodes(
    source: str, given: dict[str, Any], cameras_needed: bool = True
) -> Iterator[Episode | ActionImgError]:
    """The episodes asked for, one at a time; one that cannot be read is its error."""
    from ..cameras.files import load_user_cameras
    from ..model import EpisodeRef
    from ..shards.prepare import read_episode

    options = given["options"] + ((f"mapping={given['mapping']}",) if given["mapping"] else ())
    if not cameras_needed and not any(o.partition("=")[0] == "poses_only" for o in options):
        options += _poses_only(source, given["format_name"], options)
    wanted, limit, views = set(given["wanted"]), given["limit"], split_names(given["views"])
    readers: Iterator[tuple[EpisodeRef, Reader]]
    if (Path(source) / "dataset.json").is_file() and not given["format_name"]:
        from ..shards import open_dataset

        data = open_dataset(source)
        readers = ((EpisodeRef(key, {"key": key}), _Stored(data)) for key in data.keys())  # noqa: SIM118
    else:
        from ..converters.remote import SourceReader

        made = SourceReader(make_converter(source, given["format_name"], options))
        readers = ((ref, made) for ref in made.discover(source))
    cameras = load_user_cameras(Path(given["camera_file"])) if given["camera_file"] is not None else None
    count = 0
    for number, (ref, reader) in enumerate(readers):
        if wanted and not wanted & {ref.id, str(number)}:
            continue
        if limit is not None and count >= limit:
            break
        count += 1
        try:
            episode = read_episode(ref, reader, cameras)
            yield episode.with_views(views) if views else episode
        except ActionImgError as error:
            yield error
    if count == 0:
        raise WrongFormatError("has no such episode", where=source, found=" ".join(sorted(wanted)) or "none")


def _poses_only(source: str, format_name: str | None, options: tuple[str, ...]) -> tuple[str, ...]:
    """The option by which a converter that has it reads a source without cameras."""
    if (Path(source) / "dataset.json").is_file() and not format_name:
        return ()
    fields = type(make_converter(source, format_name, options).options).model_fields
    return ("poses_only=true",) if "poses_only" in fields else ()


class _Stored:
    """Reads samples of a data set of ours as episodes."""

    def __init__(self, data: Dataset) -> None:
        self.data = data

    def read(self, ref: EpisodeRef) -> Episode:
        return episode_of(self.data[ref.id])


def write_picture(folder: Path, episode: str, view: str, picture: Any) -> list[str]:
    """Write a picture, if there is one, under the names of its episode and view; its path in a list."""
    import cv2

    if picture is None:
        return []
    path = folder / (re.sub(r"[^A-Za-z0-9_-]+", "-", episode) + f".{view}.png")
    if not cv2.imwrite(str(path), picture[..., ::-1]):
        raise OutputError("cannot write", where=path)
    return [str(path)]
