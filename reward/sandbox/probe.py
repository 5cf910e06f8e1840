"""Find out what this machine's sandbox holds back, by trying it."""

from __future__ import annotations

import contextlib
import functools
import glob
import os
import socket
import tempfile
import uuid
from collections.abc import Mapping
from dataclasses import dataclass

from reward.sandbox.launch import Limits, Method, SandboxError, methods, run_sandboxed

# Where nothing is contained these run for real: they touch no file but their own, which they make and remove.
# Each program prints the names of the hazards that it found contained; one that cannot even run contains nothing.
_LOOK = """
import os, socket, errno, ctypes, resource, sys
def refused(*kinds):
    for family, address in kinds:
        try:
            socket.socket(family, socket.SOCK_STREAM).connect(address)
            return False
        except OSError: pass
    return True
if refused((socket.AF_INET, ("127.0.0.1", PORT)), (socket.AF_UNIX, ABSTRACT)): print("network")
if set(os.environ) <= {"PATH", "HOME", "LANG", "LC_CTYPE", "PWD", "PYTHONUTF8", "PYTHONHASHSEED"}: print("environment")
def hidden(path):
    try:
        os.close(os.open(path, os.O_RDONLY)); return False
    except OSError: return True
if all(map(hidden, (FILE, "/etc/passwd", os.path.expanduser("~root")))): print("files")
def locked(path):
    try:
        open(path, "x").close()
    except OSError: return True
    os.unlink(path)
    return False
if all(locked(os.path.join(place, "probe-" + MARK)) for place in ("/", "/usr/lib", "/dev", FOLDER)): print("writes")
def bounded():
    written = []
    try:
        for number in range(8):
            written.append(f"/tmp/probe-{MARK}-{number}")
            with open(written[-1], "xb") as file: file.write(bytes(1 << 20))
        return False
    except OSError: return True
    finally:
        for name in written:
            try: os.unlink(name)
            except OSError: pass
if bounded(): print("disk")
def unseen():
    try: os.kill(PARENT, 0)
    except ProcessLookupError: pass
    except PermissionError: pass
    else: return False
    return True
if unseen(): print("signals")
libc = ctypes.CDLL(None, use_errno=True)
if libc.ptrace(16, os.getppid() or PARENT, 0, 0) == -1 and ctypes.get_errno() == errno.EPERM: print("ptrace")
def private():
    try: return str(PARENT) not in os.listdir("/proc")
    except OSError: return True
if private(): print("proc")
"""

_FORK = """
import os, time
for _ in range(30):
    if os.fork() == 0: time.sleep(3)
time.sleep(1)
print("survived")
"""

_ALLOCATE = """
import os, time
for _ in range(4):
    if os.fork() == 0:
        held = b"x" * (24 << 20); time.sleep(3)
time.sleep(3)
"""

_DAEMON = """
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        time.sleep(3)
    os._exit(0)
"""

HAZARDS = {
    "network": "connections, to this machine or beyond",
    "environment": "reading the environment",
    "files": "reading the home folder, /etc and other files",
    "writes": "writing outside of /tmp",
    "disk": "filling the disk",
    "signals": "signals to other processes",
    "ptrace": "reading or changing the memory of other processes",
    "proc": "looking at other processes in /proc",
    "processes": "a fork bomb",
    "memory": "memory of several processes together",
    "time": "running for ever",
    "daemons": "processes that stay behind",
}


@dataclass(frozen=True)
class Probe:
    """What a way of isolating contains here.

    Attributes:
        method: the way.
        contained: names of `HAZARDS` that were tried and held back.
        uncontained: the others.
        why: what the system said where the sandbox could not be made.
    """

    method: Method
    contained: tuple[str, ...]
    uncontained: tuple[str, ...]
    why: str = ""


def probe(method: Method) -> Probe:
    """Try every hazard in a sandbox of this method; takes under a second."""
    try:
        found = _look(method) | _try_resources(method)
    except SandboxError as error:
        return Probe(method, (), tuple(HAZARDS), str(error))
    contained = tuple(name for name in HAZARDS if name in found)
    return Probe(method, contained, tuple(name for name in HAZARDS if name not in found))


@functools.cache
def choose_method() -> Method:
    """Return the first way that contains every hazard on this machine; the answer is kept for this process.

    Raises:
        SandboxError: there is none; the message lists what is not contained, and what to do.
    """
    probes = [probe(method) for method in methods()]
    for result in probes:
        if not result.uncontained:
            return result.method
    raise SandboxError(_refusal(probes))


def _refusal(probes: list[Probe]) -> str:
    tried = "; ".join(
        f"{result.method}: {result.why or 'not contained: ' + ', '.join(result.uncontained)}" for result in probes
    )
    hazards = "".join(f"\n  {name}: {text}" for name, text in HAZARDS.items() if _open(name, probes))
    return (
        f"model-written code does not run here: this machine offers no isolation ({tried or 'Linux only'}). Not "
        f"contained:{hazards}\nInstall bubblewrap (Debian: apt-get install bubblewrap), or allow user namespaces "
        "(sysctl user.max_user_namespaces and, on Ubuntu, kernel.apparmor_restrict_unprivileged_userns=0; in a "
        "container: --security-opt seccomp=unconfined, or --privileged). On a machine where nothing can be lost, the "
        "option `uncontained: true` runs it all the same."
    )


def _open(name: str, probes: list[Probe]) -> bool:
    return all(name in result.uncontained for result in probes)


def _look(method: Method) -> set[str]:
    """Run the program that tries what a single process can reach."""
    address = f"\0posttrain-probe-{os.getpid()}"
    with (
        socket.create_server(("127.0.0.1", 0)) as internet,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as local,
        tempfile.TemporaryDirectory() as folder,
        tempfile.NamedTemporaryFile(dir=folder) as file,
    ):
        local.bind(address)
        local.listen(8)
        told = {
            "PORT": internet.getsockname()[1],
            "ABSTRACT": address,
            "FILE": file.name,
            "FOLDER": folder,
            "PARENT": os.getpid(),
            "MARK": uuid.uuid4().hex,
        }
        return _found(method, "".join(f"{name} = {value!r}\n" for name, value in told.items()) + _LOOK)


def _found(method: Method, source: str) -> set[str]:
    report = run_sandboxed(method, Limits(timeout_s=5.0, disk_mb=4), _request(source))
    return set(report.get("stdout", "").split())


def _try_resources(method: Method) -> set[str]:
    fork = run_sandboxed(method, Limits(timeout_s=2.0, num_processes=8), _request(_FORK))
    memory = run_sandboxed(method, Limits(timeout_s=2.0, memory_mb=64), _request(_ALLOCATE))
    spin = run_sandboxed(method, Limits(timeout_s=0.05), _request("while True: pass"))
    outcomes: Mapping[str, bool] = {
        "processes": "survived" not in fork.get("stdout", ""),
        "memory": memory.get("kind") == "memory",
        "time": spin.get("kind") == "timeout",
        "daemons": _daemon_ends(method),
    }
    return {name for name, held in outcomes.items() if held}


def _daemon_ends(method: Method) -> bool:
    """Tell whether a double-forked process is gone when the sandbox is, by a mark in its command line."""
    mark = f"probe-{uuid.uuid4().hex}"
    run_sandboxed(method, Limits(timeout_s=2.0), _request(_DAEMON), mark=mark)
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        with contextlib.suppress(OSError), open(path, "rb") as file:
            if mark.encode() in file.read():
                return False
    return True


def _request(source: str) -> dict[str, str]:
    return {"mode": "program", "source": source, "stdin": ""}
