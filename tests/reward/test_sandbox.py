"""What a program tries in the sandbox is held back, in every way of isolating that this machine has."""

import functools
import glob
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from reward.sandbox import launch, probe
from reward.sandbox.launch import Limits, SandboxError, run_sandboxed
from reward.sandbox.probe import HAZARDS

METHODS = [method for method in ("namespaces", "bubblewrap") if method in launch.methods()]
ABSENT = [method for method in ("namespaces", "bubblewrap") if method not in METHODS]


probed = functools.cache(probe.probe)


SKIPPED = [pytest.param(name, marks=pytest.mark.skip(f"{name}: not installed, or not for root")) for name in ABSENT]


@pytest.fixture(params=[*METHODS, *SKIPPED])
def method(request):
    found = probed(request.param)
    if not found.contained:
        pytest.skip(f"this machine allows no {request.param}: {found.why}")
    return request.param


def run(method, source, stdin="", mark="", **limits):
    began = time.monotonic()
    told = run_sandboxed(
        method,
        Limits(**{"timeout_s": 5.0, **limits}),
        {"mode": "program", "source": source, "stdin": stdin},
        mark=mark,
    )
    return {**told, "wall": time.monotonic() - began}


def left_behind(mark):
    found = []
    for path in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            if mark.encode() in Path(path).read_bytes():
                found.append(path)
        except OSError:
            pass
    return found


def test_an_ordinary_program_reads_and_writes(method):
    source = "import sys\nfor line in sys.stdin: print(int(line) * 2)\nprint('é', file=sys.stderr)"
    told = run(method, source, "1\n21\n")
    assert (told["exit"], told["stdout"], told["stderr"]) == (0, "2\n42\n", "é\n")


def test_much_goes_in_and_comes_out(method):
    told = run(method, "import sys\ntext = sys.stdin.read()\nprint(text[::-1], end='')", "ab" * 200_000)
    assert told["stdout"] == "ba" * 200_000


def test_libraries_that_answers_use_work(method):
    told = run(
        method,
        "import asyncio, threading, decimal, json, random, tempfile, hashlib, sqlite3\n"
        "async def f(): await asyncio.sleep(0); return 3\n"
        "thread = threading.Thread(target=print, args=('thread',)); thread.start(); thread.join()\n"
        "open(tempfile.mktemp(), 'w').write('x')\n"
        "print(asyncio.run(f()), hashlib.sha256(b'').hexdigest()[:4])",
    )
    assert told["stdout"] == "thread\n3 e3b0\n", told


def test_exit_codes_and_classes(method):
    assert run(method, "import sys; sys.exit(7)")["exit"] == 7
    assert run(method, "x = 1 +")["exit"] == 103
    assert run(method, "x = bytearray(1 << 31)")["exit"] == 101
    assert run(method, "open('/usr/lib/mine', 'w')")["exit"] == 102
    assert run(method, "import os; os.kill(os.getpid(), 9)")["exit"] == -9


def test_the_hash_seed_is_fixed(method):
    assert len({run(method, "print(hash('a'))")["stdout"] for _ in range(3)}) == 1


# ---------------------------------------------------------------- hazards


def test_every_hazard_of_the_probe_is_contained_here(method):
    found = probed(method)
    assert (found.contained, found.uncontained) == (tuple(HAZARDS), ())


def test_the_deadline_holds(method):
    for source in ("while True: pass", "import time; time.sleep(60)", "import os; os.kill(os.getpid(), 19)"):
        told = run(method, source, timeout_s=0.7)
        assert told["kind"] == "timeout" and 0.7 <= told["seconds"] < 3.0  # within 0.5 s on a quiet machine: LOG.md


def test_a_fork_bomb_ends_and_leaves_nothing(method):
    mark = uuid.uuid4().hex
    told = run(method, "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass", mark=mark, timeout_s=1.0)
    assert told.get("kind") in ("timeout", "forbidden") and told["seconds"] < 3.5
    assert left_behind(mark) == []


def test_the_kernel_refuses_processes_beyond_the_limit(method):
    """Were it the watcher alone, a fork bomb would be faster."""
    told = run(
        method,
        "import os, time\nnumber = 0\ntry:\n    while number < 100:\n        if os.fork() == 0: time.sleep(9)\n"
        "        number += 1\nexcept BlockingIOError: print(number)\n",
        num_processes=20,
    )
    assert told.get("kind") == "forbidden" or 10 <= int(told["stdout"]) < 20, told


def test_a_daemon_forked_twice_dies_with_the_sandbox(method):
    mark = uuid.uuid4().hex
    told = run(
        method,
        "import os, time\nif os.fork() == 0:\n    os.setsid()\n    if os.fork() == 0: time.sleep(100)\n"
        "    os._exit(0)\n"
        "time.sleep(0.2)\nprint('done')",
        mark=mark,
    )
    assert told["stdout"] == "done\n" and told["wall"] < 5
    assert left_behind(mark) == []


def test_two_gigabytes_in_several_children_are_too_much(method):
    told = run(
        method,
        "import os, time\nfor _ in range(8):\n    if os.fork() == 0:\n        x = b'x' * (250 << 20); time.sleep(9)\n"
        "time.sleep(9)",
        memory_mb=300,
    )
    assert (told["kind"], told["passed"]) == ("memory", 0) and told["seconds"] < 10


def test_memory_outside_of_processes_is_bounded_too(method):
    told = run(
        method,
        "import os, errno\n"
        "try: os.memfd_create('x')\nexcept OSError as error: print(errno.errorcode[error.errno])\n"
        "written = 0\n"
        "try:\n"
        "    for number in range(100):\n"
        "        with open(f'/tmp/{number}', 'wb') as file: written += file.write(bytes(1 << 20))\n"
        "except OSError as error: print(errno.errorcode[error.errno], written >> 20)\n",
        disk_mb=8,
    )
    first, second = told["stdout"].splitlines()
    assert first == "EPERM" and second.split()[0] == "ENOSPC" and 6 <= int(second.split()[1]) <= 8


def test_a_huge_file_is_refused(method):
    told = run(method, "with open('/tmp/x', 'wb') as file:\n    while True: file.write(bytes(1 << 20))", disk_mb=8)
    assert told["exit"] == 102 and ("EFBIG" in told["stderr"] or "No space" in told["stderr"] or "File too large" in
                                    told["stderr"])  # fmt: skip


def test_a_gigabyte_of_output_is_cut(method):
    told = run(method, "while True: print('x' * 1_000_000)", output_kb=64)
    assert told["kind"] == "forbidden" and len(told["stdout"]) == 64 << 10 and told["wall"] < 5


def test_no_file_of_the_user_or_the_system_can_be_read(method, tmp_path):
    (tmp_path / "secret").write_text("secret")
    places = [str(tmp_path / "secret"), "/etc/passwd", "/etc/shadow", os.path.expanduser("~"), "/root", "/home", "/var",
              str(Path(__file__)), "/proc/1/environ", "/sys", "/dev/kmsg", "/dev/mem"]  # fmt: skip
    told = run(method, f"import os\nfor place in {places!r}:\n    try: print(place, open(place, 'rb').read())\n"
                       "    except OSError: pass\nprint(sorted(os.environ))")  # fmt: skip
    printed = told["stdout"].splitlines()
    assert len(printed) == 1 or all("environ" in line for line in printed[:-1]), told["stdout"]
    assert set(eval(printed[-1])) <= {"HOME", "LANG", "LC_CTYPE", "PATH", "PWD", "PYTHONHASHSEED", "PYTHONUTF8"}


def test_only_tmp_can_be_written(method):
    told = run(
        method,
        "import os\n"
        "for root, folders, files in os.walk('/'):\n"
        "    folders[:] = folders[:20]\n"
        "    if root.startswith(('/tmp', '/proc', '/dev/shm')): continue\n"
        "    try: open(root + '/written', 'w'); print(root)\n"
        "    except OSError: pass\n",
    )
    assert told["stdout"] == ""


def test_no_connection_gets_out(method):
    address = f"\0posttrain-test-{uuid.uuid4().hex}"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind(address)
        local.listen()
        told = run(
            method,
            "import socket\n"
            f"for family, kind, address in ((2, 1, ('127.0.0.1', {server.getsockname()[1]})), (1, 1, {address!r}),\n"
            "                              (2, 2, ('127.0.0.1', 9)), (10, 1, ('::1', 9)), (40, 1, (2, 9))):\n"
            "    try:\n"
            "        socket.socket(family, kind).connect(address)\n"
            "        print('connected', family)\n"
            "    except OSError as error: print(error.errno)\n",
        )
    assert told["stdout"].split() == ["1"] * 5, told  # EPERM


def test_other_processes_are_out_of_reach(method):
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        told = run(
            method,
            "import ctypes, os, signal\n"
            f"for number in ({bystander.pid}, {os.getpid()}, 1, -1):\n"
            "    try: os.kill(number, signal.SIGKILL)\n"
            "    except OSError: pass\n"
            "libc = ctypes.CDLL(None, use_errno=True)\n"
            f"for number in ({bystander.pid}, {os.getpid()}, 1):\n"
            "    print(libc.ptrace(16, number, 0, 0), ctypes.get_errno())\n"
            f"print(os.path.exists('/proc/{bystander.pid}/status') or os.path.exists('/proc/{os.getpid()}/status'))\n",
        )
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()
    assert told["stdout"] == "-1 1\n-1 1\n-1 1\nFalse\n", told


def test_privileges_and_namespaces_cannot_be_regained(method):
    told = run(
        method,
        "import ctypes, os\n"
        "libc = ctypes.CDLL(None, use_errno=True)\n"
        "print(libc.unshare(0x10000000), ctypes.get_errno(), libc.chroot(b'/tmp'), ctypes.get_errno())\n"
        "print(libc.mount(b'x', b'/tmp', b'tmpfs', 0, 0), ctypes.get_errno())\n"
        "try: os.setuid(0)\n"
        "except PermissionError: print('stays')\n"
        "else: print(os.getuid())\n",
    )
    assert told["stdout"].splitlines()[:2] == ["-1 1 -1 1", "-1 1"]
    assert "stays" in told["stdout"] or (method == "bubblewrap" and told["stdout"].endswith("0\n"))


def test_it_works_from_a_thread(method):
    told = []
    thread = threading.Thread(target=lambda: told.append(run(method, "print(3)")))
    thread.start()
    thread.join(60)
    assert told[0]["stdout"] == "3\n"


def interpreter_for_others():
    """An interpreter that a user without a home can start: ours, or the system's."""
    for path in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        command = [path, "-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
        try:
            if subprocess.run(command, user=NOBODY, group=NOBODY, extra_groups=[], env={}, cwd="/").returncode == 0:
                return path
        except OSError:
            continue
    return None


NOBODY = 65534


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run as an ordinary user already")
@pytest.mark.parametrize("method", ["namespaces", "bubblewrap"])
def test_an_ordinary_user_is_held_as_well_as_root(method):
    if method == "bubblewrap" and shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    interpreter = interpreter_for_others()
    if interpreter is None:
        pytest.skip("no interpreter of 3.11 or newer that an ordinary user can start")
    root = str(Path(launch.__file__).parents[2])
    code = (
        f"import sys; sys.path.insert(0, {root!r})\n"
        "from reward.sandbox.probe import probe\n"
        "from reward.sandbox.run import run_tests\n"
        "from reward.sandbox.launch import Limits\n"
        f"found = probe({method!r}); print(found.uncontained, found.why)\n"
        f"print(run_tests('def f(x): return x', ['assert f(1) == 1'], {method!r}, Limits()).kind)\n"
        "import os; print(os.getuid())\n"
    )
    told = subprocess.run(
        [interpreter, "-B", "-c", code], user=NOBODY, group=NOBODY, extra_groups=[], cwd="/", capture_output=True,
        text=True, env={"PATH": os.environ["PATH"]},
    )  # fmt: skip
    if "Permission" in told.stderr:
        pytest.skip("this checkout cannot be read by an ordinary user")
    assert told.stdout == f"() \npassed\n{NOBODY}\n", told


# ---------------------------------------------------------------- refusal


def test_a_machine_without_isolation_is_refused_with_its_hazards_and_a_remedy(monkeypatch):
    monkeypatch.setattr(probe, "methods", lambda: [])
    probe.choose_method.cache_clear()
    with pytest.raises(SandboxError) as caught:
        probe.choose_method()
    probe.choose_method.cache_clear()
    for text in (*HAZARDS.values(), "apt-get install bubblewrap", "uncontained: true"):
        assert text in str(caught.value)


def test_what_no_isolation_holds_back_is_measured():
    found = probe.probe("none")
    assert "files" in found.uncontained and "signals" in found.uncontained and "time" in found.contained


def test_a_probe_takes_about_a_second(method):
    began = time.monotonic()
    probe.probe(method)
    assert time.monotonic() - began < 5  # 0.5 s on a quiet machine


def test_a_sandbox_that_cannot_be_made_says_why(monkeypatch):
    monkeypatch.setattr(launch, "bubblewrap_command", lambda disk_mb: ["/nowhere/bwrap"])
    with pytest.raises(SandboxError, match="cannot be started"):
        run_sandboxed("bubblewrap", Limits(), {"mode": "program", "source": "", "stdin": ""})
