"""The suite executes annotations; if this file fails, every other test checks less than it says."""

from __future__ import annotations

import pytest
import torch
from jaxtyping import TypeCheckError

from stylecli.artifacts import images
from stylecli.recipe import source


def test_a_wrong_shape_fails_where_it_enters() -> None:
    with pytest.raises(TypeCheckError):
        images.to_pixels(torch.zeros(4, 4))


def test_a_wrong_type_fails_where_it_enters() -> None:
    with pytest.raises(TypeCheckError):
        source.scalar(7)  # type: ignore[arg-type]
