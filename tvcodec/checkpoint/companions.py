"""What lies beside a model's weights: which files go with it, and what is none of its business."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from shutil import copyfile

from tvcodec.checkpoint.directory import INDEX_NAME
from tvcodec.errors import CheckpointError
from tvcodec.file.index import BLOB_MAX, valid_file_name

_COMPANION_SUFFIXES = frozenset(
    {".json", ".jinja", ".model", ".txt", ".py", ".tiktoken", ".vocab", ".bpe", ".spm"}
)
_OF_FINE_TUNES = _COMPANION_SUFFIXES | {".md", ".codes", ".tsv", ".xml", ".yaml", ".yml"}
# Maps of weights that are not copied, and what turns a directory into an adapter's.
_NEVER = re.compile(r"\..*|.*\.index\.json|adapter_.*")
_OF_WEIGHTS = re.compile(r"(pytorch_)?model[\w.-]*\.(safetensors|bin)(\.index\.json)?", re.ASCII)
_OF_TRAINING = re.compile(r"trainer_state\.json|.*_results\.json")
_FOLDER = re.compile(r"[\w-][\w.-]*", re.ASCII)
_WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")


def copy_companions(source: Path, target: Path) -> None:
    """Copy what a model needs beside its weights; symbolic links become files."""
    for folder in ("", *_companion_folders(source)):
        files = sorted(entry for entry in (source / folder).iterdir() if _is_companion(entry))
        if files:
            (target / folder).mkdir(exist_ok=True)
        for file in files:
            copyfile(file, target / folder / file.name)


def own_companions(source: Path) -> tuple[dict[str, Path], list[str]]:
    """What a fine-tune's directory keeps beside its weights, by name, one folder deep; and the
    names of what it leaves out, but for weights."""
    found, left = {}, []
    folders = _companion_folders(source)
    taken = {name.lower() for name in folders}
    for entry in sorted(source.iterdir()):
        inside = sorted(entry.iterdir()) if entry.name in folders else [entry]
        for file in inside:
            name = file.relative_to(source).as_posix()
            if _is_own(file) and valid_file_name(name) and name.lower() not in taken:
                found[name] = file
                taken.add(name.lower())
            elif not _OF_WEIGHTS.fullmatch(name):
                left.append(name)
    return found, left


def _companion_folders(source: Path) -> list[str]:
    """Folders that are part of the model: chat templates, and those that modules.json names."""
    folders = {"additional_chat_templates"}
    modules = source / "modules.json"
    if modules.is_file() and modules.stat().st_size <= BLOB_MAX:
        folders |= _module_folders(modules)
    return sorted(name for name in folders if (source / name).is_dir())


def _module_folders(modules: Path) -> set[str]:
    try:
        entries = json.loads(modules.read_bytes())
        paths = [entry["path"] for entry in entries]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{modules}: expected a list of modules, got {type(error).__name__}",
            "fetch the base model again, or give its weights alone",
        ) from error
    # The file is not ours to trust: plain names only, so that nothing outside is read or written.
    return {path for path in paths if isinstance(path, str) and _FOLDER.fullmatch(path)}


def _is_companion(entry: Path) -> bool:
    """Whether a fine-tune may have it of its base model."""
    if _OF_TRAINING.fullmatch(entry.name):
        return False
    return _is_kept(entry, _COMPANION_SUFFIXES, ("LICENSE", "NOTICE"))


def _is_own(entry: Path) -> bool:
    """Whether it is kept of a fine-tune's directory."""
    return _is_kept(entry, _OF_FINE_TUNES, ("LICENSE", "NOTICE", "tokenizer."))


def _is_kept(entry: Path, suffixes: frozenset[str], starts: tuple[str, ...]) -> bool:
    if _NEVER.fullmatch(entry.name) or not entry.is_file():
        return False
    wanted = entry.suffix in suffixes or entry.name.startswith(starts)
    return wanted and entry.stat().st_size <= BLOB_MAX


def foreign(directory: Path) -> Iterator[Path]:
    """What in a directory is neither of a model's weights nor beside them, so that it was not
    written as one; all of it, where there are no weights."""
    entries = sorted(directory.iterdir())
    if not any(_WEIGHTS.fullmatch(entry.name) for entry in entries):
        yield from entries
        return
    try:
        folders = _companion_folders(directory)
    except CheckpointError:
        folders = []
    for entry in entries:
        if entry.name in folders and not entry.is_symlink():
            yield from (file for file in sorted(entry.iterdir()) if not _is_plain_companion(file))
        elif not (_is_plain_companion(entry) or (_is_plain(entry) and _is_model_file(entry.name))):
            yield entry


def _is_model_file(name: str) -> bool:
    """Weights, or what tells of them, or a model card."""
    return bool(_WEIGHTS.fullmatch(name)) or name in (INDEX_NAME, "README.md")


def _is_plain(entry: Path) -> bool:
    return entry.is_file() and not entry.is_symlink()


def _is_plain_companion(entry: Path) -> bool:
    return _is_plain(entry) and _is_own(entry)
