"""Conditions over the columns of ``index.parquet``, written as one types them: ``task == "stack" and frames > 100``.

The language is a small part of Python's expressions. Nothing is evaluated: the text is parsed (`ast`) and translated
into a pyarrow expression, which is what `actionimg_data.training` takes as its ``filter``.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import InvalidSpecError, suggestion

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.compute as pc

_ORDER: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_TEXTS = {
    "startswith": "starts_with",
    "endswith": "ends_with",
    "contains": "match_substring",
    "matches": "match_substring_regex",
}
_SHOWN = 'a condition over columns, e.g. task == "stack" and frames > 100, "drawer" in instruction, "front" in views'
# A text that no name of a view holds (ASCII's own "unit separator").
_SEPARATOR = "\x1f"
_LONGEST = 4000


def parse_where(text: str, schema: pa.Schema, where: object = "--where") -> pc.Expression:
    """The pyarrow expression that a condition says.

    Comparisons (also chained), ``and``, ``or``, ``not``, ``in`` (a value among several, a text within a column of
    texts, a name within a column of names), ``is None``, ``len(views)``, and of texts ``.startswith()``,
    ``.endswith()``, ``.contains()`` and ``.matches()`` (a regular expression, RE2). As in a filter of pyarrow, a row
    whose value is missing is left out by every comparison.

    Args:
        text: The condition.
        schema: The columns there are.
        where: What the error names as its place.

    Raises:
        InvalidSpecError: The text is no such condition, or names a column that there is not.
    """
    if len(text) > _LONGEST:
        raise InvalidSpecError("is too long", where=where, expected=f"at most {_LONGEST} characters", found=len(text))
    try:
        tree = ast.parse(text.strip(), mode="eval")
        return _Translation(text, schema, where).truth(tree.body)
    except SyntaxError as error:
        raise InvalidSpecError(
            f"is no condition: {error.msg}", where=where, expected=_SHOWN, found=text, hint=_single_equals(text)
        ) from None
    except (RecursionError, MemoryError, ValueError) as error:
        if isinstance(error, InvalidSpecError):
            raise
        raise InvalidSpecError("is no condition", where=where, expected=_SHOWN, found=text) from None


def _single_equals(text: str) -> str | None:
    """What to type instead of the sign that assigns."""
    return "Equal is ==." if "=" in text and "==" not in text else None


class _Translation:
    """One condition on its way from Python's syntax to pyarrow's."""

    def __init__(self, text: str, schema: pa.Schema, where: object) -> None:
        self.text, self.schema, self.where = text, schema, where

    def refuse(self, message: str, node: ast.AST, hint: str | None = None) -> InvalidSpecError:
        found = ast.get_source_segment(self.text.strip(), node) or self.text
        return InvalidSpecError(message, where=self.where, expected=_SHOWN, found=found, hint=hint)

    def truth(self, node: ast.AST) -> pc.Expression:
        """A node that is true or false of a row."""
        if isinstance(node, ast.BoolOp):
            join = operator.and_ if isinstance(node.op, ast.And) else operator.or_
            whole, *others = [self.truth(value) for value in node.values]
            for other in others:
                whole = join(whole, other)
            return whole
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            return ~self.truth(node.operand)
        if isinstance(node, ast.Compare):
            return self._compare(node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            return self._text(node, node.func)
        if isinstance(node, ast.Name) and self._kind(node) == "bool":
            return self._column(node)
        raise self.refuse("is neither true nor false of a sample", node)

    def _compare(self, node: ast.Compare) -> pc.Expression:
        sides = [node.left, *node.comparators]
        whole: pc.Expression | None = None
        for op, left, right in zip(node.ops, sides[:-1], sides[1:], strict=True):
            one = self._pair(op, left, right, node)
            whole = one if whole is None else whole & one
        return whole

    def _pair(self, op: ast.cmpop, left: ast.expr, right: ast.expr, node: ast.AST) -> pc.Expression:
        if isinstance(op, (ast.In, ast.NotIn)):
            inside = self._inside(left, right)
            return ~inside if isinstance(op, ast.NotIn) else inside
        if isinstance(op, (ast.Is, ast.IsNot)):
            if not (isinstance(right, ast.Constant) and right.value is None and isinstance(left, ast.Name)):
                raise self.refuse("`is` asks whether a column is None", node)
            missing = self._column(left).is_null()
            return ~missing if isinstance(op, ast.IsNot) else missing
        for side in (left, right):
            if isinstance(side, ast.Name) and self._kind(side) == "list":
                raise self.refuse(
                    "is a column of lists", side, hint=f'Ask for one of its names: "NAME" in {side.id}, len({side.id}).'
                )
        kinds = {self._kind(side) for side in (left, right)}
        if len(kinds) > 1:
            raise self.refuse(f"compares {' with '.join(sorted(kinds))}", node)
        if all(isinstance(side, ast.Constant) for side in (left, right)):
            raise self.refuse("names no column", node)
        return _ORDER[type(op)](self._value(left), self._value(right))

    def _inside(self, left: ast.expr, right: ast.expr) -> pc.Expression:
        """``left in right``: a column among constants, a text in a column of texts or of lists."""
        import pyarrow.compute as pc

        if isinstance(right, (ast.Tuple, ast.List, ast.Set)):
            kinds = {self._kind(item) for item in right.elts} | {self._kind(left)}
            if not right.elts or len(kinds) > 1:
                raise self.refuse("has to be among constants of its kind", right)
            return self._value(left).isin([self._constant(item) for item in right.elts])
        if not isinstance(right, ast.Name):
            raise self.refuse("`in` wants a column or a list of constants on its right", right)
        wanted = self._constant(left)
        if not isinstance(wanted, str):
            raise self.refuse("`in` wants a text on its left", left)
        column = self._column(right)
        if self._kind(right) == "text":
            return pc.match_substring(column, wanted)
        if self._kind(right) != "list":
            raise self.refuse("is neither a text nor a list", right)
        joined = pc.binary_join(column, pc.scalar(_SEPARATOR))
        edge = pc.scalar(_SEPARATOR)
        return pc.match_substring(
            pc.binary_join_element_wise(edge, joined, edge, pc.scalar("")), f"{_SEPARATOR}{wanted}{_SEPARATOR}"
        )

    def _text(self, node: ast.Call, name: ast.Attribute) -> pc.Expression:
        """``column.startswith("text")`` and its like."""
        import pyarrow.compute as pc

        if name.attr not in _TEXTS:
            raise self.refuse("is no test of a text", node, suggestion(name.attr, _TEXTS))
        if self._kind(name.value) != "text" or not isinstance(name.value, ast.Name):
            raise self.refuse("is no column of texts", name.value)
        if len(node.args) != 1 or node.keywords or not isinstance(self._constant(node.args[0]), str):
            raise self.refuse(f".{name.attr}() takes one text", node)
        wanted = self._constant(node.args[0])
        if name.attr == "matches":
            self._check_pattern(wanted, node)
        return getattr(pc, _TEXTS[name.attr])(self._column(name.value), wanted)

    def _check_pattern(self, pattern: str, node: ast.AST) -> None:
        import pyarrow as pa
        import pyarrow.compute as pc

        try:
            pc.match_substring_regex(pa.array([""]), pattern)
        except pa.ArrowInvalid as error:
            raise self.refuse(f"is no regular expression: {error}", node) from None

    def _value(self, node: ast.AST) -> Any:
        """A column, the length of one, or a constant."""
        import pyarrow.compute as pc

        if isinstance(node, ast.Name):
            return self._column(node)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "len":
            if len(node.args) != 1 or node.keywords or not isinstance(node.args[0], ast.Name):
                raise self.refuse("len() takes one column", node)
            column, kind = self._column(node.args[0]), self._kind(node.args[0])
            if kind not in ("list", "text"):
                raise self.refuse("has no length", node.args[0])
            return pc.list_value_length(column) if kind == "list" else pc.utf8_length(column)
        return pc.scalar(self._constant(node))

    def _constant(self, node: ast.AST) -> Any:
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
            value = self._constant(node.operand)
            if not isinstance(value, bool) and isinstance(value, (int, float)):
                return -value if isinstance(node.op, ast.USub) else value
        if isinstance(node, ast.Constant) and isinstance(node.value, (str, bool, int, float)):
            if isinstance(node.value, int) and node.value >= 2**63:
                raise self.refuse("is larger than any value of the index", node)
            return node.value
        hint = None
        if isinstance(node, ast.Name):
            hint = suggestion(node.id, self.schema.names) or f"A text is written in quotes: {node.id!r}."
        raise self.refuse("is no constant", node, hint)

    def _kind(self, node: ast.AST) -> str:
        """``number``, ``text``, ``bool`` or ``list``: what may be compared with what."""
        import pyarrow as pa

        if isinstance(node, ast.Call):
            return "number"
        if not isinstance(node, ast.Name):
            value = self._constant(node)
            return "bool" if isinstance(value, bool) else "text" if isinstance(value, str) else "number"
        self._column(node)
        found = self.schema.field(node.id).type
        if pa.types.is_list(found):
            return "list" if pa.types.is_string(found.value_type) else "list of records"
        for kind, test in (("text", pa.types.is_string), ("bool", pa.types.is_boolean)):
            if test(found):
                return kind
        return "number"

    def _column(self, node: ast.Name) -> pc.Expression:
        import pyarrow.compute as pc

        if node.id not in self.schema.names:
            raise InvalidSpecError(
                "no such column",
                where=self.where,
                expected=", ".join(self.schema.names),
                found=node.id,
                hint=suggestion(node.id, self.schema.names),
            )
        return pc.field(node.id)
