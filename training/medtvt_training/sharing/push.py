# SPDX-License-Identifier: Apache-2.0
"""A model folder to the Hub, as one commit, with nothing in it that was not listed."""

import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import HfApi, ModelCard
from huggingface_hub.errors import HTTPError
from huggingface_hub.utils import validate_repo_id

from modeling_medtvt import export_for_hub

from ..data.provenance import read_access
from .cards import is_repo, model_card


logger = logging.getLogger(__name__)
# Signals, pictures and tables: with a model they are there by mistake, and may be a patient's
DATA_SUFFIXES = (
    *(".parquet", ".csv", ".tsv", ".jsonl", ".arrow", ".npy", ".npz", ".h5", ".hdf5", ".xlsx"),
    *(".hea", ".dat", ".mat", ".edf", ".dcm", ".dicom", ".nii", ".gz", ".zip", ".tar"),
    *(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".jp2"),
)
ADAPTER_FILES = (
    *("adapter_config.json", "adapter_model.safetensors"),
    *("config.json", "generation_config.json", "provenance.json"),
)


class TagError(OSError):
    """The files are up, their tag is not."""


def push(
    model_dir: str | os.PathLike,
    repo_id: str,
    private: bool = False,
    adapter_only: bool = False,
    base_model: str | None = None,
    tag: str | None = None,
    dry_run: bool = False,
    allow_credentialed_public: bool = False,
    endpoint: str | None = None,
    token: str | None = None,
) -> list[str]:
    """
    Pushes a self-contained folder (weights, processor, code, pipeline, card) in one commit: all of it is there, or
    nothing. The folder's README.md is its card; without one, a card is made from the config.

    Args:
        repo_id (`str`): ORG/NAME.
        private (`bool`): Make the repository private, if it is new.
        adapter_only (`bool`): `model_dir` holds an adapter, which goes up without its model.
        base_model (`str`, *optional*): ORG/NAME of the adapter's model, in place of a local folder.
        tag (`str`, *optional*): A tag for the commit; it must be new.
        dry_run (`bool`): List what would go up, and contact nobody.
        allow_credentialed_public (`bool`): Let weights from credentialed or unknown data go public.
        endpoint, token (`str`, *optional*): Of the Hub; huggingface_hub's own by default.

    Returns:
        `list[str]`: the files that went up, or would.

    Raises:
        ValueError: if the folder holds data, or weights that must not be public, or the tag is taken.
        OSError: if the Hub refuses or cannot be reached. Nothing was published then.
    """
    validate_repo_id(repo_id)
    if repo_id.count("/") != 1:
        raise ValueError(f"`repo` must be ORG/NAME, got {repo_id!r}.")
    folder = Path(model_dir)
    access = read_access(folder)
    allowed = allow_credentialed_public or access not in ("credentialed", "unknown")
    if not (allowed or private):
        raise ValueError(_refusal(folder, repo_id, access))
    with tempfile.TemporaryDirectory() as temporary:
        staged = Path(temporary) / "repository"
        _stage(folder, staged, repo_id, adapter_only, base_model)
        names = sorted(str(path.relative_to(staged)) for path in staged.rglob("*") if path.is_file())
        sizes = [(staged / name).stat().st_size for name in names]
        visibility = "private" if private else "public"
        listing = "".join(f"\n  {size:>12,}  {name}" for name, size in zip(names, sizes))
        about = f"{visibility}, trained on: {access}"
        logger.info("%s (%s), %d files, %.1f MB:%s", repo_id, about, len(names), sum(sizes) / 1e6, listing)
        if dry_run:
            logger.info("Dry run: nothing went up.")
            return names
        try:
            _upload(HfApi(endpoint=endpoint, token=token), staged, repo_id, private, allowed, tag, folder, access)
        except TagError:
            raise
        except (HTTPError, ConnectionError) as error:
            raise OSError(f"{repo_id}: the Hub did not take it, and nothing was published. {error}") from error
    return names


def _refusal(folder: Path, repo_id: str, access: str) -> str:
    said = "it does not say on what data" if access == "unknown" else "on data under credentialed access"
    return (
        f"{folder} was trained {said}, and {repo_id} would be public. Push with --private, or, if the data's terms "
        "allow it, with --allow-credentialed-public."
    )


def _stage(folder: Path, staged: Path, repo_id: str, adapter_only: bool, base_model: str | None) -> None:
    """Writes what goes up, and nothing else, to a folder."""
    is_adapter = (folder / "adapter_config.json").is_file()
    if is_adapter != adapter_only:
        hint = "add --adapter-only, or merge it first" if is_adapter else "leave out --adapter-only"
        raise ValueError(f"{folder} holds {'an adapter' if is_adapter else 'no adapter'}: {hint}.")
    readme = folder / "README.md"
    card = ModelCard(readme.read_text(encoding="utf-8")) if readme.is_file() else model_card(folder, repo=repo_id)
    assets = _card_assets(card, folder)
    data = [
        str(path.relative_to(folder))
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in DATA_SUFFIXES and path not in assets
    ]
    if data:
        raise ValueError(f"{folder} holds data, which has no place in a model's repository: {', '.join(data[:5])}.")
    if adapter_only:
        staged.mkdir()
        for name in ADAPTER_FILES:
            if (folder / name).is_file():
                shutil.copy(folder / name, staged)
        _name_base_model(staged / "adapter_config.json", base_model)
    else:
        export_for_hub(folder, staged)
    (staged / "README.md").write_text(str(card), encoding="utf-8")
    for path in assets:
        target = staged / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def _card_assets(card: ModelCard, folder: Path) -> list[Path]:
    """Pictures inside the folder that the card shows."""
    linked = re.findall(r"!\[[^\]]*\]\(([^)\s]+)[^)]*\)|<img[^>]+src=[\"']([^\"']+)", card.text)
    paths = [folder / (a or b) for a, b in linked if "://" not in (a or b)]
    return [path for path in paths if path.is_file() and path.resolve().is_relative_to(folder.resolve())]


def _name_base_model(path: Path, base_model: str | None) -> None:
    """An adapter names its model by ORG/NAME, not by a place on somebody's disk."""
    config = json.loads(path.read_text(encoding="utf-8"))
    name = base_model or config.get("base_model_name_or_path") or ""
    if not is_repo(name):
        raise ValueError(
            "The adapter names its model by a local folder, which nobody else has. Say where that model is on the Hub "
            "with --base-model ORG/NAME."
        )
    path.write_text(json.dumps({**config, "base_model_name_or_path": name}, indent=2) + "\n", encoding="utf-8")


def _upload(
    api: HfApi, staged: Path, repo_id: str, private: bool, allowed: bool, tag: str | None, folder: Path, access: str
) -> None:
    api.create_repo(repo_id, private=private, exist_ok=True)
    # an existing repository keeps its visibility, whatever was asked for
    if not (api.repo_info(repo_id).private or allowed):
        raise ValueError(_refusal(folder, repo_id, access))
    if tag is not None and tag in _tags(api, repo_id):
        raise ValueError(f"{repo_id} has a tag {tag!r} already; a version stays what it was.")
    commit = api.upload_folder(repo_id=repo_id, folder_path=staged, commit_message=f"Upload {tag or 'model'}")
    logger.info(commit.commit_url)
    if tag is not None:
        try:
            api.create_tag(repo_id, tag=tag, revision=commit.oid)
        except HTTPError as error:
            raise TagError(f"{repo_id}: commit {commit.oid} is up, but not the tag {tag!r}. {error}") from error


def _tags(api: HfApi, repo_id: str) -> Sequence[str]:
    return [reference.name for reference in api.list_repo_refs(repo_id).tags]
