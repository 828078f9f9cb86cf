"""Unknown names are all answered alike."""

from __future__ import annotations

import pytest

from gammabeta.names import known

NAMES = ["sigmoid", "tanh", "relu"]


@pytest.mark.parametrize("name", NAMES)
def test_a_known_name_is_returned(name: str) -> None:
    assert known("activation", name, iter(NAMES)) == name


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("rleu", " did you mean 'relu'?"),
        ("sigmoyd", " did you mean 'sigmoid'?"),
        ("tan", " did you mean 'tanh'?"),
        ("swish", ""),
        ("", ""),
        ("RELU", ""),
        (None, ""),
        (3, ""),
        (["relu"], " did you mean 'relu'?"),
    ],
    ids=repr,
)
def test_an_unknown_name(value: object, hint: str) -> None:
    with pytest.raises(ValueError, match="is not known") as caught:
        known("activation", value, NAMES)
    assert str(caught.value) == (
        f"activation={value!r} is not known;{hint} One of: sigmoid, tanh, relu"
    )
