"""Seeds, parameters, and the engines that need no model."""

from __future__ import annotations

import importlib.util

import pytest

from synth.engines.base import EngineError, Request, SamplingParams, sample_seed
from synth.engines.draw import row_uniforms
from synth.engines.scripted import ScriptedEngine
from synth.engines.vllm import VllmEngine, sampling_arguments


def test_seeds_are_stable_and_their_own():
    # The first 8 bytes of blake2b over "7<US>p<US>3", shifted right by one. Files of old runs depend on it.
    assert sample_seed(7, "p", 3) == 6022083204435918546
    seeds = {sample_seed(run, prompt, k) for run in range(3) for prompt in ("a", "b") for k in range(50)}
    assert len(seeds) == 300
    assert all(0 <= seed < 2**63 for seed in seeds)
    # Ids that end in digits do not run into the index.
    assert sample_seed(0, "p1", 1) != sample_seed(0, "p", 11)


def test_row_uniforms_are_uniform_over_seeds_and_steps():
    import numpy as np
    from scipy.stats import kstest

    seeds = np.array([sample_seed(0, "p", k) for k in range(20_000)], dtype=np.uint64)
    zeros = np.zeros(20_000, dtype=np.uint64)
    over_seeds = row_uniforms(seeds, zeros)
    over_steps = row_uniforms(zeros, np.arange(20_000, dtype=np.uint64))
    counting_seeds = row_uniforms(np.arange(20_000, dtype=np.uint64), zeros)
    for draws in (over_seeds, over_steps, counting_seeds):
        assert draws.min() >= 0 and draws.max() < 1
        assert kstest(draws, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(over_seeds, row_uniforms(seeds, zeros + np.uint64(1)))[0, 1]) < 0.03
    assert abs(np.corrcoef(over_steps[:-1], over_steps[1:])[0, 1]) < 0.03


def test_parameters_that_mean_nothing_are_refused_all_at_once():
    with pytest.raises(EngineError) as error:
        SamplingParams(temperature=-1.0, top_p=0.0, top_k=-1, max_completion_tokens=0, stop_ids=())
    for name in ("temperature is -1.0", "top_p is 0.0", "top_k is -1", "max_completion_tokens is 0"):
        assert name in str(error.value)
    with pytest.raises(EngineError, match="1 seeds for 2 sample indices"):
        Request("p", (1,), (), (5,), (0, 1))


def test_the_scripted_engine_records_its_calls_and_cuts():
    engine = ScriptedEngine(lambda request, index, seed: "one two three")
    params = SamplingParams(1.0, 1.0, 0, 2, ())
    samples = list(engine.generate([Request("p", (), (), (11, 12), (4, 5))], params))
    assert [(sample.sample_index, sample.seed) for sample in samples] == [(4, 11), (5, 12)]
    assert {(sample.text, sample.finish_reason, sample.num_tokens) for sample in samples} == {("one two", "length", 2)}
    assert engine.calls == [("p", 4), ("p", 5)] and engine.params == [params]


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vllm is installed")
def test_vllm_says_how_to_install_it(tmp_path):
    with pytest.raises(EngineError, match=r"pip install 'posttrain\[vllm\]'"):
        VllmEngine(tmp_path)


def test_vllm_gets_every_parameter():
    arguments = sampling_arguments(SamplingParams(0.7, 0.9, 0, 32, (5, 6)), seed=9)
    assert arguments["top_k"] == -1 and arguments["seed"] == 9 and arguments["n"] == 1
    assert arguments["stop_token_ids"] == [5, 6] and arguments["repetition_penalty"] == 1.0
