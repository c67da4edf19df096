"""Atomic directories, each with a manifest that has the sha256 of every file.

Files are written into a hidden directory next to the target, flushed to disk and renamed. Opening
a store removes the leftovers of killed processes.
"""

import ctypes
import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from empo2_trainer.protocol import UserError

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
PREFIX = ".tmp-"
Manifest = dict[str, Any]


class StoreError(Exception):
    """A failure of the disk."""


class Store:
    """A folder of named, immutable directories, each with a manifest."""

    def __init__(self, root: Path, manifest: str = "manifest.json") -> None:
        self.root = root
        self.manifest = manifest
        try:
            _make_shared(root)
            for left in root.glob(f"{PREFIX}*"):
                shutil.rmtree(left)
            probe = root / f"{PREFIX}probe"
            probe.mkdir()
            probe.rmdir()
        except OSError as e:
            raise StoreError(f"prepare {root}: {reason(e)}") from e

    def write(
        self, name: str, about: Manifest, fill: Callable[[Path], None], overwrite: bool = False
    ) -> Path:
        """Create the directory `name`, let fill write its files, and return its absolute path.

        Writing the same content again changes nothing, unless the files there are damaged: they
        are replaced. Other content under a used name is a UserError, unless overwrite is set,
        which replaces the directory atomically.
        """
        check_name(name)
        target = self.root / name
        scratch = self.root / f"{PREFIX}{name}-{os.getpid()}"
        try:
            scratch.mkdir()
            scratch.chmod(0o755)
            fill(scratch)
            manifest = {**about, "files": _seal(scratch)}
            _write_json(scratch / self.manifest, manifest)
            _sync_directory(scratch)
            if target.exists():
                if self.read(name) == manifest:
                    if self._intact(name):
                        return target.absolute()
                elif not overwrite:
                    raise UserError(f"{name} exists with other content: choose another path")
                _exchange(scratch, target)
            else:
                scratch.rename(target)
            _sync(self.root)
        except OSError as e:
            raise StoreError(f"write {target}: {reason(e)}") from e
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        return target.absolute()

    def read(self, name: str) -> Manifest | None:
        """The manifest of a directory, or None if it cannot be read."""
        try:
            manifest = json.loads((self.root / name / self.manifest).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return manifest if isinstance(manifest, dict) else None

    def _intact(self, name: str) -> bool:
        try:
            self.verify(name)
        except (StoreError, OSError):
            return False
        return True

    def verify(self, name: str) -> Manifest:
        """The manifest of a directory, after a check of all its files against it."""
        check_name(name)
        manifest = self.read(name)
        if manifest is None or not isinstance(manifest.get("files"), dict):
            known = sorted(p.name for p in self.root.iterdir() if not p.name.startswith("."))
            near = f": there are {', '.join(known[-5:])}" if known else ": there are none yet"
            raise UserError(f"{name} is not in {self.root}{near}")
        for file, facts in manifest["files"].items():
            path = self.root / name / file
            if not path.is_file() or _facts(path) != facts:
                raise StoreError(f"read {path}: the file is missing or differs from its manifest")
        return manifest


def _make_shared(root: Path) -> None:
    """Create a folder that servers under other users can enter, whatever the umask."""
    if not root.is_dir():
        root.mkdir(parents=True)
        root.chmod(0o755)


def new_directory(
    target: Path, manifest: str, about: Manifest, fill: Callable[[Path], None]
) -> None:
    """Create a directory outside a store, with a manifest, whole or not at all."""
    target = target.absolute()
    scratch = target.with_name(f"{PREFIX}{target.name}")
    try:
        shutil.rmtree(scratch, ignore_errors=True)  # of a process that was killed
        scratch.mkdir(parents=True)
        fill(scratch)
        _write_json(scratch / manifest, {**about, "files": _seal(scratch)})
        _sync_directory(scratch)
        scratch.rename(target)
        _sync(target.parent)
    except OSError as e:
        raise StoreError(f"write {target}: {reason(e)}") from e
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def check_name(name: str) -> None:
    """Refuse names that are not plain file names."""
    if not NAME.fullmatch(name):
        raise UserError(f"path {name!r}: use letters, digits, dot, dash and underscore")


def reason(e: OSError) -> str:
    """The cause of an error in words, with a hint for common causes."""
    hints = {
        errno.ENOSPC: "no space left on the disk: free some and repeat the step",
        errno.EDQUOT: "disk quota exceeded: free some space and repeat the step",
        errno.EACCES: "permission denied: is the run directory yours?",
        errno.EROFS: "the file system is read-only: choose another run directory",
    }
    return hints.get(e.errno or 0, e.strerror or str(e))


def replace_file(path: Path, write: Callable[[Path], None]) -> None:
    """Write one file atomically."""
    scratch = path.with_name(f"{PREFIX}{path.name}-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(scratch)
        scratch.chmod(0o644)
        _sync(scratch)
        scratch.rename(path)
        _sync(path.parent)
    except OSError as e:
        raise StoreError(f"write {path}: {reason(e)}") from e
    finally:
        scratch.unlink(missing_ok=True)


def _seal(directory: Path) -> dict[str, dict[str, Any]]:
    """Make every file readable for servers under other users, and describe it."""
    files = {}
    for path in sorted(directory.iterdir()):
        path.chmod(0o644)
        files[path.name] = _facts(path)
    return files


def _facts(path: Path) -> dict[str, Any]:
    digest = hashlib.sha256()
    with path.open("rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return {"sha256": digest.hexdigest(), "bytes": path.stat().st_size}


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    path.chmod(0o644)


def _sync_directory(directory: Path) -> None:
    """Flush a directory and its files, all at once: the file system commits them together."""
    paths = [*directory.iterdir(), directory]
    with ThreadPoolExecutor(len(paths)) as pool:
        list(pool.map(_sync, paths))


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _exchange(a: Path, b: Path) -> None:
    """Swap two directories: atomically on Linux, by renames elsewhere."""
    swap = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    here = -100  # AT_FDCWD
    if swap is not None and swap(here, bytes(a), here, bytes(b), 2) == 0:  # RENAME_EXCHANGE
        return
    aside = a.with_name(a.name + "-old")
    b.rename(aside)
    a.rename(b)
    shutil.rmtree(aside)
