"""What the benchmarks of this folder share: the model, its words, the machine's peak, and fair timing.

The model is a randomly initialised Llama of 39 M parameters with Llama 3's shape in small (four query heads to a
key-value head). Its words are `w0`, `w1`, …: a word is a token, so lengths are exact.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from posttrain.practice.word_tokenizer import CONTROL_TOKENS, word_tokenizer

VOCABULARY = 32_000
PROMPT_TOKENS = 128
NUM_COMPLETIONS = 8
NUM_WORDS = VOCABULARY - len(CONTROL_TOKENS)
# bos, user mark, end of turn, assistant mark: what the template adds to the words of a prompt of one message.
TEMPLATE_TOKENS = 4


@dataclass(frozen=True)
class LengthMix:
    """Completion lengths: exponential with a mean, cut at a maximum, in tokens."""

    mean: int
    cut: int

    def draw(self, count: int, generator: torch.Generator) -> list[int]:
        """Draw `count` lengths, each at least 1."""
        uniform = torch.rand(count, generator=generator, dtype=torch.float64)
        return [min(self.cut, 1 + int(-math.log1p(-u) * self.mean)) for u in uniform.tolist()]

    def __str__(self) -> str:
        return f"mean {self.mean}, cut {self.cut}"


SHORT = LengthMix(20, 64)
LONG = LengthMix(100, 512)


def llama_config(**changes):
    """Describe a Llama of 39 M parameters."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=CONTROL_TOKENS.index("<|bos|>"),
        eos_token_id=CONTROL_TOKENS.index("<|end|>"),
        pad_token_id=CONTROL_TOKENS.index("<|pad|>"),
        **changes,
    )


def save_model(folder: Path, reward_model: bool = False) -> Path:
    """Write the model with its tokenizer as a Hugging Face folder."""
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification

    torch.manual_seed(0)
    kind, labels = (LlamaForSequenceClassification, {"num_labels": 1}) if reward_model else (LlamaForCausalLM, {})
    model = kind(llama_config(**labels))
    model.save_pretrained(folder)
    word_tokenizer(f"w{i}" for i in range(NUM_WORDS)).save_pretrained(folder)
    return folder


def words(count: int, generator: torch.Generator) -> str:
    """Draw a text of `count` tokens."""
    return " ".join(f"w{i}" for i in torch.randint(NUM_WORDS, (count,), generator=generator).tolist())


def prompt_messages(generator: torch.Generator, num_tokens: int = PROMPT_TOKENS) -> list[dict[str, str]]:
    """Draw a prompt of one message that has `num_tokens` tokens in the template."""
    return [{"role": "user", "content": words(num_tokens - TEMPLATE_TOKENS, generator)}]


def matmul_peak(dtype: torch.dtype, device: str = "cpu", size: int = 1024, seconds: float = 1.0) -> float:
    """Measure the machine's matrix-multiply rate now, in FLOP/s."""
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    for _ in range(3):
        a @ b
    best, started = math.inf, time.perf_counter()
    while time.perf_counter() - started < seconds:
        before = time.perf_counter()
        for _ in range(4):
            a @ b
        if device != "cpu":
            torch.cuda.synchronize()
        best = min(best, (time.perf_counter() - before) / 4)
    return 2 * size**3 / best


def alternate(sides: Mapping[str, Callable[[], float]], runs: int) -> dict[str, list[float]]:
    """Run the sides in turn, A B A B …, after a warm-up of each, so that a machine that slows down slows all.

    Args:
        sides: each runs once and returns its rate; higher is better.

    Returns:
        The rates of each side, in the order of the runs.
    """
    for run in sides.values():
        run()
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(runs):
        for name, run in sides.items():
            rates[name].append(run())
    return rates


def paired_ratio(ours: Sequence[float], peer: Sequence[float]) -> tuple[float, float, float]:
    """Give the median, least and largest ratio of runs that stood beside each other."""
    ratios = [a / b for a, b in zip(ours, peer, strict=True)]
    return statistics.median(ratios), min(ratios), max(ratios)


def describe_machine(device: str) -> None:
    """Print what the figures below were measured on."""
    import platform
    from importlib.metadata import version

    if device == "cpu":
        lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
        names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
        machine = f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads"
    else:
        machine = torch.cuda.get_device_name(device)
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers"))
    print(f"{machine}; Python {platform.python_version()}, {versions}; {time.strftime('%Y-%m-%d')}")
