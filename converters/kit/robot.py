"""All links of a robot over time: what `kinematics.Chain` is for one frame, for the whole arm of a URDF file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import AmbiguousSourceError, WrongFormatError
from ...untrusted.files import read_bytes
from . import mjcf
from .kinematics import Chain

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Robot:
    """The links of a URDF that some joints move, each with the chain of joints that leads to it.

    Args:
        joints: Names of the joints that values are given of, in order.
        links: Names, each after the link that it hangs from; the root is the first.
        parents: ``(L,)`` number of the link that each hangs from; -1 for the root.
        chains: From the root to each link.
        where: The file.
    """

    joints: tuple[str, ...]
    links: tuple[str, ...]
    parents: tuple[int, ...]
    chains: tuple[Chain, ...]
    where: str

    @classmethod
    def load(cls, path: Path, joints: Sequence[str] = (), count: int | None = None) -> Robot:
        """The links that given joints move, and those that nothing moves.

        Links behind a joint of which no value is given (fingers, mostly) are left out.

        Args:
            path: URDF; its meshes need not be there.
            joints: Names in the order of the values; those that move no link are ignored.
            count: In place of names: how many joints there are values of. They are those of the one chain with so
                many.

        Raises:
            SourceNotFoundError: No such file.
            BadFileError: Not XML.
            UnsafeFileError: XML that declares entities.
            WrongFormatError: Not a URDF, without a single root, without any of the joints or a chain of so many.
            AmbiguousSourceError: Several chains with so many joints.
        """
        root = mjcf.parse_xml(read_bytes(path, mjcf.MAX_BYTES), path)
        if root.tag != "robot":
            raise WrongFormatError("is not a URDF file", where=path, expected="<robot>", found=f"<{root.tag}>")
        above = {
            str(child.get("link")): str(parent.get("link"))
            for j in root.findall("joint")
            if (child := j.find("child")) is not None and (parent := j.find("parent")) is not None
        }
        names = [str(e.get("name")) for e in root.findall("link")]
        chains = {name: Chain.load(path, None, name) for name in names}
        if not joints:
            joints = _only_chain(chains, count, path)
        used = [name for name in names if set(chains[name].names) <= set(joints)]
        moved = {name for link in used for name in chains[link].names}
        if not moved:
            found = sorted({n for c in chains.values() for n in c.names})
            raise WrongFormatError(
                "has none of the joints that values are given of",
                where=path,
                field="joints",
                expected=" ".join(found),
                found=" ".join(joints),
            )
        used.sort(key=lambda name: _depth(name, above))
        parents = tuple(used.index(above[name]) if name in above else -1 for name in used)
        return cls(tuple(joints), tuple(used), parents, tuple(chains[name] for name in used), str(path))

    @property
    def tip(self) -> int:
        """Number of the link that the hand is on: the first that as many joints move as any."""
        counts = [len(c.names) for c in self.chains]
        return counts.index(max(counts))

    def poses_of(self, link: int, values: FloatArray) -> FloatArray:
        """Poses ``(T, 4, 4)`` of a link in the root, for joint values ``(T, J)``."""
        chain = self.chains[link]
        return chain.poses(chain.names, values[:, [self.joints.index(n) for n in chain.names]])

    def poses(self, values: FloatArray) -> FloatArray:
        """Poses ``(L, T, 4, 4)`` of all links in the root, for joint values ``(T, J)``."""
        return np.stack([self.poses_of(k, values) for k in range(len(self.links))])


def _depth(name: str, above: dict[str, str]) -> int:
    count = 0
    while name in above:
        name, count = above[name], count + 1
    return count


def _only_chain(chains: dict[str, Chain], count: int | None, path: Path) -> tuple[str, ...]:
    found = {c.names for c in chains.values() if len(c.names) == count}
    if len(found) == 1:
        return found.pop()
    expected = f"one chain of {count} joints"
    if found:
        raise AmbiguousSourceError(
            "has several arms with so many joints; say their names",
            where=path,
            field="joints",
            expected=expected,
            found=" | ".join(" ".join(f) for f in sorted(found)),
        )
    longest = max((c.names for c in chains.values()), key=len, default=())
    raise WrongFormatError(
        "has no arm with so many joints; say the names of those that are given",
        where=path,
        field="joints",
        expected=expected,
        found=" ".join(longest) or "no joints",
    )
