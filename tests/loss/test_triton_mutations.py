"""The tests of the kernels can fail: every term that is taken out of one is missed.

Each mutation is a change to the source of a kernel. The changed kernel runs on cases of test_triton.py, and must not
give what the reference gives.
"""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from calls import PATTERNS, in_double, make_call

from attention_guidance.loss import reference
from attention_guidance.patterns import Offset, Sequences, TokenClass

pytest.importorskip("triton")
if torch.cuda.is_available():
    pytest.skip("with a GPU the kernels are compiled, not interpreted", allow_module_level=True)

from triton_interpreter import small_tiles  # noqa: F401

from attention_guidance.loss import triton
from attention_guidance.loss.triton import launch

# One thing of a kernel's, what it becomes, and the cases in which that must be seen.
MUTATIONS = {
    "backward": [
        # delta
        ("delta = tl.sum(out * grad_out, 1)", "delta = 0 * tl.sum(out, 1)", "squared log_mass"),
        ("delta += 2 * grad_squares * squares + grad_mass", "delta += grad_mass", "squared log_mass"),
        ("squares + grad_mass * mass", "squares", "squared log_mass"),
        ("other=0.0) > 0).to", "other=0.0) >= 0).to", "log_mass"),
        # the gradient of a tile
        ("exp2(scores - maximum) * inverse", "exp2(scores - maximum)", "squared"),
        ("products += 2 * grad_squares * probabilities", "products += 0.0", "squared log_mass"),
        ("products += 2 * grad_squares * probabilities", "products += grad_squares * probabilities", "squared"),
        ("products += tl.where(targets, grad_mass, 0.0)", "products += 0.0", "squared"),
        ("products += tl.where(targets, grad_mass, 0.0)", "products += grad_mass", "squared"),
        ("gradients = probabilities * (products - delta)", "gradients = probabilities * products", "squared"),
        ("gradients = probabilities * (products - delta)", "gradients = products - delta", "squared"),
        ("gradients += grad_mass * among", "gradients += 0.0", "log_mass"),
        ("_NOTHING)) * inverse_mass", "_NOTHING))", "log_mass"),
        ("tl.where(targets, scores - top,", "tl.where(targets, scores,", "log_mass"),
        ("scores = tl.where(shown, scores, _NOTHING)", "scores = scores", "squared"),
        ("weights = probabilities * factor", "weights = probabilities", "dropout"),
        ("products = products * factor", "products = products", "dropout"),
        # what tiles are summed into
        ("grad_query * (scale / _LOG2_E)", "grad_query * scale", "squared"),
        ("grad_key * (scale / _LOG2_E)", "grad_key * scale", "squared"),
        ("key, grad_query, input_precision", "key, input_precision", "squared"),
        ("query, grad_key, input_precision", "query, input_precision", "squared"),
        ("grad_out, grad_value, input_precision", "grad_out, input_precision", "squared"),
        ("first, last = n_plain, n_all", "first, last = n_plain, n_plain", "squared"),
        ("first, last = 0, n_plain", "first, last = 0, 0", "squared"),
        ("delta_ptr, grad_squares_ptr + place", "delta_ptr, grad_squares_ptr", "squared"),
        ("grad_mass_ptr + place, top_ptr + place", "grad_mass_ptr + place, top_ptr", "log_mass"),
    ],
    "forward": [
        ("total = total * shrink", "total = total", "squared"),
        ("squares * shrink * shrink", "squares * shrink", "squared"),
        ("mass = mass * shrink", "mass = mass", "squared"),
        ("out * shrink[:, None]", "out", "squared"),
        ("squares * inverse * inverse", "squares * inverse", "squared"),
        ("tl.store(mass_ptr + place, mass * inverse", "tl.store(mass_ptr + place, mass", "squared"),
        ("tl.where(targets, exps, 0.0)", "exps", "squared"),
        ("among = tl.where(targets, scores, _NOTHING)", "among = scores", "log_mass"),
        ("scores = tl.where(shown, scores, _NOTHING)", "scores = scores", "squared"),
        ("mass = mass * tl.math.exp2(top - known_top)", "mass = mass", "log_mass"),
        ("(top - maximum) * _LN_2", "top - maximum", "log_mass"),
        ("+ tl.log(inverse)", "", "log_mass"),
        ("tl.where(seen, log_mass, 0.0)", "log_mass", "log_mass"),
        ("tl.where(seen, 1 / mass, 0.0)", "1 / mass", "log_mass"),
        ("inverse = tl.where(total > 0, 1 / total, 0.0)", "inverse = 1 / total", "squared"),
        ("_finite(maximum), mask=inside", "maximum, mask=inside", "squared"),
        ("first, last = n_plain, n_all", "first, last = n_plain, n_plain", "squared"),
    ],
    "elements": [
        ("same_document & ", "", "packed"),
        ("& _CLASS_BITS) != 0", ") != 0", "packed"),
        ("targets = targets | (tl.load", "targets = (tl.load", "squared"),
        ("targets = targets | (same", "targets = (same", "squared"),
        ("+ pick * n_queries", "", "squared"),
        ("shown = keys < n_keys", "shown = keys >= 0", "squared unmasked"),
        ("+ queries * n_keys + keys", "+ keys", "squared"),
        ("1.0 / (1.0 - dropout)", "1.0", "dropout"),
    ],
}  # fmt: skip


def make_case(name):
    patterns = [PATTERNS[0], PATTERNS[5], PATTERNS[7], PATTERNS[8]]
    if name == "packed":
        documents = (torch.arange(37) // 10).expand(2, 37)
        ids = torch.randint(0, 9, (2, 37), generator=torch.Generator().manual_seed(5))
        sequences = Sequences(torch.ones(2, 37, dtype=torch.bool), ids, documents_BT=documents)
        call = make_call(PATTERNS[:2], length=37, dtype=torch.float32)
        packed = [Offset(1) | TokenClass("c", (3, 4)), TokenClass("c", (3, 4))]
        return dataclasses.replace(call, groups=tuple((pattern.targets(sequences), 1) for pattern in packed))
    more = {"log_mass": name == "log_mass", "dropout": 0.3 if name == "dropout" else 0.0}
    return make_call(patterns, "none" if name == "unmasked" else "pairs", length=37, dtype=torch.float32, **more)


def evaluate(backend, call):
    """Output, statistics, and the gradients of random sums of all these."""
    generator = torch.Generator().manual_seed(2)
    out, rows = backend.attend(call)
    results = out, rows.squares_BHQ, rows.mass_BHQ
    total = sum((r * torch.randn(r.shape, generator=generator).to(r.dtype)).sum() for r in results)
    gradients = torch.autograd.grad(total, (call.query_BHQD, call.key_BHKD, call.value_BHKD))
    return [result.detach().double() for result in (*results, rows.n_targets_BHQ, *gradients)]


_expected = {}


def is_right(name):
    """Whether the kernels give what the reference does; with dropout, what they gave before they were changed."""
    call = make_case(name)
    torch.manual_seed(3)
    found = evaluate(triton, call)
    if name not in _expected:
        _expected[name] = found if name == "dropout" else evaluate(reference, in_double(call))
    return all(
        torch.isfinite(ours).all() and (ours - theirs).norm() <= 3e-6 * (1 + theirs.norm())
        for ours, theirs in zip(found, _expected[name], strict=True)
    )


CASES = ("squared", "unmasked", "log_mass", "dropout", "packed")


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_is_not_changed_is_right(small_tiles):  # noqa: F811
    assert all(is_right(name) for name in CASES)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(
    ("kernels", "old", "new", "cases"),
    [(kernels, *mutation) for kernels, mutations in MUTATIONS.items() for mutation in mutations],
    ids=lambda text: text.replace(" ", "") or "nothing",
)
def test_what_is_changed_is_missed(kernels, old, new, cases, small_tiles, monkeypatch, tmp_path):  # noqa: F811
    if "dropout" not in _expected:
        assert is_right("dropout"), "before the change"
    package = Path(triton.__file__).parent
    for name in ("elements", "forward", "backward"):
        source = (package / f"{name}.py").read_text(encoding="utf-8")
        if name == kernels:
            assert old in source, "a mutation must change something"
            source = source.replace(old, new)
        # Each changed file imports the changed elements.
        source = source.replace("attention_guidance.loss.triton.elements", "mutated_elements")
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(f"mutated_{name}", tmp_path / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, f"mutated_{name}", module)
        spec.loader.exec_module(module)
        if name != "elements":
            monkeypatch.setattr(launch, name, module)
    for case in cases.split():
        assert not is_right(case)
