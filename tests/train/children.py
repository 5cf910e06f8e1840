"""Trainings in child processes, by the real command, and hooks that kill them where production code has no hook."""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time

_CONTEXT = multiprocessing.get_context("forkserver")
# Imported once; each child is a fork of a process that has done nothing else.
_CONTEXT.set_forkserver_preload(["posttrain.train.sft", "posttrain.train.dpo", "posttrain.commands.files"])


def start(arguments, log, hook=None, *values):
    """Start `posttrain ARGUMENTS` in a child whose output goes to the file `log`; `hook(*values)` runs first."""
    child = _CONTEXT.Process(target=_main, args=([str(item) for item in arguments], str(log), hook, values))
    child.start()
    return child


def finish(child):
    """Wait for a child and return its exit code, negative for a signal."""
    child.join(60)
    assert not child.is_alive(), "the child hangs"
    return child.exitcode


def _main(arguments, log, hook, values):
    with open(log, "ab") as file:
        for descriptor in (1, 2):
            os.dup2(file.fileno(), descriptor)
    import torch

    from posttrain.cli import main

    torch.set_num_threads(1)
    if hook is not None:
        hook(*values)
    sys.exit(main(arguments))


def _before(owner, name, act):
    """Let `act(number of the call)` run before each call of a function."""
    whole, calls = getattr(owner, name), []

    def wrapped(*args, **kwargs):
        calls.append(name)
        act(len(calls))
        return whole(*args, **kwargs)

    setattr(owner, name, wrapped)


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


def _die_at(count):
    return lambda number: _die() if number == count else None


def die_in_forward(count):
    """Die before the `count`-th forward pass."""
    from posttrain.train.dpo import DPOTrainer
    from posttrain.train.sft import SFTTrainer

    for owner in (SFTTrainer, DPOTrainer):
        _before(owner, "batch_loss", _die_at(count))


def die_at_epoch_end(count):
    from transformers.trainer_callback import CallbackHandler

    _before(CallbackHandler, "on_epoch_end", _die_at(count))


def die_in_save(count):
    """Die inside the `count`-th checkpoint, when the model's file is written and the optimizer's is not."""
    from transformers import Trainer

    _before(Trainer, "_save_optimizer_and_scheduler", _die_at(count))


def die_in_final_save():
    from posttrain.train import saving

    _before(saving, "save_model", _die_at(1))


def fill_disk_after_first_checkpoint(num_bytes):
    """Let no file grow beyond `num_bytes` once a checkpoint is there: the system says EFBIG, a full disk ENOSPC."""
    from posttrain.train import resumable

    whole = resumable.publish

    def publish(*args):
        whole(*args)
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    resumable.publish = publish


def slow_down(seconds):
    """Let each forward pass take a while, so that a signal comes in the midst of training."""
    from posttrain.train.sft import SFTTrainer

    # A shell or a test may have started this process with SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _before(SFTTrainer, "batch_loss", lambda number: time.sleep(seconds))
