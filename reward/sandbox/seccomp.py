"""A seccomp filter: system calls that no answer needs and that reach beyond the sandbox are refused.

Numbers are those of the kernel's tables (arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/asm-generic/unistd.h).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from typing import NamedTuple


class Architecture(NamedTuple):
    """What the filter needs to know of a machine: its audit number, and the numbers of the calls refused."""

    audit: int
    clone: int
    socketpair: int
    refused: tuple[int, ...]


# The same number on every architecture: pidfd_send_signal, io_uring ×3, the new mount calls, pidfd_getfd,
# mount_setattr, memfd_secret.
_COMMON = (424, 425, 426, 427, 428, 429, 430, 431, 432, 433, 438, 442, 447)
_CLONE3 = 435

ARCHITECTURES = {
    # socket, msgget, semget, shmget, ptrace, syslog, personality, pivot_root, mount, umount2, chroot, add_key,
    # request_key, keyctl, unshare, perf_event_open, name_to_handle_at, open_by_handle_at, setns, process_vm_readv,
    # process_vm_writev, kcmp, memfd_create, bpf, userfaultfd
    "x86_64": Architecture(0xC000003E, 56, 53, (
        41, 68, 64, 29, 101, 103, 135, 155, 165, 166, 161, 248, 249, 250, 272, 298, 303, 304, 308, 310, 311, 312, 319,
        321, 323, *_COMMON)),
    "aarch64": Architecture(0xC00000B7, 220, 199, (
        198, 186, 190, 194, 117, 116, 92, 41, 40, 39, 51, 217, 218, 219, 97, 241, 264, 265, 268, 270, 271, 272, 279,
        280, 282, *_COMMON)),
}  # fmt: skip

_CLONE_NAMESPACES = 0x7E020080
"""CLONE_NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID and NEWNET."""

_AF_UNIX = 1
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_LOAD, _JUMP_EQUAL, _JUMP_AT_LEAST, _JUMP_ANY, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _AUDIT, _FIRST_ARGUMENT = 0, 4, 16


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


def restrict() -> None:
    """Refuse the listed calls to this process and to all that it starts, for good.

    Raises:
        OSError: the kernel has no seccomp filters, or the architecture is not in the table.
    """
    machine = ARCHITECTURES.get(os.uname().machine)
    if machine is None:
        raise OSError(errno.ENOSYS, f"no table of system calls for {os.uname().machine}")
    code = program(machine)
    held = ctypes.create_string_buffer(code, len(code))
    filter_ = _Program(len(code) // 8, ctypes.cast(held, ctypes.c_void_p))
    libc = ctypes.CDLL(None, use_errno=True)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(filter_)),
    ):
        if libc.prctl(*arguments):
            raise OSError(ctypes.get_errno(), "the kernel takes no seccomp filter")


def program(machine: Architecture) -> bytes:
    """Return the filter as classic BPF."""
    refuse, absent = _ERRNO | errno.EPERM, _ERRNO | errno.ENOSYS
    lines = [
        (_LOAD, 0, 0, _AUDIT),
        (_JUMP_EQUAL, 1, 0, machine.audit),
        (_RETURN, 0, 0, _KILL),  # 32-bit calls have other numbers
        (_LOAD, 0, 0, _NUMBER),
        (_JUMP_AT_LEAST, 0, 1, 0x40000000),
        (_RETURN, 0, 0, _KILL),  # x32 likewise
        # The flags of clone3 lie in memory, where no filter looks: without it the C library takes clone.
        (_JUMP_EQUAL, 0, 1, _CLONE3),
        (_RETURN, 0, 0, absent),
        (_JUMP_EQUAL, 0, 4, machine.clone),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_JUMP_ANY, 0, 1, _CLONE_NAMESPACES),
        (_RETURN, 0, 0, refuse),
        (_RETURN, 0, 0, _ALLOW),
        (_JUMP_EQUAL, 0, 4, machine.socketpair),
        (_LOAD, 0, 0, _FIRST_ARGUMENT),
        (_JUMP_EQUAL, 1, 0, _AF_UNIX),
        (_RETURN, 0, 0, refuse),
        (_RETURN, 0, 0, _ALLOW),
    ]
    for number in machine.refused:
        lines += [(_JUMP_EQUAL, 0, 1, number), (_RETURN, 0, 0, refuse)]
    lines.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *line) for line in lines)
