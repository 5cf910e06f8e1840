"""Direct preference optimisation, from a reference whose log-probs are computed once, before training.

Two changes of Llama 3 (2407.21783, 4.1.4) are in: format tokens are left out of both sides' log-probs, and a negative
log-likelihood term keeps the chosen answers likely. The paper does not say how that term is normalised, nor whether it
skips format tokens: here it is a mean over all learned tokens of the chosen answers in the global batch, the end of
turn among them, since the term is there to keep the format.

Shapes: B pairs, N learned positions of both sides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from torch import Tensor, nn

from posttrain.config import DPOConfig, Execution
from posttrain.core.chat import load_tokenizer
from posttrain.core.formats import check_rows
from posttrain.core.models import check_model_dir, model_hash
from posttrain.train.batches import Array, EpochLoader, whole_pass
from posttrain.train.checkpoints import FOLDER
from posttrain.train.errors import TrainError
from posttrain.train.fingerprint import fingerprint
from posttrain.train.forward import Forward, prepare_forward
from posttrain.train.guards import PreferenceWatch
from posttrain.train.kinds import Progress
from posttrain.train.launch import launch, needs_launch
from posttrain.train.loop import Batch, ExactTrainer
from posttrain.train.losses import loss_at_reference, preference_losses, sum_by_row
from posttrain.train.pairs import SIDES, PairCollator, tokenize_pairs
from posttrain.train.reference import compute_reference, find_reference, reference_key, write_reference
from posttrain.train.shared import in_shares, tokenized
from posttrain.train.start import starting_policy
from posttrain.train.trainer import (
    DEFAULT_EXECUTION,
    Job,
    lora_arguments,
    make_loader,
    plan_steps,
    restore_forward,
    run,
    training_arguments,
)


def train_dpo(
    model_dir: str | Path,
    rows: Iterable[Mapping[str, Any]],
    out_dir: str | Path,
    config: DPOConfig,
    seed: int,
    execution: Execution = DEFAULT_EXECUTION,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a policy on preference pairs and write it to a folder.

    The reference is the model in `model_dir`: with base and SFT adapter in that folder it is the SFT policy, never
    the base under it.

    Args:
        model_dir: Hugging Face folder, or a folder of adapters, to start from.
        rows: rows with `prompt`, `chosen`, `rejected`.
        out_dir: receives the model, metrics.jsonl and, with LoRA, the adapters.
        seed: the run's seed; `config.seed` wins.
        progress: called with (steps done, steps in all).

    Returns:
        Counts of rows, the last logged metrics, and the time.

    Raises:
        DataError: rows that cannot be used, all of them listed, before weights are loaded.
        TrainError: the run would be, or went, wrong.
    """
    job = Job(Path(model_dir), Path(out_dir), config, seed, execution, progress)
    rows = list(rows)
    check_rows(rows, "preference", "training rows")
    check_model_dir(job.model_dir)
    tokenizer = load_tokenizer(job.model_dir)
    dataset, intake = tokenized(lambda: tokenize_pairs(rows, tokenizer, config, config.mask_format_tokens))
    if needs_launch(execution):
        tokens = (dataset, intake)
        return launch("dpo", model_dir, None, rows, out_dir, config, seed, execution, progress, tokens)
    identity = fingerprint(dataset)
    job.seed_everything()
    model = starting_policy(job)
    forward, collate = prepare_forward(model, partial(PairCollator, dataset, tokenizer.pad_token_id))
    reference = reference_of(model, forward, collate, identity, job)
    collate = PairCollator(dataset, tokenizer.pad_token_id, forward.packs, reference)
    plan = plan_steps(len(dataset), config)
    trainer = DPOTrainer(
        model=model,
        # With this flag TRL keeps no reference model in memory; ours replaces what it would compute.
        # What it would do against dropout is done (noise_off.py), and would take that of the adapters as well.
        args=training_arguments(
            trl.DPOConfig, job, plan, max_length=None, precompute_ref_log_probs=True, disable_dropout=False
        ),
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=lora_arguments(job, model, "CAUSAL_LM"),
    )
    restore_forward(trainer.model)
    trainer.prepare_loop(config, make_loader(job, plan, collate, forward), forward)
    trainer.check_start(job)
    return run(job, trainer, tokenizer, intake, identity, collate.probe())


def reference_of(model: Any, forward: Forward, collate: PairCollator, rows: Any, job: Job) -> Array:
    """Return the reference's log-probs from disk, computing them where they are not there."""
    folder = job.out_dir / FOLDER
    key = reference_key(model_hash(job.model_dir), rows, "nf4" if job.in_4bit else job.config.dtype)
    num_tokens = int(collate.num_learned.sum())
    found = find_reference(folder, key, num_tokens)
    if found is None:
        model.eval()
        most = job.config.device_batch_tokens

        def compute(rows: range) -> Array:
            parts = whole_pass(collate.sizes[rows.start : rows.stop], most, padded=not forward.packs)
            shifted = [[rows.start + row for row in part] for part in parts]
            return compute_reference(model, forward, collate, shifted, job.device)

        with job.precision():
            write_reference(folder, key, in_shares(len(collate.sizes), compute))
        found = find_reference(folder, key, num_tokens)
    if found is None:
        raise TrainError(f"the reference's log-probs were written to {folder} and are not there any more.")
    return found


class DPOTrainer(ExactTrainer, trl.DPOTrainer):
    """TRL's trainer on tokenised pairs, with exact masks, exact normalisation and a reference that is not resident."""

    _train_config: DPOConfig
    _watch: PreferenceWatch

    def prepare_loop(self, config: DPOConfig, loader: EpochLoader, forward: Forward) -> None:  # type: ignore[override]
        super().prepare_loop(config, loader, forward)
        self._watch = PreferenceWatch(
            config.max_chosen_drop,
            config.loss in ("sigmoid", "sigmoid_norm"),
            config.allow,
            int(self.args.warmup_steps),
        )
        self._seen = torch.zeros(5, device=self.args.device)

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        return dataset  # `add_reference` has done it

    def check_start(self, job: Job) -> None:
        """Refuse to start unless the policy is its reference: rewards 0, and the loss that follows from it (ln 2).

        The policy runs as in a step, in training mode, so that noise shows; random numbers drawn here do not count.

        Raises:
            TrainError: gives the rewards and the loss.
        """
        step: Batch = self._prepare_inputs(next(iter(self._loader)))
        batch: Batch = step["parts"][0]
        was_training = self.model.training
        self.model.train()
        devices = [job.device] if job.device.startswith("cuda") else []
        with torch.no_grad(), torch.random.fork_rng(devices=devices), job.precision(), self._forward.attention():
            pairs = self._compare(self.model, batch)
        self.model.train(was_training)
        reward = float(torch.cat([pairs["chosen_rewards"], pairs["rejected_rewards"]]).abs().max())
        loss = float(pairs["losses"].mean())
        expected = loss_at_reference(self._train_config.loss, self._train_config.beta)
        limit = self._start_tolerance(batch)
        if not (reward <= limit and abs(loss - expected) <= limit * max(1.0, expected)):
            raise TrainError(
                f"before the first step the rewards should be 0 and the loss {expected:.6f}, but the largest reward is "
                f"{reward:.2e} and the loss {loss:.6f} (tolerance {limit:.1e}): the reference is not the policy. "
                "This is a fault of the set-up, not of the data; training did not start."
            )

    def _start_tolerance(self, batch: Batch) -> float:
        """Return 1e-5, or more where sums are so large that the compute type cannot hold that."""
        largest = float(sum_by_row(batch["reference"].abs(), batch["owner"], 2 * len(batch["weights"])).max())
        config = self._train_config
        in_4bit = config.lora is not None and config.lora.load_in_4bit  # whose products are bfloat16
        epsilon = 2.0**-22 if config.dtype == "float32" and not in_4bit else 2.0**-9
        return max(1e-5, epsilon * config.beta * largest)

    def _compare(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the losses and rewards of each pair, and the parts they come from."""
        logprobs_N, _, _ = self._forward.logprobs_at(model, batch, batch["places"], batch["targets"])
        logratios_N = logprobs_N - batch["reference"]
        num_rows = 2 * len(batch["weights"])
        chosen_B, rejected_B = sum_by_row(logratios_N * batch["scored"], batch["owner"], num_rows).view(-1, 2).unbind(1)
        lengths_B2 = sum_by_row(batch["scored"], batch["owner"], num_rows).view(-1, 2)
        config = self._train_config
        losses_B = preference_losses(config.loss, config.beta, chosen_B, rejected_B, *lengths_B2.unbind(1))
        return {
            "losses": losses_B,
            "chosen_rewards": self._train_config.beta * chosen_B.detach(),
            "rejected_rewards": self._train_config.beta * rejected_B.detach(),
            "lengths": lengths_B2,
            "logprobs": logprobs_N,
            "logratios": logratios_N.detach(),
        }

    def batch_loss(self, model: nn.Module, batch: Batch, counts: Tensor) -> Tensor:
        """Return this pass's share of mean preference loss + nll_weight × mean NLL of chosen tokens."""
        pairs = self._compare(model, batch)
        weights_B = batch["weights"]
        loss = (pairs["losses"] * weights_B).sum() / counts[0]
        is_chosen_N = (batch["owner"] % 2 == 0).float() * weights_B[batch["owner"] // 2]
        nll = -(pairs["logprobs"] * is_chosen_N).sum()
        if self._train_config.nll_weight > 0:
            loss = loss + self._train_config.nll_weight * nll / counts[1].clamp(min=1)
        self._measure(pairs, batch, nll.detach(), is_chosen_N)
        return loss

    def _measure(self, pairs: dict[str, Tensor], batch: Batch, nll: Tensor, is_chosen_N: Tensor) -> None:
        """Meter what TRL logs under its names, and the KL, the lengths and the parts of the loss."""
        weights_B = batch["weights"]
        num_pairs = weights_B.sum()
        scored_N = batch["scored"] * weights_B[batch["owner"] // 2]
        chosen_B, rejected_B = pairs["chosen_rewards"], pairs["rejected_rewards"]
        right = ((chosen_B > rejected_B).float() * weights_B).sum()
        per_pair = {
            "rewards/chosen": chosen_B,
            "rewards/rejected": rejected_B,
            "rewards/margins": chosen_B - rejected_B,
            "loss/preference": pairs["losses"].detach(),
        }
        logps_B2 = sum_by_row(pairs["logprobs"].detach() * scored_N, batch["owner"], 2 * len(weights_B)).view(-1, 2)
        for side, logps_B, lengths_B in zip(SIDES, logps_B2.unbind(1), pairs["lengths"].unbind(1), strict=True):
            per_pair[f"logps/{side}"] = logps_B
            per_pair[f"length/{side}"] = lengths_B
            self.meter(f"logps_per_token/{side}", logps_B.sum(), (lengths_B * weights_B).sum())
        for name, values_B in per_pair.items():
            self.meter(name, (values_B * weights_B).sum(), num_pairs)
        self.meter("rewards/accuracies", right, num_pairs)
        self.meter("loss/nll", nll, is_chosen_N.sum())
        self.meter("kl", (reference_kl(pairs["logratios"]) * scored_N).sum(), scored_N.sum())
        drop = -(pairs["logratios"] * is_chosen_N).sum()
        preference = (pairs["losses"].detach() * weights_B).sum()
        self._seen = self._seen + torch.stack([preference, right, num_pairs, drop, is_chosen_N.sum()])

    def before_optimizer_step(self, step: int) -> None:
        """Let the watch see the whole step, not a part of its batch."""
        seen = self.accelerator.reduce(self._seen, reduction="sum") if self.args.world_size > 1 else self._seen
        loss, right, num_pairs, drop, tokens = seen.tolist()
        self._seen = torch.zeros_like(self._seen)
        self._watch.see(step, loss / num_pairs, right / num_pairs, drop / max(tokens, 1.0))


def reference_kl(logratios_N: Tensor) -> Tensor:
    """Estimate KL(reference || policy) per token from tokens that the reference wrote: exp(r) - 1 - r, never negative.

    r is log policy - log reference. Answers of another model than the reference make it an index, not an estimate.
    """
    return torch.expm1(logratios_N) - logratios_N
