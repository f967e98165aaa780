"""Which samples are shown, and in which order: one form for the URL, for the index, and for the training loader."""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, Final

from ..errors import InvalidSpecError, suggestion
from ..schemas import DatasetManifest
from ..schemas.dataset import finding_column

if TYPE_CHECKING:
    import pyarrow.compute as pc

MAX_TEXT: Final = 400
SEARCHED: Final = ("instruction", "key", "episode")
"""Columns in which words are looked for."""
RANGES: Final = {
    "frames": "frames",
    "mm": "decode_position_p95_mm",
    "deg": "decode_rotation_p95_deg",
    "undecodable": "undecodable_frames",
}
"""Columns with a least and a most, by their short name in the URL: ``frames_min``, ``mm_max`` …"""
SORTED: Final = (
    "key", "instruction", "task", "frames", "bytes", "decode_position_p95_mm", "decode_rotation_p95_deg",
    "undecodable_frames",
)  # fmt: skip
VERDICTS: Final = ("ok", "off", "cannot tell")
PARAMETERS: Final = (
    "q", "task", "view", "calibration", "finding", "origin", "sort", "desc",
    *(f"{name}_{end}" for name in RANGES for end in ("min", "max")),
)  # fmt: skip
"""Names that a filter may have in the URL."""


@dataclass(frozen=True)
class Query:
    """A filter and an order over a data set's index.

    Attributes:
        words: Each has to be in the instruction, the key or the episode's name; capitals do not matter.
        tasks: Any of these.
        view: A view that the sample has.
        calibration: Verdict that one view's camera has (with ``view``: that view's).
        findings: Kinds of allowed findings, any of which it has.
        origins: How its cameras were come by, any of these; "" is the source's own calibration.
        ranges: Column, least and most.
        sort: A column, or "" for the order of the index.
        descending: Largest first; what has no value is last either way.
    """

    words: tuple[str, ...] = ()
    tasks: tuple[str, ...] = ()
    view: str = ""
    calibration: str = ""
    findings: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    ranges: tuple[tuple[str, float | None, float | None], ...] = ()
    sort: str = ""
    descending: bool = False

    @classmethod
    def parse(cls, parameters: Sequence[tuple[str, str]], manifest: DatasetManifest) -> Query:
        """A query from the parameters of a URL; empty ones say nothing.

        Raises:
            InvalidSpecError: A parameter is unknown, or says what this data set cannot answer.
        """
        given: dict[str, list[str]] = {}
        for name, value in parameters:
            if name not in PARAMETERS:
                raise InvalidSpecError("no such filter", field=name, hint=suggestion(name, PARAMETERS))
            if len(value) > MAX_TEXT:
                raise InvalidSpecError("is too long", field=name, expected=f"<= {MAX_TEXT} characters")
            if value or name == "origin":
                given.setdefault(name, []).append(value)

        def one(name: str, known: Sequence[str]) -> str:
            value = given.get(name, [""])[-1]
            if value and value not in known:
                raise InvalidSpecError(
                    "unknown", field=name, expected=" ".join(known), found=value, hint=suggestion(value, known)
                )
            return value

        allowed = manifest.options.allow
        for kind in given.get("finding", ()):
            if kind not in allowed:
                raise InvalidSpecError(
                    "this data set has no such findings", field="finding", expected=" ".join(allowed), found=kind
                )
        verdict = one("calibration", VERDICTS)
        if verdict and not manifest.options.checks_calibration:
            raise InvalidSpecError("the cameras of this data set were not checked", field="calibration", found=verdict)
        return cls(
            words=tuple(" ".join(given.get("q", ())).split()),
            tasks=tuple(dict.fromkeys(given.get("task", ()))),
            view=one("view", manifest.views),
            calibration=verdict,
            findings=tuple(dict.fromkeys(given.get("finding", ()))),
            origins=tuple(dict.fromkeys(given.get("origin", ()))),
            ranges=tuple(_ranges(given)),
            sort=one("sort", SORTED),
            descending=given.get("desc", ["0"])[-1] not in ("0", "false"),
        )

    def columns(self) -> list[str]:
        """Columns of the index that the filter looks at."""
        names = list(SEARCHED) if self.words else []
        names += ["task"] if self.tasks else []
        names += ["views"] if self.view else []
        names += ["calibration"] if self.calibration else []
        names += [finding_column(kind) for kind in self.findings]
        names += ["camera_origin"] if self.origins else []
        return [*names, *(column for column, _, _ in self.ranges)]

    def text(self, manifest: DatasetManifest) -> str:
        """The filter in Python, as ``ActionImageDataset(filter=…)`` takes it; "" for all.

        ``pc`` is `pyarrow.compute`. Evaluated, it is what `expression` returns.
        """
        terms = self._terms(manifest)
        return " & ".join(f"({term.text})" for term in terms) if len(terms) > 1 else "".join(t.text for t in terms)

    def expression(self, manifest: DatasetManifest) -> pc.Expression | None:
        """The filter over the columns of ``index.parquet``; None for all samples."""
        terms = [term.value for term in self._terms(manifest)]
        return reduce(operator.and_, terms) if terms else None

    def _terms(self, manifest: DatasetManifest) -> list[_Term]:
        terms = [
            _any(_call("match_substring", _field(c), word, ignore_case=True) for c in SEARCHED) for word in self.words
        ]
        if self.tasks:
            terms.append(_among("task", self.tasks))
        if self.view:
            pattern = f"(^|,){re.escape(self.view)}(,|$)"
            terms.append(_call("match_substring_regex", _call("binary_join", _field("views"), ","), pattern))
        if self.calibration:
            terms.append(self._verdict(manifest))
        if self.findings:
            terms.append(_any(_field(finding_column(kind)) for kind in self.findings))
        if self.origins:
            terms.append(_among("camera_origin", self.origins))
        for column, least, most in self.ranges:
            if least is not None:
                terms.append(_compared(_field(column), ">=", least))
            if most is not None:
                terms.append(_compared(_field(column), "<=", most))
        return terms

    def _verdict(self, manifest: DatasetManifest) -> _Term:
        # A list of fixed length: what is not there of a sample that was not checked is null then, and no error.
        rows = _call("list_slice", _field("calibration"), 0, len(manifest.views), return_fixed_size_list=True)
        found = []
        for i in range(len(manifest.views)):
            row = _call("list_element", rows, i)
            verdict = _compared(_call("struct_field", row, "verdict"), "==", self.calibration)
            # Samples may differ in their views, so that a view has no place of its own.
            of_view = _compared(_call("struct_field", row, "view"), "==", self.view) if self.view else None
            found.append(verdict if of_view is None else _both(of_view, verdict))
        return _any(found)


@dataclass(frozen=True)
class _Term:
    """A part of an expression, and how it is written."""

    text: str
    value: Any


_OPERATORS: Final = {"==": operator.eq, ">=": operator.ge, "<=": operator.le}


def _field(name: str) -> _Term:
    import pyarrow.compute as pc

    return _Term(f"pc.field({name!r})", pc.field(name))


def _call(name: str, *arguments: Any, **options: Any) -> _Term:
    import pyarrow.compute as pc

    texts = [a.text if isinstance(a, _Term) else repr(a) for a in arguments]
    texts += [f"{key}={value!r}" for key, value in options.items()]
    values = [a.value if isinstance(a, _Term) else a for a in arguments]
    return _Term(f"pc.{name}({', '.join(texts)})", getattr(pc, name)(*values, **options))


def _compared(left: _Term, sign: str, right: float | str) -> _Term:
    return _Term(f"({left.text} {sign} {right!r})", _OPERATORS[sign](left.value, right))


def _both(first: _Term, second: _Term) -> _Term:
    return _Term(f"({first.text} & {second.text})", first.value & second.value)


def _any(terms: Iterable[_Term]) -> _Term:
    every = list(terms)
    return _Term(" | ".join(t.text for t in every), reduce(operator.or_, (t.value for t in every)))


def _among(column: str, values: Sequence[str]) -> _Term:
    field = _field(column)
    if len(values) == 1:
        return _compared(field, "==", values[0])
    return _Term(f"{field.text}.isin({list(values)!r})", field.value.isin(list(values)))


def _ranges(given: Mapping[str, list[str]]) -> list[tuple[str, float | None, float | None]]:
    found = []
    for short, column in RANGES.items():
        ends = []
        for end in ("min", "max"):
            name = f"{short}_{end}"
            text = given.get(name, [""])[-1]
            try:
                value = float(text) if text else None
            except ValueError:
                value = float("nan")
            if value is not None and not abs(value) < 1e15:
                raise InvalidSpecError("is no number", field=name, found=text)
            ends.append(value)
        if ends != [None, None]:
            found.append((column, ends[0], ends[1]))
    return found
