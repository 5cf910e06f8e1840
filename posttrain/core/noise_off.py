"""Noise in training mode, switched off: dropout, skipped layers and jitter that a model's configuration asks for.

It comes as layers, as numbers that a layer keeps, and as numbers that a layer reads from the configuration while it
runs. A policy with noise is not its own reference, and a loss with noise is that of no model that is saved.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

_KEPT = "_posttrain_noise"


def switch_noise_off(model: PreTrainedModel) -> None:
    """Set every share of dropout and skipped layers to 0, in a model's layers and in its configuration.

    Routers with jitter, whose size some use in evaluation mode, too (PhiMoE), stay in evaluation mode.
    """
    for module in model.modules():
        if any("jitter" in name for name in vars(module)):
            module.train = MethodType(_train_without_noise, module)  # type: ignore[method-assign]
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name in _shares(module):
            setattr(module, name, 0.0)
    configs = list(configs_of(model.config))
    kept = [(path, name, value) for path, config in configs for name, value in _shares(config).items()]
    for _, config in configs:
        for name in _shares(config):
            setattr(config, name, 0.0)
    setattr(model, _KEPT, kept)


def remember_noise(model: Any, of: Any) -> None:
    """Let a model that was made of another's configuration know what this one's said when it was loaded."""
    setattr(model, _KEPT, getattr(of, _KEPT, []))


@contextmanager
def original_noise(model: Any) -> Iterator[None]:
    """Let a model's configuration say what it said when it was loaded, while it is saved."""
    configs = dict(configs_of(model.config))
    kept = [(configs[path], name, value) for path, name, value in getattr(model, _KEPT, ()) if path in configs]
    for config, name, value in kept:
        setattr(config, name, value)
    try:
        yield
    finally:
        for config, name, _ in kept:
            setattr(config, name, 0.0)


def _train_without_noise(self: nn.Module, mode: bool = True) -> nn.Module:
    type(self).train(self, mode)
    self.training = False
    return self


def _shares(owner: Any) -> dict[str, float]:
    return {
        name: value
        for name, value in vars(owner).items()
        if isinstance(value, float) and value > 0.0 and "drop" in name
    }


def configs_of(config: PretrainedConfig, path: str = "") -> Iterator[tuple[str, PretrainedConfig]]:
    """Give a configuration and those inside it, each with its place."""
    yield path, config
    for name, value in vars(config).items():
        if isinstance(value, PretrainedConfig):
            yield from configs_of(value, f"{path}.{name}")
