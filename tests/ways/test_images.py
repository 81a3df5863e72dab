"""Image encoders guided toward the neighbours of a patch and the class token, against loops over their own maps."""

import eager_maps
import encoders
import pytest
import torch

from attention_guidance import guide
from attention_guidance.errors import PatternError

HEADS = {"0": "left:1 right:1 up:1 down:1", "1": "class_token:1 left|right|up|down:1 down|class_token:1"}
N_BEFORE = {"ViT": 1, "DeiT": 2}  # class token; class and distillation token


def definitions(n_before: int, height: int, width: int):
    """For each guided head its targets, by rows and columns."""

    def toward(*steps):
        def targets(b, i):
            if i < n_before:
                return []
            row, column = divmod(i - n_before, width)
            places = [(row + down, column + right) for down, right in steps]
            return [n_before + r * width + c for r, c in places if 0 <= r < height and 0 <= c < width]

        return targets

    left, right, up, down = (0, -1), (0, 1), (-1, 0), (1, 0)
    below = toward(down)
    return {
        (0, 0): toward(left),
        (0, 1): toward(right),
        (0, 2): toward(up),
        (0, 3): below,
        (1, 0): lambda b, i: [0],
        (1, 1): toward(left, right, up, down),
        (1, 2): lambda b, i: [0, *below(b, i)],
    }


@pytest.mark.parametrize("backend", ["reference", "batched", "blocked"])
@pytest.mark.parametrize("size", [(16, 16), (12, 20)])
@pytest.mark.parametrize("name", N_BEFORE)
def test_loss_and_gradients_are_those_of_the_eager_maps(name, size, backend):
    model, _ = encoders.make(name)
    pixels = torch.randn(2, 3, *size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    inputs = {"pixel_values": pixels, "interpolate_pos_encoding": True}
    handle = guide(model, HEADS, weight=1.0, backend=backend)
    model(**inputs)
    handle.loss().backward()
    plain, _ = encoders.make(name)
    heads = definitions(N_BEFORE[name], size[0] // 4, size[1] // 4)
    length = N_BEFORE[name] + size[0] * size[1] // 16
    expected = eager_maps.guidance(plain, inputs, heads, torch.ones(2, length, dtype=torch.bool))
    expected.backward()
    # Their eager attention takes its softmax in float32.
    assert handle.loss().item() == pytest.approx(expected.item(), abs=1e-6)
    eager_maps.assert_same_gradients(model, plain, tolerance=1e-6)


def test_an_image_given_by_place_is_seen_too():
    losses = []
    for by_name in (True, False):
        model, inputs = encoders.make("ViT")
        handle = guide(model, HEADS)
        model(**inputs) if by_name else model(inputs["pixel_values"])
        losses.append(handle.loss().item())
    assert losses[0] == losses[1]


def test_a_model_that_hides_patches_has_no_neighbours():
    model, inputs = encoders.make("ViTMAE")
    guide(model, "left:1")
    with pytest.raises(PatternError, match=r"'left' needs the patches of an image, .* 4 x 4 patches and 5 positions"):
        model(**inputs)


def test_a_model_of_text_has_no_neighbours():
    model, inputs = encoders.make("Bert")
    guide(model, "up:1")
    with pytest.raises(PatternError, match="'up' needs the patches of an image, but the model has no grid"):
        model(**inputs)
