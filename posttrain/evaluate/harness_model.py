"""The harness's model, made to say what it passes over: questions cut to the context, a folder's sampling settings."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import lm_eval.evaluator
from lm_eval.models.huggingface import HFLM
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

# Of a generation_config.json: where an answer ends and what wrote the file, not how tokens are drawn.
_NO_SETTINGS = re.compile(r"(bos|eos|pad|decoder_start)_token_id|transformers_version|_.*|(use|output|return|cache)_.*")


class CountingModel(HFLM):
    """Do what the harness's own class does, and count the documents whose question it cuts to the context.

    Attributes:
        cut: task → documents that lost their beginning.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> None:
        super().__init__(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        self._seen_cut: set[tuple[str, Any]] = set()
        # A run is no part of whatever repository somebody stands in; asked outside of one, git complains.
        lm_eval.evaluator.get_git_commit_hash = lambda: None

    @property
    def cut(self) -> Counter[str]:
        return Counter(task for task, _ in self._seen_cut)

    def generate_until(self, requests: list[Any], disable_tqdm: bool = False) -> list[str]:
        """Generate, having counted the questions that leave less room than their answers may take."""
        for request in requests:
            context, settings = request.args
            room = self.max_length - int(settings.get("max_gen_toks", self.max_gen_toks))
            self._count(request, len(self.tok_encode(context)), room)
        return super().generate_until(requests, disable_tqdm=disable_tqdm)

    def loglikelihood(self, requests: list[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Score, having counted the questions that do not fit beside what is scored."""
        for request in requests:
            context, continuation = request.args
            if context:
                self._count(request, sum(map(len, self._encode_pair(context, continuation))), self.max_length + 1)
        return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

    def _count(self, request: Any, num_tokens: int, room: int) -> None:
        if num_tokens > room:
            self._seen_cut.add((request.task_name, request.doc_id))


def drop_settings(model: PreTrainedModel) -> dict[str, Any]:
    """Take a folder's own sampling settings out of a model, so that it decodes as `posttrain sample` lets it.

    Returns:
        What was taken out, by name.
    """
    own = model.generation_config
    settings = {} if own is None else {k: v for k, v in own.to_diff_dict().items() if not _NO_SETTINGS.fullmatch(k)}
    ids = {name: getattr(own, name, None) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    # Neutral values in full, not transformers' own, which keep fifty tokens.
    model.generation_config = GenerationConfig(**ids, temperature=1.0, top_p=1.0, top_k=0, repetition_penalty=1.0)
    return settings
