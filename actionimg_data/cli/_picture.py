"""A small picture of a frame in a terminal with colours, made of half blocks; nothing elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import ActionImgError
from ._common import output

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.text import Text

    from ..model import Episode
    from ..schemas import ActionImageSpec

    Image = NDArray[np.uint8]

_COLUMNS, _ROWS = 96, 22


def shown() -> bool:
    """Whether results go to a terminal that has colours enough for a picture."""
    screen = output()
    return screen.is_terminal and not screen.no_color and screen.color_system in ("truecolor", "256")


def half_blocks(panels: Sequence[Image]) -> Text:
    """Pictures ``(2 n, m, 3)`` uint8 RGB of one size side by side, as n lines; a character is two pixels, one above
    the other.
    """
    from rich.color import Color
    from rich.style import Style
    from rich.text import Text

    text = Text(no_wrap=True, end="")
    for row in range(0, len(panels[0]), 2):
        for number, panel in enumerate(panels):
            text.append("  " if number else "")
            for above, below in zip(panel[row].tolist(), panel[row + 1].tolist(), strict=True):
                text.append("▀", Style(color=Color.from_rgb(*above), bgcolor=Color.from_rgb(*below)))
        text.append("\n")
    return text


def show_frame(episode: Episode, spec: ActionImageSpec | None = None) -> None:
    """Print the middle frame of an episode's first calibrated view, and its action image blended over it.

    Where no view has a camera, the frame alone. Off a colour terminal nothing is printed or read.
    """
    if not shown():
        return
    from ..report import pictures
    from ..schemas import ActionImageSpec as Spec

    name = next((n for n, v in episode.views.items() if v.camera is not None), next(iter(episode.views)))
    view, frame = episode.views[name], len(episode) // 2
    aspect = view.frames.width / view.frames.height
    width = min(_COLUMNS, output().width - 2) // 2 - 1
    height = min(2 * _ROWS, round(width / aspect) // 2 * 2)
    width = min(width, round(height * aspect))
    if width < 8 or height < 8:
        return
    # Drawn large and made small: blobs and axes are then as smooth as the picture.
    large = (spec or Spec()).resized(8 * height, 8 * width)
    try:
        if view.camera is None:
            panels = [pictures.fit(next(view.frames.frames([frame])), height, width)]
        else:
            drawn = next(pictures.triptychs(episode, name, large, [frame], text=False))
            panels = [pictures.fit(part, height, width) for part in (drawn.rgb, drawn.overlay)]
    except ActionImgError as error:
        output().print(f"no picture: {error}", style="yellow", markup=False)
        return
    output().print(half_blocks(panels), soft_wrap=True, end="")
    output().print(f"{name}, frame {frame} of {len(episode)}\n", style="dim", markup=False)
