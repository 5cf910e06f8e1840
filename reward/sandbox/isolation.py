"""Make a place of its own for a process: namespaces, a small read-only file system, no privileges.

Runs in the child, with the standard library alone. Two ways lead to the same place: namespaces made here (as root, or
in a user namespace), or those of bubblewrap, which `bubblewrap_command` asks for.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import sys
from collections.abc import Mapping

_NEWNS, _NEWUTS, _NEWIPC, _NEWUSER, _NEWPID, _NEWNET = (1 << bit for bit in (17, 26, 27, 28, 29, 30))
_MS_RDONLY, _MS_NOSUID, _MS_NODEV, _MS_REMOUNT, _MS_BIND, _MS_REC, _MS_PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
_MNT_DETACH = 2
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 1, 4, 24, 38
_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_MOUNT_SETATTR, _AT_FDCWD, _AT_RECURSIVE = 442, -100, 0x8000
_FIRST_UNUSED_UID = 2_000_000_000
"""Beyond the ranges that users, services and containers are given."""
DEVICES = ("null", "zero", "full", "random", "urandom")

_libc = ctypes.CDLL(None, use_errno=True)


def read_only_paths() -> list[str]:
    """Return what a Python program needs to see: its standard library, and the shared libraries of the system."""
    paths = [os.path.dirname(os.__file__), os.path.realpath(sys.executable)]
    paths += [f"{sys.base_prefix}/lib"] if sys.base_prefix not in ("/usr", "/") else []
    paths += ["/usr/lib", "/usr/lib64", "/lib", "/lib64"]
    kept: list[str] = []
    for path in sorted((path for path in dict.fromkeys(paths) if os.path.exists(path)), key=len):
        if not any(path == other or path.startswith(f"{other}/") for other in kept):
            kept.append(path)
    return kept


def bubblewrap_command(disk_mb: int) -> list[str]:
    """Return the command, up to the program, that makes the same place with bubblewrap."""
    command = ["bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--as-pid-1", "--cap-drop", "ALL"]
    command += ["--proc", "/proc", "--size", str(disk_mb << 20), "--perms", "1777", "--tmpfs", "/tmp"]
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    # After /tmp, which would hide a project that lies below it.
    for path in [*read_only_paths(), package]:
        target = os.readlink(path) if os.path.islink(path) else None
        command += ["--symlink", target, path] if target else ["--ro-bind", path, path]
    for device in DEVICES:
        command += ["--dev-bind", f"/dev/{device}", f"/dev/{device}"]
    return [*command, "--symlink", "/tmp", "/dev/shm", "--remount-ro", "/", "--chdir", "/tmp"]


def enter_namespaces(disk_mb: int) -> int:
    """Take this process into new namespaces with a file system of their own, and return an opened /proc of theirs.

    Forks: the caller goes on as the first process of a new process namespace, the original waits for it and ends as it
    ends.

    Raises:
        OSError: the system does not allow it.
    """
    is_root = os.geteuid() == 0
    uid, gid = (_FIRST_UNUSED_UID + os.getpid(),) * 2 if is_root else (os.getuid(), os.getgid())
    _unshare(is_root, uid, gid)
    _fork_and_wait()
    proc = _file_system(disk_mb)
    if is_root:
        # An id that nobody else has: the limit on processes does not hold for root, and counts per user.
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    return proc


def _unshare(is_root: bool, uid: int, gid: int) -> None:
    flags = _NEWNS | _NEWUTS | _NEWIPC | _NEWPID | _NEWNET | (0 if is_root else _NEWUSER)
    _check(_libc.unshare(flags), "unshare")
    if not is_root:
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)


def _fork_and_wait() -> None:
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) & 0xFF)
    _libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0)


def _file_system(disk_mb: int) -> int:
    """Build the new root in memory, with the old one aside while things are bound from it, then let the old one go."""
    paths = {path: os.readlink(path) if os.path.islink(path) else None for path in read_only_paths()}
    _mount(None, "/", None, _MS_REC | _MS_PRIVATE)
    _mount("tmpfs", "/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=0755")
    for name in ("old", "new"):
        os.mkdir(f"/tmp/{name}")
    os.chdir("/tmp")
    number = _PIVOT_ROOT.get(os.uname().machine)
    if number is None:
        raise OSError(38, f"pivot_root is not known for {os.uname().machine}")
    _check(_libc.syscall(number, b"/tmp", b"/tmp/old"), "pivot_root")
    os.chdir("/")
    _mount("tmpfs", "/new", "tmpfs", _MS_NOSUID | _MS_NODEV, "size=1m,mode=0755")
    _fill(paths)
    os.mkdir("/new/proc")
    _mount("proc", "/new/proc", "proc", _MS_NOSUID | _MS_NODEV)
    proc = os.open("/new/proc", os.O_RDONLY | os.O_DIRECTORY)
    _check(_libc.umount2(b"/new/proc", _MNT_DETACH), "umount /proc")  # the answer gets none; the watcher keeps this one
    _check(_libc.syscall(number, b"/new", b"/new/tmp"), "pivot_root")
    _check(_libc.umount2(b"/tmp", _MNT_DETACH), "umount the old root")
    _mount("tmpfs", "/tmp", "tmpfs", _MS_NOSUID | _MS_NODEV, f"size={disk_mb}m,nr_inodes=4096,mode=1777")
    _mount(None, "/", None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | _MS_NOSUID)
    os.chdir("/tmp")
    return proc


def _fill(paths: Mapping[str, str | None]) -> None:
    """Bind what a program needs from the old root, at /old, into the new one, at /new."""
    for path, link in paths.items():
        place = f"/new{path}"
        os.makedirs(os.path.dirname(place), exist_ok=True)
        if link is not None:
            os.symlink(link, place)
            continue
        _place_for(place, is_folder=os.path.isdir(f"/old{path}"))
        _mount(f"/old{path}", place, None, _MS_BIND | _MS_REC)
        _read_only(place)
    os.mkdir("/new/dev")
    for device in DEVICES:
        _place_for(f"/new/dev/{device}", is_folder=False)
        _mount(f"/old/dev/{device}", f"/new/dev/{device}", None, _MS_BIND)
    os.symlink("/tmp", "/new/dev/shm")
    os.mkdir("/new/tmp")


def _place_for(path: str, is_folder: bool) -> None:
    if is_folder:
        os.mkdir(path)
    else:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o644))


def _read_only(path: str) -> None:
    attributes = (ctypes.c_uint64 * 4)(1 | 2 | 4, 0, 0, 0)  # read-only, no set-uid, no devices
    done = _libc.syscall(_MOUNT_SETATTR, _AT_FDCWD, path.encode(), _AT_RECURSIVE, attributes, ctypes.sizeof(attributes))
    _check(done, f"make {path} read-only")


def drop_privileges() -> None:
    """Give up all capabilities for good, and keep other processes of the same user out of this one's memory."""
    for capability in range(64):
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    _check(_libc.capset(header, (ctypes.c_uint32 * 6)()), "capset")
    set_dumpable(False)
    _libc.prctl(_PR_SET_PDEATHSIG, 9, 0, 0, 0)  # a change of user has cleared it


def set_dumpable(value: bool) -> None:
    """Let processes of the same user look into this one's memory, or not."""
    _libc.prctl(_PR_SET_DUMPABLE, int(value), 0, 0, 0)


def limit_resources(timeout_s: float, memory_mb: int, num_processes: int, disk_mb: int) -> None:
    """Set the limits of one process; those on the whole sandbox are the watcher's."""
    seconds = int(timeout_s) + 2
    for kind, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_AS, memory_mb << 20),
        (resource.RLIMIT_FSIZE, disk_mb << 20),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
        (resource.RLIMIT_NPROC, num_processes),
    ):
        with contextlib.suppress(ValueError):  # a limit of ours above one that already holds changes nothing
            resource.setrlimit(kind, (value, value))


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str = "") -> None:
    texts = (None if text is None else text.encode() for text in (source, target, kind))
    _check(_libc.mount(*texts, ctypes.c_ulong(flags), options.encode()), f"mount {target}")


def _check(result: int, what: str) -> None:
    if result:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")
