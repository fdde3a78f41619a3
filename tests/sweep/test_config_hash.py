"""Hashes and differences of configs."""

import json
import random

from hypothesis import given
from hypothesis import strategies as st

from qcal.sweep.config_hash import differences, hash_config, without_places

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
CONFIGS = st.dictionaries(
    st.text(max_size=5),
    st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=3), inner), max_leaves=10),
)


def shuffled(value: object) -> object:
    if isinstance(value, dict):
        items = list(value.items())
        random.Random(0).shuffle(items)
        return {key: shuffled(part) for key, part in items}
    return [shuffled(part) for part in value] if isinstance(value, list) else value


@given(CONFIGS)
def test_the_order_of_keys_does_not_matter(config: dict[str, object]) -> None:
    other = shuffled(config)
    assert isinstance(other, dict)
    assert hash_config(other) == hash_config(config)
    assert differences(config, other) == []


@given(CONFIGS, CONFIGS)
def test_different_configs_have_different_hashes(one: dict[str, object], other: dict[str, object]) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (hash_config(one) == hash_config(other)) == same


def test_only_what_makes_the_figures_counts() -> None:
    config = {"trainer": {"max_epochs": 3, "enable_progress_bar": True}, "run": {"dir": "a"}, "wandb": {"mode": "auto"}}
    other = {"trainer": {"max_epochs": 3, "enable_progress_bar": False}, "run": {"dir": "b"}, "ckpt_path": "c"}
    assert without_places(config) == without_places(other) == {"trainer": {"max_epochs": 3}}
    assert config["trainer"] == {"max_epochs": 3, "enable_progress_bar": True}  # it was not changed


def test_differences_are_named_by_dotted_key() -> None:
    old = {"a": {"b": 1, "c": [1, 2]}, "d": None}
    new = {"a": {"b": 1.5, "c": [1, 2]}, "e": {"f": "x"}}
    assert differences(old, new) == ["a.b: 1 -> 1.5", "d: null -> (absent)", 'e.f: (absent) -> "x"']
