"""What several commands read from the command line: camera files, sizes, specs, converter options."""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

import click

from ..errors import (
    AmbiguousSourceError,
    InvalidCameraError,
    InvalidSpecError,
    SourceNotFoundError,
    StorageError,
    WrongFormatError,
    suggested_path,
    suggestion,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ..converters import Converter
    from ..model import Camera, CameraTrack, Episode
    from ..schemas import ActionImageSpec
    from ..schemas.plausibility import Limits
    from ..shards import Sample


class SizeType(click.ParamType):  # type: ignore[type-arg]  # generic from click 8.4 on
    """``512`` or ``HxW``; the value is ``(height, width)``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Parse the text of an option."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d{1,5})(?:x(\d{1,5}))?", str(value))
        if not match or 0 in (height := int(match[1]), width := int(match[2] or match[1])):
            self.fail(f"{value!r} is neither a number nor HEIGHTxWIDTH", param, ctx)
        return height, width


SIZE = SizeType()


def split_names(values: Sequence[str]) -> list[str]:
    """Names that were given several times or separated by commas, in order, without doubles."""
    return list(dict.fromkeys(name for value in values for name in value.split(",") if name))


def allowed_kinds(values: Sequence[str]) -> tuple[str, ...]:
    """The kinds of findings of ``--allow``, in the order in which they are documented.

    Raises:
        InvalidSpecError: There is no such kind.
    """
    from ..schemas.plausibility import KINDS

    names = split_names(values)
    unknown = next((name for name in names if name not in KINDS), None)
    if unknown is not None:
        raise InvalidSpecError(
            "no such kind of finding",
            where="--allow",
            expected=" | ".join(KINDS),
            found=unknown,
            hint=suggestion(unknown, KINDS),
        )
    return tuple(kind for kind in KINDS if kind in names)


def plausible_limits(values: Sequence[str]) -> Limits:
    """The limits of ``--limit NAME=VALUE``.

    Raises:
        InvalidSpecError: There is no such limit, or its value cannot be.
    """
    from pydantic import ValidationError

    from ..schemas.plausibility import Limits

    given = {}
    for text in values:
        name, equals, value = text.partition("=")
        name = name.strip().replace("-", "_")
        if not equals or name not in Limits.model_fields:
            raise InvalidSpecError(
                "no such limit",
                where="--limit",
                expected="NAME=VALUE, NAME one of " + " ".join(Limits.model_fields),
                found=text,
                hint=suggestion(name, Limits.model_fields),
            )
        given[name] = value
    try:
        return Limits(**given)
    except ValidationError as error:
        first = error.errors()[0]
        raise InvalidSpecError(
            first["msg"], where="--limit", field=str(first["loc"][0]), found=first.get("input")
        ) from None


def load_spec(path: str | None, size: tuple[int, int] | None) -> ActionImageSpec:
    """The spec of a JSON file (a spec alone, or a data set's ``dataset.json``), at ``size`` where given."""
    import json

    from ..schemas import ActionImageSpec
    from ..shards.layout import place, read_place

    values: dict[str, Any] = {}
    if path is not None:
        try:
            content = json.loads(read_place(place(path)))
        except FileNotFoundError:
            raise SourceNotFoundError("no such spec file", where=path) from None
        except StorageError:
            raise
        except (OSError, ValueError) as error:
            raise WrongFormatError("is not JSON", where=path, found=error) from None
        holder = content.get("options", content) if isinstance(content, dict) else {}
        found = holder.get("spec", holder) if isinstance(holder, dict) else None
        if not isinstance(found, dict):
            raise WrongFormatError("is not a spec", where=path, expected="a JSON object")
        values = found
    spec = ActionImageSpec(**values)
    return spec if size is None else spec.resized(*size)


def load_cameras(path: str, sample: str | None = None) -> dict[str, Camera | CameraTrack]:
    """Pinhole cameras by view name, from a camera file, or those of one sample of a data set.

    Args:
        path: A camera file, a sample's ``.cameras.npz``, or the folder of a data set.
        sample: Key or number of the sample, for a data set.

    Raises:
        ActionImgError: The file is not one of these, or a camera has no pose or a distorting lens.
    """
    from ..objectstore import is_url

    if is_url(path) or Path(path).is_dir():
        return dict(pick_sample(path, sample).cameras)
    if sample is not None:
        raise InvalidSpecError("a camera file has no samples", where=path, field="--sample", found=sample)
    from ..cameras.files import load_cameras as load
    from ..cameras.tracks import is_cameras_npz, read_cameras_npz

    if is_cameras_npz(Path(path)):
        return dict(read_cameras_npz(path))
    cameras: dict[str, Camera | CameraTrack] = {}
    for name, camera in load(Path(path)).items():
        if camera.distortion is not None and not camera.distortion.is_zero:
            raise InvalidCameraError(
                "action images are drawn with a pinhole, this lens distorts",
                where=path,
                field=name,
                found=f"{camera.distortion.model} {camera.distortion.coefficients}",
                hint="Give the camera of the undistorted pictures.",
            )
        cameras[name] = camera.camera(f"{path}: {name}")
    return cameras


def pick_sample(path: str, wanted: str | None) -> Sample:
    """The sample of a data set with the key or the number ``wanted``; by default the first.

    Raises:
        WrongFormatError: There is no such sample; some that there are get named.
    """
    from ..shards import open_dataset

    data = open_dataset(path)
    keys = data.keys()
    if wanted is None and keys:
        return data[0]
    if wanted in keys:
        return data[keys.index(wanted)]
    if wanted is not None and wanted.isdecimal() and int(wanted) < len(keys):
        return data[int(wanted)]
    raise no_such("sample", path, wanted, keys)


def no_such(what: str, where: str, wanted: str | None, names: Sequence[str]) -> WrongFormatError:
    """The error for a name that is not among ``names``, with some of them and the nearest."""
    hint = None if wanted is None else suggestion(wanted, names)
    return WrongFormatError(f"no such {what}", where=where, expected=_some(names), found=wanted, hint=hint)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" … ({len(names)} in all)" if len(names) > 5 else "") or "none"


@dataclass(frozen=True)
class _StoredFrames:
    """The camera pictures of one view of a sample."""

    sample: Sample
    view: str

    @property
    def width(self) -> int:
        return self.sample.meta.width

    @property
    def height(self) -> int:
        return self.sample.meta.height

    def __len__(self) -> int:
        return len(self.sample)

    def frames(self, indices: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
        from ..video import ENDINGS, open_video

        with open_video(self.sample.read(f"{self.view}.rgb.{ENDINGS[self.sample.meta.rgb_codec]}")) as video:
            yield from video.frames(indices)


def episode_of(sample: Sample) -> Episode:
    """A stored sample as an episode again."""
    from ..model import Episode, View

    return Episode(
        id=sample.key,
        views={
            name: View(sample.cameras[name] if sample.meta.calibrated else None, _StoredFrames(sample, name))
            for name in sample.views
        },
        grippers=sample.grippers,
        fps=sample.fps,
        instructions=(sample.instruction,),
    )


def fit_cameras(
    cameras: Mapping[str, Camera | CameraTrack], height: int, width: int, where: str, crop: str = "none"
) -> dict[str, Camera | CameraTrack]:
    """The cameras of pictures that were brought to a size.

    Args:
        cameras: Of the pictures as they were.
        height: Of the pictures as they are.
        width: Of the pictures as they are.
        where: What to call the cameras' file in an error.
        crop: ``none``: they were scaled whole, and another aspect is refused; ``center``: they were first
            centre-cropped to the new aspect, as the training loader does.

    Raises:
        InvalidCameraError: The aspect is another, and nothing was cropped.
    """
    fitted = {}
    for name, camera in cameras.items():
        if crop == "none" and camera.width * height != camera.height * width:
            raise InvalidCameraError(
                "camera and pictures differ in aspect",
                where=where,
                field=name,
                expected=f"{height}x{width} (HxW)",
                found=f"{camera.height}x{camera.width}",
                hint="--crop center: the pictures are the centre of the camera's, scaled.",
            )
        fitted[name] = camera.resized(height, width)
    return fitted


def option_type(annotation: Any) -> tuple[Any, bool]:
    """click's type for a field of a converter's options, and whether it takes several values."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return option_type(next(a for a in args if a is not type(None)))
    if origin in (tuple, list):
        # Values may be comma-separated, so they are split before pydantic sees them as what they are.
        return str, True
    if origin is Literal:
        return click.Choice([str(a) for a in args]), False
    return (annotation if annotation in (int, float, bool) else str), False


def make_converter(source: str, format_name: str | None, options: Sequence[str]) -> Converter:
    """The converter for ``source``: the named one, or the only one that recognises it.

    Args:
        source: A folder or file.
        format_name: The converter's name, or None to detect it.
        options: ``NAME=VALUE`` texts for the converter's own options.

    Raises:
        WrongFormatError: Nobody recognises the source.
        AmbiguousSourceError: More than one converter does.
        InvalidSpecError: An option that the converter does not have, or a bad value.
    """
    from ..converters import base
    from ..shards.layout import place

    if format_name is None:
        if not place(source).exists():
            raise SourceNotFoundError("no such file or folder", where=source, hint=suggested_path(source))
        found = base.detect(source)
        stated = _stated_format(options)
        if stated in found:
            found = {stated: found[stated]}
        special = {name: detection for name, detection in found.items() if not detection.general}
        found = special or found
        if not found:
            raise WrongFormatError(
                "no converter recognises this source", where=source, hint="See actionimg converters, or give --format."
            )
        if len(found) > 1:
            raise AmbiguousSourceError(
                "several converters recognise this source",
                where=source,
                found=" ".join(found),
                hint="Choose one with --format.",
            )
        format_name = next(iter(found))
    cls = base.converter_class(format_name)
    values: dict[str, Any] = {}
    for text in options:
        name, equals, value = text.partition("=")
        key = name.strip().replace("-", "_")
        if not equals or key not in cls.Options.model_fields:
            raise InvalidSpecError(
                "no such option",
                where=format_name,
                field=name,
                expected=" ".join(f"{n}=…" for n in cls.Options.model_fields) or "no options",
                found=text,
                hint=suggestion(key, cls.Options.model_fields),
            )
        _, many = option_type(cls.Options.model_fields[key].annotation)
        values[key] = tuple(value.split(",")) if many else value
    return cls(cls.Options.parse(values, format_name))


def _stated_format(options: Sequence[str]) -> str | None:
    """The format that a mapping file among the options is for."""
    path = next((text.partition("=")[2] for text in options if text.startswith("mapping=")), None)
    if path is None:
        return None
    from ..converters.recording.mapping import format_of

    return format_of(path)


def read_episode(converter: Converter, source: str, wanted: str | None) -> Episode:
    """The episode with the id ``wanted`` (or a number in the order of discovery), by default the first.

    Raises:
        WrongFormatError: There is no such episode; some that there are get named.
    """
    from ..converters.remote import SourceReader

    reader, ids = SourceReader(converter), []
    for number, ref in enumerate(reader.discover(source)):
        if wanted is None or wanted in (ref.id, str(number)):
            return reader.read(ref)
        ids.append(ref.id)
    raise no_such("episode", source, wanted, ids)
