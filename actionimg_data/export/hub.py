"""Upload an exported folder to the Hugging Face Hub: shards first, what makes them a data set last, resumable."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from ..errors import MissingExtraError, OutputError, install_hint
from ..shards import layout
from ..untrusted.files import open_plain

log = logging.getLogger(__name__)

BATCH_FILES: Final = 64
BATCH_BYTES: Final = 4_000_000_000
"""A commit holds at most so many files and bytes, so that a broken connection costs little."""
_CHUNK: Final = 1 << 20


def push(
    folder: Path,
    repo: str,
    *,
    public: bool = False,
    endpoint: str | None = None,
    on_files: Callable[[int, int], None] = lambda done, total: None,
) -> str:
    """Upload ``folder`` as the data set ``repo``; what is there already, byte for byte, is not sent again.

    Args:
        folder: What `actionimg_data.export.huggingface.export` wrote.
        repo: ``USER/NAME`` of the data set on the Hub; made, if there is none.
        public: Whether a repository that has to be made can be read by everybody.
        endpoint: URL of the Hub; by default huggingface_hub's own (``HF_ENDPOINT``).
        on_files: Called with the number of files there and of all.

    Returns:
        The URL that every command takes: ``hf://datasets/USER/NAME``.

    Raises:
        MissingExtraError: huggingface_hub is not installed.
        OutputError: The Hub refuses, or cannot be reached.
    """
    try:
        import huggingface_hub
        from huggingface_hub.errors import HfHubHTTPError, HFValidationError
    except ImportError:
        raise MissingExtraError("an upload needs huggingface_hub", field="--push", hint=install_hint("hub")) from None
    api = huggingface_hub.HfApi(endpoint=endpoint)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    names = {p: p.relative_to(folder).as_posix() for p in files}
    try:
        api.create_repo(repo, repo_type="dataset", private=not public, exist_ok=True)
        there = _digests(api, repo)
        # The manifest says that a data set is complete, so it comes when all else is there.
        files.sort(key=lambda p: (names[p] == layout.MANIFEST, names[p]))
        missing = [p for p in files if names[p] not in there or not _is(p, there[names[p]])]
        done = len(files) - len(missing)
        on_files(done, len(files))
        for batch in _batches(missing):
            api.create_commit(
                repo,
                [huggingface_hub.CommitOperationAdd(names[p], p) for p in batch],
                commit_message=f"{names[batch[0]]} … {names[batch[-1]]}",
                repo_type="dataset",
            )
            done += len(batch)
            log.info("uploaded %d of %d files to %s", done, len(files), repo)
            on_files(done, len(files))
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise OutputError(
            "cannot upload",
            where=repo,
            field="--push",
            found=reason[0],
            hint="Log in with `hf auth login`, or set HF_TOKEN. What was uploaded stays; the same command goes on.",
        ) from error
    return f"hf://datasets/{repo}"


def _digests(api: Any, repo: str) -> dict[str, tuple[str, str]]:
    """Of each file of the repository ``("sha256" | "blob", digest)``: the Hub's own two ways to name a content."""
    found = {}
    for entry in api.list_repo_tree(repo, repo_type="dataset", recursive=True):
        if hasattr(entry, "blob_id"):
            lfs = entry.lfs
            found[entry.path] = ("blob", entry.blob_id) if lfs is None else ("sha256", lfs["sha256"])
    return found


def _is(path: Path, there: tuple[str, str]) -> bool:
    """Whether a file has the content that the Hub names."""
    kind, digest = there
    # A git blob is hashed with its kind and its size before it.
    head = b"" if kind == "sha256" else b"blob %d\0" % path.stat().st_size
    computed = hashlib.sha256() if kind == "sha256" else hashlib.sha1(usedforsecurity=False)
    computed.update(head)
    with open_plain(path) as file:
        while chunk := file.read(_CHUNK):
            computed.update(chunk)
    return computed.hexdigest() == digest


def _batches(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Files in commits; the last one, the manifest, in one of its own."""
    batch: list[Path] = []
    size = 0
    for path in files:
        more = path.stat().st_size
        if batch and (len(batch) == BATCH_FILES or size + more > BATCH_BYTES or path.name == layout.MANIFEST):
            yield batch
            batch, size = [], 0
        batch.append(path)
        size += more
    if batch:
        yield batch
