"""Published weights from the Hugging Face hub, fetched once to where they are looked for.

Neither revision nor hash could be looked up where this was written, so none is pinned: what comes is the repository's
newest, its commit and SHA-256 are noted beside it, and `sha256` here, once known, is insisted on.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from sap3d.errors import UserError
from sap3d.files import digest, exclusive, write_json

XL = "https://zero123.cs.columbia.edu/assets/zero123-xl.ckpt"


@dataclass(frozen=True)
class Source:
    """A file of a repository."""

    repository: str
    file: str
    gigabytes: float
    page: str  # where people find it
    revision: str = "main"
    sha256: str | None = None


# By the names that they have here. XL's authors keep it on a web page; the hub has it from One-2-3-45's.
SOURCES = {
    "zero123-xl.ckpt": Source("One-2-3-45/code", "zero123-xl.ckpt", 15, XL),
    "105000.ckpt": Source("cvlab/zero123-weights", "105000.ckpt", 15, "https://huggingface.co/cvlab/zero123-weights"),
}


def fetch(path: Path) -> None:
    """Fetch a file that is missing and known; of two processes one does, and what was begun is gone on with.

    Raises:
        UserError: it is not known, the hub cannot be reached, or the file is another than expected.
    """
    source = SOURCES.get(path.name)
    if source is None:
        raise UserError(
            f"{path}: no such file; put zero123-xl.ckpt there, from {XL}, or name {', '.join(SOURCES)} by --checkpoint"
        )
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url

    endpoint = os.environ.get("HF_ENDPOINT")
    with exclusive(path):
        if path.exists():
            return
        print(f"fetching {path.name} from {source.repository} (about {source.gigabytes:g} GB, once)", flush=True)
        begun = path.parent / ".download"
        try:
            found = hf_hub_download(
                source.repository, source.file, revision=source.revision, local_dir=begun, endpoint=endpoint
            )
            url = hf_hub_url(source.repository, source.file, revision=source.revision, endpoint=endpoint)
            commit = get_hf_file_metadata(url, endpoint=endpoint).commit_hash
        except Exception as error:  # the hub's own, its HTTP library's and the socket's
            raise UserError(
                f"{path}: not there, and {source.repository} cannot be fetched from the Hugging Face hub "
                f"({type(error).__name__}); put the file there, from {source.page}"
            ) from error
        sha256 = digest(Path(found))
        if source.sha256 not in (None, sha256):
            Path(found).unlink()
            raise UserError(f"{path}: what {source.repository} gave has SHA-256 {sha256}, not {source.sha256}")
        note = {"repository": source.repository, "revision": commit, "sha256": sha256}
        write_json(path.with_name(f"{path.name}.json"), note)
        os.replace(found, path)
