"""Models small enough to make anew for each run of the tests."""

from __future__ import annotations

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest

_TEXT = (
    "the a of and to in is it you i what say list sort add larger smaller first last word words number numbers "
    "reverse repeat : . , ? ! red green blue black white cat dog bird fish tree house water stone answer sorry please "
    "good bad yes no zero one two three four five six seven eight nine ten"
)
WORDS = _TEXT.split()


def pytest_collection_modifyitems(items):
    """Begin with the files that hold slow tests: at the end no process is left with a long one alone."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Let a file's tests share a process, and so what they set up; those of Ray too: it has one cluster on a machine.

    xdist's own groups do nothing since pytest 9.2, which reads no node id that a plugin has changed.
    """
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = super()._split_scope(nodeid)
            return "ray" if "ray" in Path(file).stem else file

    return Files(config, log)


@pytest.fixture(scope="session", autouse=True)
def threads():
    """Compute in as many threads as OMP_NUM_THREADS says, one where it says nothing."""
    import torch

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"].split(",")[0]))


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """A word is a token; texts are words joined by spaces."""
    from posttrain.practice.word_tokenizer import word_tokenizer

    return word_tokenizer(WORDS)


def tiny_config(tokenizer, **changes):
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **changes,
    )


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory, tiny_tokenizer) -> Path:
    """A random two-layer Llama with the word tokenizer, as a Hugging Face folder."""
    import torch
    from transformers import LlamaForCausalLM

    folder = tmp_path_factory.mktemp("tiny_model")
    torch.manual_seed(0)
    LlamaForCausalLM(tiny_config(tiny_tokenizer)).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_reward_model_dir(tmp_path_factory, tiny_tokenizer) -> Path:
    """A random two-layer Llama with a score head, as a Hugging Face folder."""
    import torch
    from transformers import LlamaForSequenceClassification

    folder = tmp_path_factory.mktemp("tiny_reward_model")
    torch.manual_seed(1)
    LlamaForSequenceClassification(tiny_config(tiny_tokenizer, num_labels=1)).save_pretrained(folder)
    tiny_tokenizer.save_pretrained(folder)
    return folder


class TwoNodes:
    """A Ray cluster of two nodes on this machine, bound to loopback; a node that a test kills is made up for."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        # Ray takes 127.0.0.1 for "this machine" and connects to its outward address instead.
        self._node = {"num_cpus": 1, "node_ip_address": "127.0.0.2", "object_store_memory": 80 << 20}
        self.cluster = Cluster(initialize_head=True, head_node_args=self._node | {"include_dashboard": False})
        self.address = self.cluster.address
        self.second = None
        self.make_whole()

    def kill_second(self) -> None:
        """Kill a node as a power cut would."""
        self.cluster.remove_node(self.second, allow_graceful=False)
        self.second = None

    def make_whole(self) -> None:
        if self.second is None:
            self.second = self.cluster.add_node(**self._node)


@pytest.fixture(scope="module")
def two_nodes():
    here = Path(__file__).parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # Nodes import what a test defines, as real ones import the installed package.
        patch.setenv("PYTHONPATH", str(here / "synth"), prepend=os.pathsep)
        nodes = TwoNodes()
        try:
            yield nodes
        finally:
            import ray

            ray.shutdown()
            nodes.cluster.shutdown()


@pytest.fixture
def cluster(two_nodes):
    """Two living nodes for a test that fails rather than hangs."""
    import signal

    def too_long(*_: object) -> None:
        raise TimeoutError("the test took more than 300 s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(300)
    two_nodes.make_whole()
    yield two_nodes
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
