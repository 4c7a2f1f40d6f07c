"""What may be asked for, from a panel or over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from webui_host import Host

from dode_webui.request import Request, RequestError, from_mapping, parse_steps

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=8,
)
KEYS = st.sampled_from(sorted(Request.__dataclass_fields__)) | st.text(max_size=12)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        (8, (8,)),
        ("8", (8,)),
        ("4-6", (4, 5, 6)),
        (" 4 - 6 , 8;".replace(";", ""), (4, 5, 6, 8)),
        ("8 4 4", (4, 8)),
        ([4, 8, "9-10"], (4, 8, 9, 10)),
    ],
)
def test_steps(text: Any, steps: tuple[int, ...]) -> None:
    assert parse_steps(text) == steps


@pytest.mark.parametrize(
    "text",
    ["", " ", "0", "6-4", "4-", "-4", "101", "1-100", "4.5", "four", "1e3", None, True, 4.5, {}, [],
     [True], [[4]], "9" * 5000, "٤"],
)  # fmt: skip
def test_no_steps(text: Any) -> None:
    if text == "٤":  # a digit all the same
        assert parse_steps(text) == (4,)
        return
    with pytest.raises(RequestError):
        parse_steps(text)


def test_defaults_and_everything(webui: Host) -> None:
    assert from_mapping({}) == Request()
    body = {
        "solver": "deis", "steps": "4-5", "scheduler": "Karras", "prompts": ["a", "b"],
        "negative": "c", "cfg": 3, "width": 512, "height": 768, "samples": 8.0,
        "learn_sigmas": False, "seed": 2**32 - 1, "batch_size": 2,
    }  # fmt: skip
    made = from_mapping(body)
    assert made.steps == (4, 5) and made.samples == 8 and made.prompts == ("a", "b")
    assert made.cfg == 3.0 and made.learn_sigmas is False


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ([], "JSON object"),
        ({"file": "x"}, "'file' is unknown"),
        ({"path": "../x"}, "'path' is unknown"),
        ({"solver": "dmp"}, "'dmp' is unknown"),
        ({"solver": 3}, "use a text"),
        ({"scheduler": "../../etc"}, "Scheduler"),
        ({"prompts": "one"}, "must be a list"),
        ({"prompts": []}, "0 prompts"),
        ({"prompts": [1]}, "use a text"),
        ({"prompts": ["x"] * 65}, "at most 64"),
        ({"negative": "x" * 20_001}, "20001 characters"),
        ({"cfg": float("nan")}, "use a number"),
        ({"cfg": -1}, "cfg is -1; use 0 to 100"),
        ({"cfg": "7"}, "use a number"),
        ({"width": 100}, "multiples of 8"),
        ({"width": 10**12}, "use a number"),
        ({"width": 8192}, "width is 8192"),
        ({"samples": 1}, "samples is 1; use 2 to 256"),
        ({"samples": 4.5}, "whole number"),
        ({"samples": True}, "use a number"),
        ({"learn_sigmas": 1}, "true or false"),
        ({"once": "yes"}, "true or false"),
        ({"once": True, "samples": 7}, "7 samples are too few to serve any number of steps; use 8"),
        ({"seed": -1}, "seed is -1"),
        ({"batch_size": 0}, "batch_size is 0"),
    ],
)
def test_refused_with_a_reason(webui: Host, body: Any, said: str) -> None:
    with pytest.raises(RequestError, match=said.replace("(", "\\(")):
        from_mapping(body)


@settings(
    max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None
)
@given(body=st.dictionaries(KEYS, JSON, max_size=5) | JSON)
def test_anything_is_a_request_or_refused(webui: Host, body: Any) -> None:
    try:
        made = from_mapping(body)
    except RequestError as error:
        assert len(str(error)) < 700
        return
    assert isinstance(made, Request)
