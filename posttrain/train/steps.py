"""Make the optimizer steps of a run that are still to be made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from posttrain.train.checkpoints import FOLDER, step_of
from posttrain.train.errors import TrainError, TrainingInterrupted
from posttrain.train.resumable import CountOn, ResumableTrainer
from posttrain.train.stop import StopAtStep, StopRequest
from posttrain.train.trackers import Trackers


def make_steps(trainer: ResumableTrainer, checkpoint: Path | None, out_dir: Path, report_to: Sequence[str]) -> None:
    """Train from a checkpoint, or from the start, to the last step.

    Args:
        checkpoint: a whole checkpoint of this run, or None.
        out_dir: folder of the run.
        report_to: experiment trackers to show it to.

    Raises:
        TrainingInterrupted: a signal came; a checkpoint holds the state after the step under way.
        TrainError: fewer steps were made than asked.
    """
    last = trainer.args.max_steps
    if checkpoint is not None and step_of(checkpoint) >= last:
        # All that is left is to save. transformers would make one more step where that is not an epoch's end.
        trainer._load_from_checkpoint(str(checkpoint))
        trainer.state.global_step = step_of(checkpoint)
        return
    if checkpoint is not None:
        trainer.add_callback(CountOn(trainer, checkpoint))
    shown = report_to if trainer.is_world_process_zero() else ()
    with StopRequest() as request, Trackers(shown, out_dir) as trackers:
        stop = StopAtStep(request, trainer.accelerator.reduce, trainer.saves_checkpoints)
        trainer.add_callback(stop)
        trainer.add_callback(trackers)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if stop.step is not None:
        kept = f"that state is in {out_dir / FOLDER}. The same command goes on from there."
        lost = "this kind of run cannot write checkpoints. The same command starts anew."
        raise TrainingInterrupted(
            f"{request.asked or 'a signal'} came: training stopped after step {stop.step} of {last}, and "
            f"{kept if trainer.saves_checkpoints else lost}"
        )
    if trainer.state.global_step != last:
        raise TrainError(f"training ended after {trainer.state.global_step} of {last} steps; nothing was saved.")


def forget_moments(trainer: ResumableTrainer) -> None:
    """Free the moments of Adam once the last step is made: room for the model to be read back."""
    if trainer.optimizer is not None:  # none is made where only the save was left to do
        trainer.optimizer.state.clear()
