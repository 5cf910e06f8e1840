"""Models behind servers: what names them."""

from __future__ import annotations

from posttrain.config import EndpointModel, Execution
from posttrain.engines import open_engine


def test_a_served_model_is_named_by_what_is_served_not_by_where():
    here = EndpointModel(base_url="http://127.0.0.1:8000/v1", model="big", revision="abc", dialect="openai")
    there = here.model_copy(update={"base_url": "http://10.0.0.7:9000/v1"})
    first, second = (open_engine(None, endpoint, Execution()) for endpoint in (here, there))
    assert first.identity == second.identity == {"kind": "openai", "model": "big@abc"}


def test_a_copy_to_compare_with_is_no_part_of_what_is_asked(tiny_model_dir):
    plain = EndpointModel(base_url="http://127.0.0.1:8000/v1", model="big", revision="abc")
    checked = plain.model_copy(update={"local_copy": str(tiny_model_dir)})
    assert checked.identity() == plain.identity()
    assert open_engine(None, checked, Execution()).local_copy == str(tiny_model_dir)
