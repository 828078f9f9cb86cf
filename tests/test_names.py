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
        ("rleu", "did you mean 'relu'? Choices"),
        ("sigmoyd", "did you mean 'sigmoid'? Choices"),
        ("tan", "did you mean 'tanh'? Choices"),
        ("swish", "choices"),
        ("", "choices"),
        ("RELU", "choices"),
        (None, "choices"),
        (3, "choices"),
        (["relu"], "did you mean 'relu'? Choices"),
    ],
    ids=repr,
)
def test_an_unknown_name(value: object, hint: str) -> None:
    with pytest.raises(ValueError, match="is not known") as caught:
        known("activation", value, NAMES)
    assert str(caught.value) == (f"activation={value!r} is not known; {hint}: sigmoid, tanh, relu")
