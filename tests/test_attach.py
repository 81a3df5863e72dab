"""guide(): what it adds to the loss, what it leaves alone, and how it goes away."""

import copy

import pytest
import torch

from attention_guidance import GuidanceError, Schedule, guide
from attention_guidance.errors import AttachError, ConfigError, PatternError
from attention_guidance.patterns import get_pattern

HEADS = "next:1 previous:1 first:1"


def loss_and_gradients(model, batch):
    model.zero_grad()
    output = model(**batch)
    output.loss.backward()
    return output, {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


def expected_guidance(model, batch, heads, objective="squared_error"):
    """Mean over rows, summed over heads, from the maps that the model's own eager attention gives out."""
    model.set_attn_implementation("eager")
    maps = model(**batch, output_attentions=True).attentions
    valid = batch["attention_mask"].bool()
    total = 0
    for layer in maps:
        for head, name in enumerate(heads):
            errors = []
            for b in range(len(valid)):
                positions = valid[b].nonzero().flatten().tolist()
                for i in positions:
                    offset = {"next": 1, "previous": -1}.get(name)
                    target = positions[0] if offset is None else i + offset
                    if target in positions:
                        row = layer[b, head, i]
                        squared = row.square().sum() - 2 * row[target] + 1
                        errors.append(squared if objective == "squared_error" else -row[target].log())
            total = total + torch.stack(errors).mean()
    return total


@pytest.mark.parametrize("objective", ["squared_error", "log_mass"])
@pytest.mark.parametrize("base", ["sdpa", "eager"])
def test_loss_is_objective_plus_weight_times_guidance(make_model, batch, family, base, objective):
    plain = make_model(family, attn_implementation=base).double()
    objective_value = plain(**batch).loss
    guidance_value = expected_guidance(plain, batch, ["next", "previous", "first"], objective)
    expected = objective_value + 0.3 * guidance_value
    expected.backward()
    guided = make_model(family, attn_implementation=base).double()
    handle = guide(guided, HEADS, weight=0.3, loss=objective)
    output, gradients = loss_and_gradients(guided, batch)
    assert output.loss.item() == pytest.approx(expected.item(), rel=1e-10)
    assert handle.loss().item() == pytest.approx(0.3 * guidance_value.item(), rel=1e-10)
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-8, atol=1e-12, msg=name)


@pytest.mark.parametrize("base", ["sdpa", "eager"])
def test_weight_zero_is_bit_identical(make_model, batch, family, base):
    sizes = {"attention_probs_dropout_prob": 0.1, "hidden_dropout_prob": 0.1}
    plain, guided = (make_model(family, attn_implementation=base, **sizes) for _ in range(2))
    guide(guided, HEADS, weight=0.0)
    torch.manual_seed(7)
    output, gradients = loss_and_gradients(plain, batch)
    torch.manual_seed(7)
    guided_output, guided_gradients = loss_and_gradients(guided, batch)
    assert torch.equal(output.loss, guided_output.loss)
    assert torch.equal(output.logits, guided_output.logits)
    for name in gradients:
        assert torch.equal(gradients[name], guided_gradients[name]), name


def test_guidance_changes_gradients_of_guided_heads_alone(make_model, batch):
    """Negative control, and the reach of the loss: in the last layer only the guided heads' queries feel it."""
    plain, guided = make_model(), make_model()
    guide(guided, "2: next:1", weight=1.0)
    _, before = loss_and_gradients(plain, batch)
    _, after = loss_and_gradients(guided, batch)
    name = "roberta.encoder.layer.2.attention.self.query.weight"
    change = (after[name] - before[name]).view(4, 8, 32).abs().amax((1, 2))
    assert change[0] > 1e-4
    assert change[1:].max() < 1e-7


def test_training_follows_the_pattern(make_model, batch):
    model = make_model()
    handle = guide(model, HEADS, weight=1.0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(60):
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert max(head.error for head in handle.per_head()) < 0.2


def test_evaluation_is_the_objective_alone(make_model, batch):
    plain, guided = make_model().eval(), make_model().eval()
    guide(guided, HEADS)
    assert torch.equal(plain(**batch).loss, guided(**batch).loss)


def test_remove_leaves_no_trace(make_model, batch, family):
    model = make_model(family)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attributes = {name: set(module.__dict__) for name, module in model.named_modules()}
    config = copy.deepcopy(model.config)
    handle = guide(model, HEADS)
    assert model.config._attn_implementation != config._attn_implementation
    handle.remove()
    handle.remove()
    assert model.config._attn_implementation == config._attn_implementation
    assert not model._forward_hooks
    assert not model._forward_pre_hooks
    assert not model._forward_hooks_with_kwargs
    assert {name: set(module.__dict__) for name, module in model.named_modules()} == attributes
    assert model.state_dict().keys() == state.keys()
    assert torch.equal(model(**batch).loss, make_model(family)(**batch).loss)


def test_the_saved_model_is_plain(make_model, batch, family, tmp_path):
    model = make_model(family)
    guide(model, HEADS)
    model.save_pretrained(tmp_path)
    assert "attention_guidance" not in (tmp_path / "config.json").read_text()
    loaded = type(model).from_pretrained(tmp_path)
    assert torch.equal(loaded(**batch).logits, model.eval()(**batch).logits)


def test_padding_does_not_count(make_model, batch):
    """Sequence 1 alone without padding has the guidance that it has padded, on either side."""
    model = make_model().eval()
    handle = guide(model, HEADS)
    values = []
    ids = batch["input_ids"][:1, :9]
    pads = torch.ones(1, 3, dtype=torch.long)
    # Positions are those of the tokens in all three, so that the attention is the same.
    positions = torch.arange(2, 11)[None]
    for left, right in ((0, 0), (0, 3), (3, 0)):
        padded = torch.cat([pads[:, :left], ids, pads[:, :right]], 1)
        mask = torch.cat([0 * pads[:, :left], torch.ones_like(ids), 0 * pads[:, :right]], 1)
        position_ids = torch.cat([pads[:, :left], positions, pads[:, :right]], 1)
        with handle.measure(), torch.no_grad():
            model(input_ids=padded, attention_mask=mask, position_ids=position_ids)
        values.append([head.error for head in handle.per_head()])
    torch.testing.assert_close(values[1], values[0])
    torch.testing.assert_close(values[2], values[0])


def test_token_classes_guide(make_model, batch):
    model = make_model()
    handle = guide(model, "mine:1", token_classes={"mine": [7, 8, 9]})
    model(**batch).loss.backward()
    assert {head.pattern for head in handle.per_head()} == {"mine"}
    assert isinstance(get_pattern("mine", token_classes={"mine": [7]}).name, str)


def test_schedule_moves_with_step(make_model, batch):
    handle = guide(make_model(), HEADS, weight=0.4, schedule=Schedule("linear"), total_steps=4)
    weights = []
    for _ in range(5):
        weights.append(handle.current_weight)
        handle.step()
    assert weights == pytest.approx([0.4, 0.3, 0.2, 0.1, 0.0])


def test_a_schedule_without_length_says_what_to_do(make_model, batch):
    model = make_model()
    guide(model, HEADS, schedule="linear")
    with pytest.raises(ConfigError, match=r"total_steps=.*guidance.callback"):
        model(**batch)


def test_loss_for_loops_with_their_own_objective(make_model, batch):
    model = make_model()
    handle = guide(model, HEADS, weight=0.5)
    with pytest.raises(AttachError, match="no guided forward pass"):
        handle.loss()
    labels = batch.pop("labels")
    with torch.no_grad():
        assert model(**batch).loss is None
    own = torch.nn.functional.cross_entropy(model(**batch).logits.flatten(0, 1), labels.flatten())
    (own + handle.loss()).backward()
    total = (own + handle.loss()).item()
    assert model(**batch, labels=labels).loss.item() == pytest.approx(total)


def test_tuple_output_holds_the_loss_too(make_model, batch):
    model = make_model()
    handle = guide(model, HEADS)
    objective = make_model()(**batch).loss.item()
    assert model(**batch, return_dict=False)[0].item() == pytest.approx(objective + handle.loss().item())


def test_positional_arguments_count(make_model, batch):
    model = make_model()
    handle = guide(model, HEADS)
    by_name = model(**batch).loss.item()
    assert model(batch["input_ids"], batch["attention_mask"], labels=batch["labels"]).loss.item() == by_name
    assert len(handle.per_head()) == 9


def test_models_that_share_a_config_do_not_share_guidance(make_model, batch):
    guided = make_model()
    other = type(guided)(guided.config).train()
    before = other(**batch).loss.item()
    guide(guided, HEADS, weight=1.0)
    assert other(**batch).loss.item() == before


def test_inputs_by_embedding(make_model, batch):
    model = make_model()
    handle = guide(model, HEADS)
    del batch["labels"]
    with_ids = model(**batch) and [head.error for head in handle.per_head()]
    positions = torch.cumsum(batch["attention_mask"], 1) * batch["attention_mask"] + 1
    embeddings = model.roberta.embeddings.word_embeddings(batch["input_ids"])
    model(inputs_embeds=embeddings, attention_mask=batch["attention_mask"], position_ids=positions)
    assert [head.error for head in handle.per_head()] == pytest.approx(with_ids, rel=1e-5)


class TestErrors:
    def test_heads_that_do_not_fit(self, make_model):
        for heads, message in (("next:5", "4 heads"), ("7: next:1", "layers 0 to 2"), ("odd:1", "unknown pattern")):
            with pytest.raises(PatternError, match=message):
                guide(make_model(), heads)

    def test_settings(self, make_model):
        for settings in ({"weight": -1}, {"weight": float("nan")}, {"loss": "l1"}, {"normalization": "sum"}):
            with pytest.raises(ConfigError):
                guide(make_model(), HEADS, **settings)

    def test_twice(self, make_model):
        model = make_model()
        guide(model, HEADS)
        with pytest.raises(AttachError, match=r"guided already; call remove\(\)"):
            guide(model, HEADS)

    def test_a_refused_guide_changes_nothing(self, make_model):
        model = make_model()
        with pytest.raises(GuidanceError):
            guide(model, "next:9")
        assert model.config._attn_implementation == "sdpa"
        assert not model._forward_hooks

    def test_attention_outside_the_interface(self):
        from transformers import XLMConfig, XLMWithLMHeadModel

        with pytest.raises(AttachError, match="XLMWithLMHeadModel does not call its attention through"):
            guide(XLMWithLMHeadModel(XLMConfig(n_words=30, emb_dim=16, n_layers=1, n_heads=2)), "next:1")

    def test_attention_that_is_never_called(self, make_model, batch):
        model = make_model()
        guide(model, HEADS)
        model.set_attn_implementation("sdpa")
        with pytest.raises(AttachError, match="never called the guided attention of layers \\[0, 1, 2\\]"):
            model(**batch)

    def test_decoders(self):
        from transformers import RobertaConfig, RobertaForCausalLM

        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        with pytest.raises(AttachError, match="decoder"):
            guide(RobertaForCausalLM(RobertaConfig(vocab_size=30, is_decoder=True, **sizes)), "next:1")

    def test_reentrant_checkpointing(self, make_model, batch):
        model = make_model()
        model.gradient_checkpointing_enable({"use_reentrant": True})
        guide(model, HEADS)
        with pytest.raises(AttachError, match="use_reentrant"):
            model(**batch)


def test_checkpointing_gives_the_same_gradients(make_model, batch):
    plain, checkpointed = make_model(), make_model()
    guide(plain, HEADS)
    guide(checkpointed, HEADS)
    checkpointed.gradient_checkpointing_enable({"use_reentrant": False})
    output, gradients = loss_and_gradients(plain, batch)
    checkpointed_output, checkpointed_gradients = loss_and_gradients(checkpointed, batch)
    assert torch.equal(output.loss, checkpointed_output.loss)
    for name in gradients:
        torch.testing.assert_close(gradients[name], checkpointed_gradients[name])


@pytest.mark.parametrize("backend", ["batched", "blocked"])
@pytest.mark.parametrize("heads", ["next:1 previous:1", "next:4"])
def test_the_output_of_attention_can_be_changed_in_place(make_model, batch, heads, backend):
    found = []
    for change in (lambda out: out.mul_(2), lambda out: out * 2):
        model = make_model()
        guide(model, heads, backend=backend)
        attention = model.roberta.encoder.layer[0].attention.self
        attention.register_forward_hook(lambda module, args, output, change=change: (change(output[0]), output[1]))
        found.append(loss_and_gradients(model, batch)[1])
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name])


def test_second_derivatives_and_torch_func_take_eager_attention(make_model, batch):
    model = make_model(attn_implementation="eager")
    guide(model, HEADS)
    words = model.roberta.embeddings.word_embeddings.weight
    (gradient,) = torch.autograd.grad(model(**batch).loss, words, create_graph=True)
    gradient.square().sum().backward()
    assert words.grad.any()
    values = {name: value.detach() for name, value in model.named_parameters()}
    found = torch.func.grad(lambda values: torch.func.functional_call(model, values, (), batch).loss)(values)
    torch.testing.assert_close(found["roberta.embeddings.word_embeddings.weight"], gradient.detach())


def test_auto_serves_torch_func(make_model, batch):
    """With the reference, as the fast backends define their own gradient."""
    model = make_model()
    handle = guide(model, HEADS)
    model(**batch).loss.backward()
    assert "auto -> batched" in handle.explain_backend()
    values = {name: value.detach() for name, value in model.named_parameters()}
    found = torch.func.grad(lambda values: torch.func.functional_call(model, values, (), batch).loss)(values)
    assert "auto -> reference" in handle.explain_backend()
    for name, value in model.named_parameters():
        torch.testing.assert_close(found[name], value.grad)
    handle.remove()
    guide(model, HEADS, backend="batched")
    with pytest.raises(AttachError, match=r"torch\.func and forward-mode derivatives do not take; reference can"):
        torch.func.grad(lambda values: torch.func.functional_call(model, values, (), batch).loss)(values)


def test_auto_serves_forward_mode(make_model, batch):
    model = make_model(attn_implementation="sdpa").double()
    handle = guide(model, HEADS)
    words = model.roberta.embeddings.word_embeddings.weight.detach().clone()
    direction = torch.randn(words.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def loss(values):
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            named = {"roberta.embeddings.word_embeddings.weight": values}
            return torch.func.functional_call(model, named, (), batch).loss

    with torch.autograd.forward_ad.dual_level():
        found = torch.autograd.forward_ad.unpack_dual(loss(torch.autograd.forward_ad.make_dual(words, direction)))
    assert "auto -> reference" in handle.explain_backend()
    (gradient,) = torch.autograd.grad(loss(words.requires_grad_()), words)
    torch.testing.assert_close(found.tangent, (gradient * direction).sum())


@pytest.mark.parametrize("backend", ["batched", "blocked", "triton"])
@pytest.mark.parametrize("heads", [HEADS, "next:4"])
@pytest.mark.parametrize("of", ["loss", "guidance"])
def test_second_derivatives_name_what_can(make_model, batch, backend, heads, of):
    """Also where the gradient that comes in is a constant, as that of guidance alone is."""
    if backend == "triton":
        pytest.importorskip("triton")
    model = make_model()
    handle = guide(model, heads, backend=backend)
    words = model.roberta.embeddings.word_embeddings.weight
    loss = model(**batch).loss
    (gradient,) = torch.autograd.grad(loss if of == "loss" else handle.loss(), words, create_graph=True)
    with pytest.raises(AttachError, match=r"second derivatives .* use backend='reference'.*'eager'"):
        gradient.square().sum().backward()


def test_checkpointing_counts_once(make_model, batch):
    """Recomputation in the backward pass leaves what the forward pass has counted."""
    model = make_model()
    model.gradient_checkpointing_enable({"use_reentrant": False})
    handle = guide(model, HEADS)
    loss = model(**batch).loss
    value, rows = handle.loss().item(), handle.rows_per_head()
    loss.backward()
    assert (handle.loss().item(), handle.rows_per_head()) == (value, rows)


def test_measuring_leaves_the_evaluation_loss_alone(make_model, batch):
    model = make_model().eval()
    objective = model(**batch).loss
    handle = guide(model, HEADS, weight=1.0)
    with handle.measure(), torch.no_grad():
        assert torch.equal(model(**batch).loss, objective)
        assert torch.equal(model(**batch).loss, objective)
        twice = handle.per_head()
    other = {name: tensor[:2] for name, tensor in batch.items()}
    model(**other)
    assert handle.per_head() == twice, "a pass in evaluation mode outside of measure() does not count"
    model.train()(**other)
    assert handle.per_head() != twice, "a training pass does"


def test_masks_with_four_dimensions(make_model, batch):
    """A mask over pairs says the same as the padding mask: loss, and which queries count."""
    model = make_model()
    handle = guide(model, HEADS, weight=1.0)
    positions = torch.cumsum(batch["attention_mask"], 1) * batch["attention_mask"] + 1
    by_token = model(**batch, position_ids=positions).loss.item()
    errors = handle.per_head()
    pairs = batch["attention_mask"].bool()[:, None, None, :].expand(-1, 1, 12, 12)
    by_pair = model(**(batch | {"attention_mask": pairs}), position_ids=positions).loss.item()
    assert by_pair == pytest.approx(by_token, rel=1e-6)
    assert [h.error for h in handle.per_head()] == pytest.approx([h.error for h in errors], rel=1e-6)


def test_positions_that_are_not_those_of_the_inputs():
    """Audio: the attention mask counts samples, attention counts frames, and the padded ones do not count."""
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    config = Wav2Vec2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48, conv_dim=(8, 8),
        conv_stride=(5, 4), conv_kernel=(5, 4), num_feat_extract_layers=2, num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2, mask_time_prob=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = Wav2Vec2Model(config).eval()
    samples = torch.randn(2, 400)
    mask = torch.ones(2, 400, dtype=torch.long)
    mask[1, 200:] = 0
    handle = guide(model, "next:1")
    with handle.measure(), torch.no_grad():
        model(samples, attention_mask=mask)
    measured = [head.error for head in handle.per_head()]
    handle.remove()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        maps = model(samples, attention_mask=mask, output_attentions=True).attentions
    lengths = (20, 10)
    for layer, error in enumerate(measured):
        rows = []
        for sequence, length in enumerate(lengths):
            for i in range(length - 1):
                row = maps[layer][sequence, 0, i]
                rows.append((row.square().sum() - 2 * row[i + 1] + 1).item())
        assert error == pytest.approx(sum(rows) / len(rows), rel=1e-5)


def test_capped_scores_are_refused():
    """No encoder among the guidable caps its scores, so the argument is given by hand."""
    from transformers import BertConfig, BertModel
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    model = BertModel(BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=8))
    guide(model, "next:1")
    module = model.encoder.layer[0].attention.self
    q = torch.zeros(1, 2, 3, 8)
    with pytest.raises(AttachError, match="softcap"):
        ALL_ATTENTION_FUNCTIONS["attention_guidance"](module, q, q, q, None, softcap=30.0)


def test_a_handle_prints_its_heads_and_errors(make_model, batch):
    model = make_model(num_hidden_layers=2, num_attention_heads=4)
    handle = guide(model, "next:1 first@3", 0.05, schedule=Schedule("linear", end=1.0))
    name = type(model).__name__
    assert str(handle).splitlines() == [
        f"4 of 8 heads of {name} guided: weight 0.05 (linear), squared_error, backend auto",
        "  layer 0: next@0, first@3",
        "  layer 1: next@0, first@3",
    ]
    handle.total_steps, handle.steps_done = 4, 1
    model.train()(**batch)
    first, *layers = str(handle).splitlines()
    assert first.endswith("weight 0.05 (linear, now 0.0375), squared_error, backend auto -> batched")
    errors = [head.error for head in handle.per_head()]
    assert layers == [f"  layer {n}: next@0 {errors[2 * n]:.4f}, first@3 {errors[2 * n + 1]:.4f}" for n in range(2)]
