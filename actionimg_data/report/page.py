"""What pages of ours share: their style, their templates, and pictures within a budget."""

from __future__ import annotations

import base64
import hashlib
from importlib import resources
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from ..errors import BadImageError, MissingExtraError, install_hint

Image = NDArray[np.uint8]

PICTURE_BYTES: Final = 6_500_000
"""Pictures end here, before base64: the file stays under 25 MB whatever the data set's size."""


class Album:
    """Makes data URLs of pictures until their budget is used up."""

    def __init__(self, room: int | None = None) -> None:
        self.count = 0
        self.left_out = 0
        self._room = PICTURE_BYTES if room is None else room

    def add(self, picture: Image, quality: int = 80) -> dict[str, Any] | None:
        """The picture ``(H, W, 4)`` RGBA as a WebP, with its size; None when there is no room left."""
        done, data = cv2.imencode(
            ".webp", cv2.cvtColor(picture, cv2.COLOR_RGBA2BGRA), [cv2.IMWRITE_WEBP_QUALITY, quality]
        )
        if not done:
            raise BadImageError("cannot be encoded", field="picture", found=str(picture.shape))
        if len(data) > self._room:
            self.left_out += 1
            return None
        self._room -= len(data)
        self.count += 1
        text = base64.b64encode(data.tobytes()).decode("ascii")
        return {"url": f"data:image/webp;base64,{text}", "height": picture.shape[0], "width": picture.shape[1]}


def template(name: str, package: str = __package__) -> Any:
    """A template of a package's folder ``templates``.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError:
        raise MissingExtraError("a report needs jinja2", field="jinja2", hint=install_hint("report")) from None
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["count"] = lambda value: f"{value:,}".replace(",", "\u202f")
    environment.filters["metres"] = lambda value: f"{round(value, 2) + 0.0:.2f}".replace("-", "\u2212")
    environment.filters["share"] = share
    return environment.from_string(asset(name, package))


def asset(name: str, package: str = __package__) -> str:
    """The text of a file of a package's folder ``templates``."""
    return (resources.files(package) / "templates" / name).read_text(encoding="utf-8")


def share(value: float) -> str:
    """A share in percent that says 100 and 0 only when it is."""
    percent = 100 * value
    if 99.5 <= percent < 100:
        return "> 99 %"
    return "< 1 %" if 0 < percent < 0.5 else f"{percent:.0f} %"


def script_hash(script: str) -> str:
    """SHA-256 of a script as a page's Content-Security-Policy names it."""
    return base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")


def safe(text: str) -> Any:
    """Text that a template puts in as it is."""
    from markupsafe import Markup

    return Markup(text)
