"""A value becomes an override, and comes back as it went in."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given, settings
from hypothesis import strategies as st

from worldflux.config.composition import composed
from worldflux.config.overrides import command, key_of, override, search_path, spelled, value_of
from worldflux.config.run import register
from worldflux.errors import ConfigurationError
from worldflux.runner.resume import Request

SPECIAL = ["", " ", "null", "NULL", "true", "1", "1e3", "nan", "a b", "it's", 'say "x"', "a=b"]
SPECIAL += [
    "a,b",
    "~a",
    "\\",
    "a\\",
    "\\'",
    "\\\\'",
    "[1]",
    "{a:1}",
    "(x)",
    "é✓",
    "${x}",
    "$",
    "${",
]
SPECIAL += [
    "\\${x}",
    "\\\\${x}",
    "a${oc.env:HOME}",
    "\n",
    "a\nb",
    "\t",
    " a ",
    "a:b",
    "#",
    "%7B",
    "}",
]
TEXTS = st.one_of(
    st.sampled_from(SPECIAL),
    st.text(st.sampled_from("ab1 '\"=,~\\[]{}()${}:#%&?!.\n\té✓"), max_size=8),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
).filter(lambda text: text != "???")
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


def parse(word: str) -> Any:
    return value_of(OverridesParser.create().parse_override(word))


@settings(max_examples=400, deadline=None)
@given(VALUES)
@example({"it's": 1, 'say "x"': {"a": ["${x}"]}})
@example({"1": 1, "null": None, "true": True, "": 0})
@example({"a": math.inf, "b": -math.inf})
def test_a_value_comes_back_as_it_went_in(value: Any) -> None:
    again = parse(override("key", value))
    assert again == value and repr(again) == repr(value)
    assert shlex.split(command(override("key", value))) == [override("key", value)]


def test_not_a_number_comes_back_too() -> None:
    assert math.isnan(parse(override("key", math.nan)))
    assert math.isnan(parse(override("key", {"it's": math.nan}))["it's"])


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(st.dictionaries(TEXTS, VALUES, max_size=3))
@example({"text": "${x}", "it's": "${oc.env:HOME}"})
@example({"id": "null", "number": "1", "empty": "", "lines": "a\nb", "nested": {"1": "'"}})
def test_kwargs_of_an_environment_survive_a_composition(kwargs: Mapping[str, Any]) -> None:
    run = composed(["env=gym", "env.id=Any-v0", override("++env.kwargs", kwargs)])
    assert run.env.kwargs == kwargs


def test_a_text_that_hydra_cannot_hold_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"the text '\?\?\?' cannot be a value"):
        spelled(["???"])


def test_keys_and_folders() -> None:
    assert [key_of(word) for word in ("+a.b=1=2", "~a", "++a=", "a/b=c")] == [
        "a.b",
        "a",
        "a",
        "a/b",
    ]
    assert search_path([]) == ()
    (word,) = search_path([Path("/tmp/it's, a=b")])
    assert parse(word) == ["file:///tmp/it's, a=b"]


@pytest.mark.slow
@pytest.mark.parametrize("plus", ["", "+", "++"])
@pytest.mark.parametrize("word", ["env.kwargs.a=1", "env.kwargs={a:1}", "env.kwargs.a={b:[1,c]}"])
def test_a_key_of_a_free_mapping_is_set_in_every_spelling(plus: str, word: str) -> None:
    name, value = ("a", {"b": [1, "c"]}) if "[" in word else ("a", 1)
    base = ["env=gym", "env.id=Any-v0"]
    register()
    request = Request.of([*base, plus + word])
    assert request.source.check(request.overrides).env.kwargs == {name: value}
    assert composed([*base, plus + word]).env.kwargs == {name: value}
    jobs = Request.of([*base, f"{plus}env.kwargs.a=1,2"])
    configs = jobs.source.expand(jobs.overrides).check()
    assert [job.env.kwargs for job in configs] == [{"a": 1}, {"a": 2}]
