"""Coverage-guided fuzzing of the RLDS reader with atheris (not part of the test suite).

    pip install atheris
    python tests/fuzz_rlds.py -max_total_time=120 -rss_limit_mb=1024 -timeout=10 [CORPUS]

Any exception but the package's own, any record that takes over ten seconds, and any growth over the limit ends it.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

try:
    import atheris
except ImportError:
    sys.exit("atheris is not installed: pip install atheris")

sys.path.insert(0, str(Path(__file__).resolve().parent))

with atheris.instrument_imports(include=["actionimg_data.converters.rlds"]):
    import rlds_data

    from actionimg_data.converters.rlds import features, images, slicing
    from actionimg_data.converters.rlds.example import Example
    from actionimg_data.demo import rlds as w
    from actionimg_data.errors import ActionImgError

NODE = rlds_data.all_kinds_features()
STORED = list(features.flatten(NODE))
IMAGE = w.image((None, None, 3), encoding="")


def one_input(data: bytes) -> None:
    """A record, a picture or a split instruction, by the first byte."""
    if not data:
        return
    kind, body = data[0] % 4, data[1:]
    with suppress(ActionImgError):
        if kind == 0:
            images.decode(body, IMAGE)
        elif kind == 1:
            slicing.resolve(body.decode("utf-8", "replace"), {"train": [4, 3], "val": [1]})
        else:
            example = Example(body, "fuzzed")
            for stored in STORED:
                with suppress(ActionImgError):
                    example.length(stored)
                    example.read(stored)


def main() -> None:
    """Fuzz, starting from whole records and pictures."""
    corpus = [a for a in sys.argv[1:] if not a.startswith("-")]
    if corpus:
        folder = Path(corpus[0])
        folder.mkdir(parents=True, exist_ok=True)
        for steps in (0, 1, 2):
            record = w.encode_episode(NODE, rlds_data.all_kinds_episode(steps, steps))
            (folder / f"record{steps}").write_bytes(b"\x02" + record)
        for encoding in ("jpeg", "png"):
            leaf = w.image((9, 7, 3), encoding=encoding)
            picture = w.encode_picture(rlds_data.np.full((9, 7, 3), 100, "uint8"), leaf)
            (folder / encoding).write_bytes(b"\x00" + picture)
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
