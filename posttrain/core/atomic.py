"""Whole files and directories or nothing: a reader never sees a part, whatever is killed and however full the disk."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from posttrain.core.errors import StorageError

PathLike = str | os.PathLike[str]

# A quota, a file size limit and a full disk are one thing to the user: no room.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def tells_of_no_room(error: BaseException | None) -> bool:
    """Tell whether an error, or one that it came from, is a full disk, in whatever words a library puts that.

    safetensors and tokenizers raise errors of their own with the system's number in the text; torch.save only says
    that its writer failed.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return True
        text = str(error)
        if any(f"(os error {number})" in text for number in NO_ROOM) or text.endswith("iostream error"):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextlib.contextmanager
def no_room_as_storage_error(path: PathLike, intact: str) -> Iterator[None]:
    """Turn a full disk into our error; `intact` says in one sentence what is still good."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        raise StorageError(
            f"no room to write {os.fspath(path)} ({error.strerror}). {intact} "
            "Free some space and run the same command again."
        ) from error


@contextlib.contextmanager
def atomic_file(path: PathLike) -> Iterator[IO[bytes]]:
    """Give a binary file that takes the place of `path` when the block ends well.

    Raises:
        StorageError: the disk is full, and the old file untouched; or the folder takes no files.
    """
    target = Path(path)
    with no_room_as_storage_error(target, "The old file, if there was one, is untouched."):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor, name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        except FileNotFoundError as error:  # the folder is there, and still takes no file: /proc, or one just removed
            raise StorageError(f"{target} cannot be made: {target.parent} takes no new files") from error
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            # mkstemp makes private files; a result is to be as readable as any other file.
            os.chmod(name, 0o666 & ~_umask())
            os.replace(name, target)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
            raise
        _sync(target.parent)


def atomic_write(path: PathLike, data: str | bytes) -> None:
    """Write a whole file or nothing; text is written as UTF-8.

    Raises:
        StorageError: the disk is full; the old file is untouched.
    """
    with atomic_file(path) as file:
        file.write(data.encode("utf-8") if isinstance(data, str) else data)


@contextlib.contextmanager
def atomic_directory(path: PathLike) -> Iterator[Path]:
    """Give an empty directory beside `path` that takes its name when the block ends well.

    An error in the block removes it. After a kill a `.name.*.tmp` may stay behind; nothing reads it.

    Raises:
        StorageError: the disk is full, or `path` holds something already.
    """
    target = Path(path)
    with no_room_as_storage_error(target, "Nothing took its place."):
        target.parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
        try:
            yield work
            sync_tree(work)
            work.chmod(0o777 & ~_umask())
            _rename_directory(work, target)
        except BaseException:
            shutil.rmtree(work, ignore_errors=True)
            raise
        _sync(target.parent)


@contextlib.contextmanager
def file_lock(path: PathLike) -> Iterator[None]:
    """Hold an exclusive lock on the file `path` (made if missing), waiting for its holder; a kill frees it."""
    lock = Path(path)
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "ab") as file:
        lock_descriptor(file.fileno(), fcntl.LOCK_EX, lock)
        try:
            yield
        finally:
            lock_descriptor(file.fileno(), fcntl.LOCK_UN, lock)


def is_locked(path: PathLike) -> bool:
    """Tell whether some process holds `file_lock(path)` now."""
    try:
        with open(path, "rb") as file:
            lock_descriptor(file.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB, path)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


LOCKS = "POSTTRAIN_LOCKS"
"""Environment variable; `none` works without locks, for file systems that have none."""
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP})


def lock_descriptor(descriptor: int, operation: int, path: PathLike) -> None:
    """Lock or free an open file by `fcntl.flock`; do nothing where the user said that there are no locks.

    Raises:
        BlockingIOError: another process holds the lock, and `operation` does not wait.
        StorageError: the file system has no locks.
    """
    if os.environ.get(LOCKS) == "none":
        return
    try:
        fcntl.flock(descriptor, operation)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise StorageError(
            f"{os.fspath(path)} cannot be locked ({error.strerror}): the file system of {Path(path).absolute().parent} "
            f"has no file locks. Use a folder on a local disk; or set {LOCKS}=none, and let no two commands write to "
            "one folder at a time"
        ) from error


def _rename_directory(work: Path, target: Path) -> None:
    try:
        os.rename(work, target)  # takes the place of an empty directory only
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise StorageError(f"{target} exists already; move it away or choose another place") from error
        raise


def sync_tree(root: Path) -> None:
    """Wait until the disk holds a folder with all that is in it."""
    for folder, _, names in os.walk(root):
        for name in names:
            _sync(Path(folder, name))
        _sync(Path(folder))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
