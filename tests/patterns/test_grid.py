"""Patterns on the patches of an image, by hand on a grid of three rows and four columns."""

import pytest
import torch

from attention_guidance import get_pattern
from attention_guidance.adapters.inputs_outputs import patch_grid, patch_size_of
from attention_guidance.errors import PatternError
from attention_guidance.patterns import Sequences

NONE = -1
# The number of the patch that each patch looks at; patches are numbered along rows:
#   0  1  2  3
#   4  5  6  7
#   8  9 10 11
GRID = {
    "left": [NONE, 0, 1, 2, NONE, 4, 5, 6, NONE, 8, 9, 10],
    "right": [1, 2, 3, NONE, 5, 6, 7, NONE, 9, 10, 11, NONE],
    "up": [NONE, NONE, NONE, NONE, 0, 1, 2, 3, 4, 5, 6, 7],
    "down": [4, 5, 6, 7, 8, 9, 10, 11, NONE, NONE, NONE, NONE],
}


def picture(n_before: int, n_batch: int = 2) -> Sequences:
    return Sequences(torch.ones(n_batch, n_before + 12, dtype=torch.bool), grid=(3, 4))


def targets(name: str, sequences: Sequences) -> list[list[int]]:
    """For each query, its targets."""
    n_batch, length = sequences.valid_BT.shape
    dense = get_pattern(name).targets(sequences).dense().expand(n_batch, length, length)
    assert all(torch.equal(image, dense[0]) for image in dense)
    return [row.nonzero().flatten().tolist() for row in dense[0]]


@pytest.mark.parametrize("n_before", [0, 1, 2])
@pytest.mark.parametrize("name", GRID)
def test_neighbours_by_hand(name, n_before):
    expected = [[]] * n_before + [[] if key == NONE else [n_before + key] for key in GRID[name]]
    assert targets(name, picture(n_before)) == expected


@pytest.mark.parametrize("n_before", [1, 2])
def test_every_token_looks_at_the_class_token(n_before):
    assert targets("class_token", picture(n_before)) == [[0]] * (n_before + 12)


def test_union_of_neighbours_and_the_class_token():
    found = targets("left|right|up|down|class_token", picture(1))
    assert found[0] == [0]
    assert found[1 + 5] == [0, 1 + 1, 1 + 4, 1 + 6, 1 + 9]
    assert found[1 + 3] == [0, 1 + 2, 1 + 7]
    # An image of neighbours alone is the same for the whole batch and takes memory for one.
    assert get_pattern("left|up").targets(picture(1)).picks_BQP.shape == (1, 13, 2)


def test_for_some_patches_of_some_images():
    def rows(sequences):
        chosen = torch.zeros_like(sequences.valid_BT)
        chosen[1, 1:5] = True
        return chosen

    dense = get_pattern("right").where(rows).targets(picture(1)).dense()
    assert dense.nonzero().tolist() == [[1, 1, 2], [1, 2, 3], [1, 3, 4]]


@pytest.mark.parametrize(
    ("sequences", "message"),
    [
        (Sequences(torch.ones(1, 9, dtype=torch.bool)), "'up' needs the patches of an image, .* has no grid"),
        (Sequences(torch.ones(1, 5, dtype=torch.bool), grid=(4, 4)), "a grid of 4 x 4 patches and 5 positions"),
        (Sequences(torch.ones(1, 5, dtype=torch.bool), grid=(0, 4)), "a grid of 0 x 4 patches and 5 positions"),
    ],
)
def test_without_all_the_patches_of_an_image(sequences, message):
    with pytest.raises(PatternError, match=message):
        get_pattern("up").targets(sequences)


def test_the_grid_is_height_by_width():
    pixels = torch.zeros(2, 3, 12, 32)
    assert patch_grid({"pixel_values": pixels}, (4, 8)) == (3, 4)
    assert patch_grid({"pixel_values": pixels[:, 0]}, (4, 8)) is None
    assert patch_grid({"input_ids": torch.zeros(2, 9)}, (4, 8)) is None
    assert patch_grid({"pixel_values": pixels}, None) is None


def test_the_patch_size_of_a_configuration():
    class Config:
        patch_size = None

    config = Config()
    for size, expected in ((4, (4, 4)), ((4, 8), (4, 8)), ([4, 8], (4, 8)), (None, None), ([2, 4, 8], None)):
        config.patch_size = size
        assert patch_size_of(config) == expected
    assert patch_size_of(object()) is None
