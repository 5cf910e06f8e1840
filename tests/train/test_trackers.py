"""A tracker shows a run and never stops it."""

import sys
import threading
import time

import pytest
from training_data import completion_rows
from transformers import TrainerCallback
from transformers.integrations import INTEGRATION_TO_CALLBACK

from posttrain.config import SFTConfig
from posttrain.preflight import load_checked_recipe
from posttrain.recipe_file import RecipeError
from posttrain.train import trackers
from posttrain.train.errors import TrainError
from posttrain.train.sft import SFTTrainer, train_sft

CONFIG = SFTConfig(learning_rate=1e-3, max_steps=4, global_batch_size=4, logging_steps=1, report_to=("trackio",))
TRACKIO = '''
"""What transformers' callback calls of the real package, noting the calls."""
calls = []
config = {}
class _Nothing:
    @staticmethod
    def get():
        return None
class context_vars:
    current_space_id = _Nothing
    current_project = _Nothing
def init(**values):
    calls.append(("init", values))
def log(values):
    calls.append(("log", values))
def finish():
    calls.append(("finish", None))
config = type("Config", (dict,), {"update": lambda self, values, **_: dict.update(self, values)})()
'''


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Let a module named trackio be found."""
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "trackio.py").write_text(TRACKIO)
    monkeypatch.syspath_prepend(tmp_path / "modules")
    yield
    sys.modules.pop("trackio", None)


def train(tiny_model_dir, folder, config=CONFIG):
    return train_sft(tiny_model_dir, completion_rows(8), folder, config, seed=0)


def test_a_tracker_gets_what_the_metrics_get(tiny_model_dir, tmp_path, installed, metrics_of):
    train(tiny_model_dir, tmp_path / "runs" / "mine")
    from trackio import calls, config

    assert [name for name, _ in calls] == ["init", *["log"] * 5, "finish"]  # four steps and the summary at the end
    assert calls[0][1]["project"] == "posttrain" and calls[0][1]["name"] == "runs-mine"
    rows = metrics_of(tmp_path / "runs" / "mine")
    shown = [values for _, values in calls[1:5]]
    assert [values["train/global_step"] for values in shown] == [1, 2, 3, 4]
    for name in ("loss", "grad_norm", "learning_rate", "num_tokens", "matmul_share", "completions/mean_length"):
        assert [values[f"train/{name}"] for values in shown] == [row[name] for row in rows]
    assert config["max_steps"] == 4


def test_a_run_that_is_refused_is_closed_too(tiny_model_dir, tmp_path, installed, monkeypatch):
    def refuse(trainer, step):
        if step == 3:
            raise TrainError("refused")

    monkeypatch.setattr(SFTTrainer, "before_optimizer_step", refuse)
    with pytest.raises(TrainError, match="refused"):
        train(tiny_model_dir, tmp_path / "out")
    from trackio import calls

    assert [name for name, _ in calls] == ["init", "log", "log", "finish"]


def broken(event):
    """Make a tracker that raises in one of its calls, `__init__` among them."""

    def refuse(self, *args, **kwargs):
        raise ConnectionError("the server is down")

    return type("Broken", (TrainerCallback,), {event: refuse})


@pytest.mark.parametrize("event", ["__init__", "on_train_begin", "on_log", "on_train_end"])
def test_a_tracker_that_raises_stops_nothing(event, tiny_model_dir, tmp_path, installed, monkeypatch, caplog):
    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "trackio", broken(event))
    assert train(tiny_model_dir, tmp_path / "out")["steps"] == 4
    warnings = [record.getMessage() for record in caplog.records if record.name == trackers.__name__]
    assert len(warnings) == 1 and "trackio failed (ConnectionError: the server is down)" in warnings[0]


def test_a_tracker_that_hangs_stops_nothing(tiny_model_dir, tmp_path, installed, monkeypatch, caplog):
    until_the_end = threading.Event()

    class Hanging(TrainerCallback):
        def on_log(self, *args, **kwargs):
            until_the_end.wait(60)

    monkeypatch.setitem(INTEGRATION_TO_CALLBACK, "trackio", Hanging)
    monkeypatch.setattr(trackers, "FINISH_SECONDS", 0.3)
    monkeypatch.setattr(trackers, "WAITING", 2)
    started = time.monotonic()
    try:
        assert train(tiny_model_dir, tmp_path / "out")["steps"] == 4
        assert time.monotonic() - started < 30
        warnings = [record.getMessage() for record in caplog.records if record.name == trackers.__name__]
        # Four rows, a summary and the end, one in the tracker's hands and two in the queue: the first lost one is told.
        assert len(warnings) == 1 and "is too slow: 2 events wait for it" in warnings[0]
    finally:
        until_the_end.set()


def test_a_tracker_that_is_not_installed_is_refused_before_training(tiny_model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    config = CONFIG.model_copy(update={"report_to": ("trackio", "tensorboard")})
    with pytest.raises(TrainError, match=r"(?s)2 faults.*pip install trackio.*pip install tensorboard"):
        train(tiny_model_dir, tmp_path / "out", config)
    assert not (tmp_path / "out").exists()


def test_a_recipe_with_a_tracker_that_is_not_installed_is_refused_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"sft\.report_to: the tracker wandb is not installed: pip install wandb"):
        load_checked_recipe("recipes/quickstart.yaml", ["train.sft.report_to=[wandb]"])


def test_names_of_runs(tmp_path):
    assert trackers.run_name(tmp_path / "artifacts" / "dpo" / ".3f9c2a1b7d04.partial") == "dpo-3f9c2a1b7d04"
    assert trackers.run_name(tmp_path / "runs" / "mine") == "runs-mine"
