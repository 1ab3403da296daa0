"""Checkpoints from the Hugging Face hub, or from its cache without a network, as folders on disk.

HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_ENDPOINT and HF_TOKEN, or a login, work as they do everywhere. Safetensors
files are taken where a repository has them. No code of a repository is ever run.
"""

import errno
import os
import re
import socket
from collections.abc import Sequence
from pathlib import Path

from diffusers import DiffusionPipeline
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from lsvd.backbones import checkpoints

UNREACHED = (LocalEntryNotFoundError, ConnectionError, TimeoutError, socket.gaierror)


def is_id(name: str) -> bool:
    """Whether a name has the form of an id on the hub, owner/name."""
    return re.fullmatch(r"[\w.-]+/[\w.-]+", name) is not None and not name.startswith(".")


def fetch(
    ids: Sequence[str], revision: str | None = None, variants: Sequence[str | None] = (None,)
) -> tuple[Path, str | None]:
    """The folder of the first of `ids` that can be had, and the variant that was found, downloaded if need be.

    Each id is tried with each of `variants` in order. Raises FileNotFoundError, in one sentence that says what was
    tried, where, and what to do, if there is none.
    """
    problems = {}
    for name in ids:
        for variant in variants:
            try:
                return _fetch(name, revision, variant), variant
            except Exception as error:
                problems[name] = _reason(error, revision)
    tried = "; ".join(f"{name} ({problem})" for name, problem in problems.items())
    remedy = f"`hf download {ids[0]} --local-dir FOLDER` where there is a network, and give FOLDER as the backbone"
    raise FileNotFoundError(
        f"no checkpoint was found: tried {tried}, with the cache {constants.HF_HUB_CACHE}; type {remedy}"
    )


def _fetch(name: str, revision: str | None, variant: str | None) -> Path:
    with checkpoints.silently():
        folder = Path(DiffusionPipeline.download(name, revision=revision, variant=variant))
    if not (folder / "model_index.json").is_file():
        raise LocalEntryNotFoundError("only a part of it is in the cache")
    return folder


def _reason(error: Exception, revision: str | None) -> str:
    """Why a checkpoint could not be obtained, in a few words."""
    causes, link = [], error
    while link is not None:
        causes.append(link)
        link = link.__cause__ or link.__context__
    for kind, reason in (
        (GatedRepoError, "its licence has to be accepted on its page, and then `hf auth login`"),
        (RepositoryNotFoundError, "there is none of that name, or it is private: `hf auth login`"),
        (RevisionNotFoundError, f"it has no revision {revision}"),
        (OfflineModeIsEnabled, "HF_HUB_OFFLINE is set, and it is not in the cache, or not whole"),
    ):
        if any(isinstance(cause, kind) for cause in causes):
            return reason
    if any(getattr(cause, "errno", None) == errno.ENOSPC for cause in causes):
        return "the disk is full: make room, and what is downloaded already is kept"
    if any(isinstance(cause, PermissionError) for cause in causes):
        return "permission denied: make the cache readable and writable, or set HF_HUB_CACHE"
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        return "HF_HUB_OFFLINE is set, and it is not in the cache, or not whole"
    if any(isinstance(cause, UNREACHED) or _of_transport(cause) for cause in causes):
        return "the hub cannot be reached, and it is not in the cache, or not whole"
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _of_transport(error: BaseException) -> bool:
    """Whether an error comes from a connection: huggingface_hub has changed its HTTP library before."""
    return any(
        (kind.__module__.split(".")[0], kind.__name__)
        in {(library, "TransportError") for library in ("httpx", "httpx2")}
        for kind in type(error).__mro__
    )
