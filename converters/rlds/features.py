"""``features.json``: the tree of features that TFDS wrote, in its current and its legacy form."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from ...errors import ActionImgError, BadFileError
from ...untrusted.files import read_bytes

MAX_DEPTH = 32
MAX_JSON_BYTES = 64 << 20

Shape = tuple[int | None, ...]
# What TFDS writes into an Example as float32 and casts back (example_parser.py); numpy has no bfloat16.
_FLOAT_DTYPES = {"bfloat16": "float32"}
_NAME_OF_KIND = {
    "featuresDict": "FeaturesDict",
    "sequence": "Sequence",
    "tensor": "Tensor",
    "image": "Image",
    "labeledImage": "LabeledImage",
    "text": "Text",
    "classLabel": "ClassLabel",
    "video": "Video",
    "boundingBox": "BBoxFeature",
    "audio": "Audio",
}


@dataclass(frozen=True)
class Leaf:
    """One stored feature.

    Args:
        kind: "tensor", "text", "image", or "unsupported": a class of TFDS that this reader does not know.
        shape: Of one value; None where unknown.
        dtype: numpy's name, or "str".
        encoding: Of a tensor: "none" (as a list of numbers), "bytes" or "zlib".
        image_format: "jpeg", "png" or "" (either).
        optional: Whether a missing value is allowed.
        description: What the writer said about it.
        labels: Names of a class label's values, where they are known.
        python_class: TFDS' name of the feature's class.
    """

    kind: Literal["tensor", "text", "image", "unsupported"]
    shape: Shape
    dtype: str
    encoding: str = "none"
    image_format: str = ""
    optional: bool = False
    description: str = ""
    labels: tuple[str, ...] = ()
    python_class: str = ""

    @property
    def dynamic(self) -> bool:
        """Whether values are stored with their shapes: more than one dimension is unknown (tensor_feature.py)."""
        return self.kind == "tensor" and self.shape.count(None) > 1

    @property
    def size(self) -> int | None:
        """Numbers in one value; None where unknown."""
        return None if None in self.shape else math.prod(n for n in self.shape if n is not None)

    def text(self) -> str:
        """Shape, dtype and encoding in a few words."""
        if self.kind == "unsupported":
            return f"unsupported ({self.python_class})"
        if self.kind == "text":
            return "text"
        dims = "(" + ", ".join("?" if n is None else str(n) for n in self.shape) + ")"
        extra = self.image_format or "image" if self.kind == "image" else self.encoding
        return f"{self.dtype} {dims}" + (f" {extra}" if extra != "none" else "")


@dataclass(frozen=True)
class Sequence:
    """A list of values; ``is_steps`` where it was written as a nested data set (RLDS' steps)."""

    child: Node
    length: int | None = None
    is_steps: bool = False
    description: str = ""


@dataclass(frozen=True)
class Group:
    """A dict of features, in the order of the file."""

    children: Mapping[str, Node] = field(default_factory=dict)
    description: str = ""


Node: TypeAlias = Leaf | Sequence | Group
Place = tuple[str, ...]


@dataclass(frozen=True)
class Stored:
    """A leaf, the flat key that its values have in an Example, and the sequences around it, outermost first."""

    place: Place
    key: str
    leaf: Leaf
    sequences: tuple[Sequence, ...]

    @property
    def in_steps(self) -> bool:
        """Whether there is one value a step."""
        return bool(self.sequences) and self.sequences[0].is_steps


def flatten(node: Node, place: Place = (), sequences: tuple[Sequence, ...] = ()) -> Iterator[Stored]:
    """Every leaf of a tree. Keys are joined from names here, and never split again: a name may hold a "/"."""
    if isinstance(node, Leaf):
        yield Stored(place, "/".join(place), node, sequences)
    elif isinstance(node, Sequence):
        yield from flatten(node.child, place, (*sequences, node))
    else:
        for name, child in node.children.items():
            yield from flatten(child, (*place, name), sequences)


def read_json(path: Path) -> Any:
    """A JSON file of at most 64 MB.

    Raises:
        SourceNotFoundError: No such file.
        BadFileError: It cannot be read, is too large, or is not JSON.
    """
    try:
        return json.loads(read_bytes(path, MAX_JSON_BYTES))
    except ActionImgError:
        raise
    except (ValueError, RecursionError) as error:
        raise BadFileError("is not readable JSON", where=path, found=error) from None


def load(path: Path) -> Group:
    """The feature tree of a ``features.json``.

    Raises:
        SourceNotFoundError: No such file.
        BadFileError: It is not a feature tree; the field names the node.
    """
    node = _Parser(path).node(read_json(path), ())
    if not isinstance(node, Group):
        raise BadFileError("the outermost feature is not a dict", where=path, found=type(node).__name__)
    return node


@dataclass(frozen=True)
class _Parser:
    path: Path

    def bad(self, message: str, place: Place, found: object = None) -> BadFileError:
        return BadFileError(message, where=self.path, field="/".join(place) or None, found=found)

    def mapping(self, value: Any, place: Place) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self.bad("is not a JSON object", place, found=value)
        return value

    def node(self, raw: Any, place: Place) -> Node:
        if len(place) > MAX_DEPTH:
            raise self.bad(f"features nested more than {MAX_DEPTH} deep", place[:3])
        value = self.mapping(raw, place)
        if "type" in value and "content" in value and "pythonClassName" not in value:
            return self.legacy(value, place)
        kinds = [k for k in _NAME_OF_KIND if k in value]
        name = str(value.get("pythonClassName", "")).rpartition(".")[2]
        if len(kinds) > 1:
            raise self.bad("has more than one kind", place, found=kinds)
        body = self.mapping(value[kinds[0]], place) if kinds else {}
        kind = _NAME_OF_KIND[kinds[0]] if kinds else name
        # Dataset and Video share the JSON of a sequence with their own class names.
        if name in ("Dataset", "Scalar"):
            kind = {"Dataset": "Dataset", "Scalar": "Tensor"}[name]
        return self.build(kind, body, str(value.get("pythonClassName", "")), str(value.get("description", "")), place)

    def legacy(self, value: dict[str, Any], place: Place) -> Node:
        content = value["content"]
        if isinstance(content, str) and value.get("proto_cls"):
            try:
                content = json.loads(content)
            except (ValueError, RecursionError):
                raise self.bad("has content that is not JSON", place, found=content) from None
        body = self.mapping({} if content is None else content, place)
        python_class = str(value["type"])
        name = python_class.rpartition(".")[2]
        kind = {"Scalar": "Tensor"}.get(name, name)
        if kind == "FeaturesDict" and "features" not in body:
            body = {"features": body}
        return self.build(kind, body, python_class, "", place)

    def build(self, kind: str, body: dict[str, Any], python_class: str, description: str, place: Place) -> Node:
        if kind == "FeaturesDict":
            children = self.mapping(body.get("features", {}), place)
            # Not sorted: the order of the file is the order in which the writer named them.
            return Group({str(k): self.node(v, (*place, str(k))) for k, v in children.items()}, description)
        if kind in ("Sequence", "Dataset"):
            if "feature" not in body:
                raise self.bad("a sequence has no feature", place)
            length = self.dim(body.get("length"), place)
            return Sequence(self.node(body["feature"], place), length, kind == "Dataset", description)
        if kind == "Video":
            shape = self.shape(body, place, (None, None, None, 3))
            image = self.leaf("image", shape[1:], self.dtype(body, place, "uint8"), body, python_class, description)
            return Sequence(image, shape[0] if shape else None, description=description)
        if kind in ("Image", "LabeledImage"):
            shape = self.shape(body, place, (None, None, 3))
            if len(shape) != 3:
                raise self.bad("an image's shape is not (height, width, channels)", place, found=shape)
            return self.leaf("image", shape, self.dtype(body, place, "uint8"), body, python_class, description)
        if kind in ("Tensor", "Audio"):
            default = (None,) if kind == "Audio" else ()
            dtype = self.dtype(body, place, "int64" if kind == "Audio" else None)
            return self.leaf("tensor", self.shape(body, place, default), dtype, body, python_class, description)
        if kind == "Text":
            return Leaf("text", (), "str", description=description, python_class=python_class)
        if kind == "ClassLabel":
            return Leaf("tensor", (), "int64", description=description, python_class=python_class)
        if kind == "BBoxFeature":
            return Leaf("tensor", (4,), "float32", description=description, python_class=python_class)
        return Leaf("unsupported", (), "", description=description, python_class=python_class or kind or "no class")

    def leaf(
        self,
        kind: Literal["tensor", "image"],
        shape: Shape,
        dtype: str,
        body: dict[str, Any],
        python_class: str,
        description: str,
    ) -> Leaf:
        image_format = body.get("encodingFormat", body.get("encoding_format")) or ""
        encoding = str(body.get("encoding") or "none").lower()
        # Legacy files hold the repr of the enumeration, e.g. "Encoding.ZLIB".
        encoding = encoding.rpartition(".")[2]
        return Leaf(
            kind,
            shape,
            dtype,
            encoding=encoding if kind == "tensor" else "none",
            image_format=str(image_format) if kind == "image" else "",
            optional=bool(body.get("optional", False)),
            description=description,
            python_class=python_class,
        )

    def dim(self, value: Any, place: Place) -> int | None:
        """A dimension: "-1", -1, None and 0-less strings of digits occur."""
        if value is None:
            return None
        try:
            number = int(value)
        except (TypeError, ValueError):
            raise self.bad("has a dimension that is not a number", place, found=value) from None
        return None if number < 0 else number

    def shape(self, body: dict[str, Any], place: Place, default: Shape) -> Shape:
        raw = body.get("shape", default)
        if isinstance(raw, dict):
            raw = raw.get("dimensions", [])
        if not isinstance(raw, (list, tuple)) or len(raw) > 16:
            raise self.bad("has a shape that is not a list", place, found=raw)
        return tuple(self.dim(n, place) for n in raw)

    def dtype(self, body: dict[str, Any], place: Place, default: str | None) -> str:
        name = body.get("dtype") or default
        if not isinstance(name, str):
            raise self.bad("has no dtype", place, found=name)
        # Legacy forms: "<dtype: 'float32'>", "tf.float32", "dtype('float32')".
        for junk in ("<dtype: ", ">", "tf.", "np.", "dtype(", ")", "'", '"'):
            name = name.replace(junk, "")
        if name in ("string", "object", "str", "bytes", "object_"):
            return "str"
        name = _FLOAT_DTYPES.get(name, name)
        try:
            dtype = np.dtype(name)
        except TypeError:
            raise self.bad("has an unknown dtype", place, found=name) from None
        if dtype.kind not in "biuf":
            raise self.bad("has a dtype that an Example cannot hold", place, found=name)
        return dtype.name
