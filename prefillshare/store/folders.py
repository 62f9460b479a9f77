"""Folders of stores: private to their user, and who uses them.

MEMORY/prefillshare-store-UID/     0700
    memory-NAME/                   the store of one deployment: IDENTITY.store for each identity
    disk-DEVICE-INODE/             tables of a disk tier's file, whichever deployments use it
        users                      locked, shared, by all who use the folder; `sweep` wants it alone
        stays                      exists where a store outlives its launcher on purpose
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from prefillshare.contract import STORE_FOLDER_START
from prefillshare.errors import StoreError
from prefillshare.store.lock import try_lock

MEMORY_PREFIX = "memory-"
DISK_PREFIX = "disk-"
SUFFIX = ".store"
DISK_SUFFIX = ".pages"
_BLOCK_BYTES = 512
"""What `stat` counts in."""
_IN_MEMORY = ("tmpfs", "ramfs")
_USERS = "users"
_OTHER_THAN_A_FILE = (errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.EACCES)
_STAYS = "stays"
_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_OPEN = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


def private_folder(path: Path) -> Path:
    """Make a folder that is this user's alone, or check that it is.

    Raises: StoreError.
    """
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise StoreError(
            f"the store's folder {path} cannot be made ({error.strerror}): name one that this user can write to"
        ) from error
    if not stat.S_ISDIR(found.st_mode):
        raise StoreError(f"{path} is no folder (links are not followed): name a folder of this user for the store")
    if found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise StoreError(
            f"{path} belongs to user {found.st_uid} with mode {stat.S_IMODE(found.st_mode):o}, and pages hold what "
            f"users wrote: it must be this user's ({os.getuid()}) with mode 700 (chmod 700 {path})"
        )
    return path


def stores_folder(memory: Path) -> Path:
    """Where this user's stores lie in a file system in memory; it need not exist."""
    return memory / f"{STORE_FOLDER_START}{os.getuid()}"


def memory_folder(memory: Path, name: str) -> Path:
    """Where the store of the deployment `name` lies."""
    is_plain = _PLAIN_NAME.fullmatch(name)
    return stores_folder(memory) / (MEMORY_PREFIX + (name if is_plain else hashlib.sha256(name.encode()).hexdigest()))


def memory_room(memory: Path, name: str) -> int:
    """Bytes that the store of the deployment `name` can have: what is free, and what it has already."""
    return free_bytes(memory) + sum(map(taken_bytes, memory_folder(memory, name).glob(f"*{SUFFIX}")))


def disk_folder(directory: Path) -> Path:
    """Where disk tiers lie in the folder that a deployment names: in one of their own, which nobody else can enter."""
    return directory / f"{STORE_FOLDER_START}{os.getuid()}"


def disk_files(directory: Path) -> list[Path]:
    """Files of disk tiers in the folder that a deployment names, whoever's they are."""
    return sorted(path for path in disk_folder(directory).glob(f"*{DISK_SUFFIX}") if path.is_file())


def free_bytes(folder: Path) -> int:
    """What the file system of a folder has free for this user."""
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def is_in_memory(folder: Path) -> bool:
    """Whether the file system of a folder keeps its files in the machine's memory; False where it is not known."""
    device = folder.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
            # Fields whose number varies end with a dash; the type of the file system comes behind it.
            mount, _, kind = line.partition(" - ")
            if mount.split()[2] == number:
                return kind.split()[0] in _IN_MEMORY
    return False


def taken_bytes(path: Path) -> int:
    """What a file takes of its file system; 0 without a file."""
    try:
        return path.stat().st_blocks * _BLOCK_BYTES
    except FileNotFoundError:
        return 0


def find_loss(descriptor: int, path: Path, num_bytes: int) -> str | None:
    """What happened to an open file of so many bytes, if who opens `path` now would not find it; else None."""
    try:
        is_at = _is_at(descriptor, path)
    except OSError as error:
        return f"{path} cannot be looked at ({error.strerror})"
    if not is_at:
        return f"{path} was removed or replaced while it was in use"
    if (length := os.fstat(descriptor).st_size) < num_bytes:
        return f"{path} was cut to {length:,} bytes while it was in use"
    return None


def disk_table_folder(memory: Path, device: int, inode: int) -> Path:
    """Where the table of a disk tier's file lies: named by the file, so that all its users find the same table."""
    return stores_folder(memory) / f"{DISK_PREFIX}{device:x}-{inode:x}"


class FolderUse:
    """Keeps a folder from being swept; ends with the process, at the latest."""

    def __init__(self, folder: Path) -> None:
        """Raises: StoreError."""
        self.folder = folder
        private_folder(folder.parent)
        self._descriptor = self._enter()

    def _enter(self) -> int:
        while True:
            private_folder(self.folder)
            with contextlib.suppress(FileNotFoundError):  # swept since
                descriptor = _open_users(self.folder)
                with contextlib.ExitStack() as unused:
                    unused.callback(os.close, descriptor)
                    fcntl.flock(descriptor, fcntl.LOCK_SH)
                    if _is_at(descriptor, self.folder / _USERS):
                        unused.pop_all()
                        return descriptor

    def stay(self, stays: bool) -> None:
        """Say whether the folder outlives all who use it."""
        if stays:
            (self.folder / _STAYS).touch(mode=0o600)
        else:
            (self.folder / _STAYS).unlink(missing_ok=True)

    def leave(self) -> None:
        """Let others sweep the folder."""
        os.close(self._descriptor)


def is_used(folder: Path) -> bool:
    """Whether any process uses the store in this folder."""
    with _alone_in(folder) as is_alone:
        return not is_alone


def remove_folder(folder: Path, *, force: bool = False) -> bool:
    """Remove a store that nobody uses, or by force any; return whether it is gone."""
    with _alone_in(folder) as is_alone:
        if is_alone or force:
            # Whoever waits for `users` then sees that it is another file, and makes the folder again.
            shutil.rmtree(folder, ignore_errors=True)
        return not folder.exists()


def sweep(memory: Path) -> list[Path]:
    """Remove the stores that nobody uses and nobody asked to stay; return their folders."""
    return [folder for folder in store_folders(memory) if not (folder / _STAYS).exists() and remove_folder(folder)]


def sweep_disk_tables(memory: Path) -> None:
    """Remove the tables of disk tiers that nobody uses; they are made again from their files."""
    for folder in store_folders(memory):
        if folder.name.startswith(DISK_PREFIX):
            remove_folder(folder)


def store_folders(memory: Path) -> list[Path]:
    """All stores of this user in a file system in memory; whatever else lies there is none, and left alone."""
    root = stores_folder(memory)
    found = private_folder(root).iterdir() if os.path.isdir(root) else ()
    return sorted(path for path in found if path.is_dir() and not path.is_symlink())


@contextlib.contextmanager
def _alone_in(folder: Path) -> Iterator[bool]:
    try:
        descriptor = _open_users(folder)
    except FileNotFoundError:
        yield True
        return
    except StoreError:  # nobody can tell who uses it
        yield False
        return
    try:
        yield try_lock(descriptor, fcntl.LOCK_EX)
    finally:
        os.close(descriptor)


def _open_users(folder: Path) -> int:
    try:
        return os.open(folder / _USERS, _OPEN, 0o600)
    except OSError as error:
        if error.errno not in _OTHER_THAN_A_FILE:
            raise
        raise StoreError(
            f"{folder / _USERS}, which tells who uses the store, cannot be opened ({error.strerror}): remove it"
        ) from error


def _is_at(descriptor: int, path: Path) -> bool:
    ours = os.fstat(descriptor)
    with contextlib.suppress(FileNotFoundError):
        there = path.stat()
        return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)
    return False
