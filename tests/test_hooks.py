"""The primitives under the methods: cache forks, attention rows, the stack, residual edits."""

import copy

import pytest
import torch
from tiny import inputs_for, tiny_llava
from transformers import DynamicCache, LlamaConfig, StaticCache

from hooks import HookStack, Placed, UnsupportedModelError, edit_tokens, hidden_of, with_hidden
from hooks.families import ImagePatches, PatchGrid
from hooks.prefills.attention import AttentionReader, read_attention
from hooks.prefills.cache import first_key_column, fork, past_length
from hooks.prefills.queries import image_queries, real_tokens, surrounded, text_queries, visual_input

CONFIG = LlamaConfig(
    vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2
)
SLIDING = copy.deepcopy(CONFIG)
SLIDING.sliding_window = 6
SLIDING.layer_types = ["sliding_attention", "full_attention"]


def states(length, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, 2, length, 4, generator=generator), torch.randn(1, 2, length, 4, generator=generator)


def caches():
    return {
        "dynamic": DynamicCache(config=CONFIG),
        "dynamic, layers as they come": DynamicCache(),
        "static": StaticCache(config=CONFIG, max_cache_len=16),
        "sliding": DynamicCache(config=SLIDING),
        "static sliding": StaticCache(config=SLIDING, max_cache_len=16),
    }


@pytest.mark.parametrize("name", caches())
@pytest.mark.parametrize("past", [0, 3, 9])
def test_a_fork_reads_like_the_original_and_leaves_it_alone(name, past):
    cache, twin = caches()[name], caches()[name]
    for layer in range(2):
        for one in (cache, twin):
            if past:
                one.update(*states(past, layer), layer)
    before = copy.deepcopy(cache)
    forked = fork(cache)
    assert past_length(forked) == past
    for layer in range(2):
        keys, values = forked.update(*states(4, 10 + layer), layer)
        expected_keys, expected_values = twin.update(*states(4, 10 + layer), layer)
        first = first_key_column(forked, layer, 4)
        assert torch.equal(keys[:, :, first : first + 4], states(4, 10 + layer)[0]), "where the new keys are"
        assert torch.equal(keys, expected_keys)
        assert torch.equal(values, expected_values)
    assert past_length(cache) == past
    assert len(cache.layers) == len(before.layers)
    for one, other in zip(cache.layers, before.layers, strict=True):
        for attribute, value in vars(other).items():
            now = getattr(one, attribute)
            assert torch.equal(now, value) if isinstance(value, torch.Tensor) else now == value, attribute
    assert type(cache) in (DynamicCache, StaticCache)
    assert fork(None) is None
    assert past_length(None) == first_key_column(None, 0, 4) == 0


def test_key_columns_of_a_static_cache_are_not_the_last():
    cache = StaticCache(config=CONFIG, max_cache_len=16)
    cache.update(*states(3, 0), 0)
    assert first_key_column(cache, 0, 4) == 3


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_attention_rows_equal_the_eager_maps(attention):
    eager, processor = tiny_llava(attention="eager")
    model, _ = tiny_llava(attention=attention)
    inputs = inputs_for(processor, [("USER : <image> is there a dog ?", [1]), ("two", [])])
    seq = inputs["input_ids"].shape[1]
    queries = torch.tensor([[seq - 3, seq - 1], [seq - 1, seq - 1]])
    weights = torch.tensor([[[0.25, 0.75]], [[1.0, 0.0]]])
    reader = AttentionReader(queries, weights, {1: 0, 4: 0})
    layers = model.model.language_model.layers
    ran = []
    handles = [
        layer.mlp.register_forward_pre_hook(lambda module, args, i=i: ran.append(i)) for i, layer in enumerate(layers)
    ]
    configs = [layer.self_attn.config for layer in layers]
    with torch.no_grad():
        read_attention({i: layer.self_attn for i, layer in enumerate(layers)}, reader, lambda: model(**inputs))
    assert ran == [0, 1, 2, 3], "stops in the attention of the last layer that is read"
    assert all(layer.self_attn.config is config for layer, config in zip(layers, configs, strict=True))
    [handle.remove() for handle in handles]
    with torch.no_grad():
        maps = eager(**inputs, output_attentions=True).attentions
    for layer in (1, 4):
        mean = maps[layer].mean(dim=1)
        assert torch.allclose(reader.maps[layer][0, 0], 0.25 * mean[0, -3] + 0.75 * mean[0, -1], atol=1e-6)
        assert torch.allclose(reader.maps[layer][1, 0], mean[1, -1], atol=1e-6)


def test_a_mask_that_cannot_be_read_is_an_error():
    reader = AttentionReader(torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1, 1), {0: 0})
    module = torch.nn.Module()
    module.layer_idx = 0
    with pytest.raises(UnsupportedModelError, match="sdpa"):
        reader.add(module, torch.randn(1, 2, 3, 4), torch.randn(1, 2, 3, 4), torch.ones(1, 3), None, None)


def test_text_queries_are_the_text_after_each_image():
    text = torch.tensor([[0, 1, 0, 0, 1, 0, 0, 1, 1], [0, 0, 0, 0, 0, 1, 1, 1, 1]], dtype=torch.bool)
    grid = (PatchGrid(1, 2),)
    images = [ImagePatches(0, 0, torch.tensor([2, 3]), grid), ImagePatches(0, 1, torch.tensor([5, 6]), grid)]
    images = surrounded(images, text, torch.tensor([[0] + [1] * 8] * 2, dtype=torch.bool))
    assert [one.before.tolist() for one in images] == [[1], [1, 2, 3, 4]]
    assert [one.text.tolist() for one in images] == [[4, 7, 8], [7, 8]]
    queries, weights = text_queries(images, 2, 9)
    assert queries.tolist() == [[4, 7, 8], [8, 8, 8]]
    assert torch.allclose(weights, torch.tensor([[[1 / 3] * 3, [0, 1 / 2, 1 / 2]], [[0.0] * 3] * 2]))


def test_image_queries_are_the_last_row_of_the_last_grid():
    grids = (PatchGrid(1, 2), PatchGrid(2, 2))
    images = [ImagePatches(1, 0, torch.tensor([1, 2, 4, 5, 6, 7]), grids)]
    queries, weights = image_queries(images, 2, 9)
    assert queries[1].tolist() == [6, 7]
    assert torch.equal(weights, torch.tensor([[[0.0, 0.0]], [[0.5, 0.5]]]))


def test_real_tokens_from_any_mask():
    plain = {"attention_mask": torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])}
    expected = plain["attention_mask"].bool()
    causal = torch.tril(torch.ones(4, 4, dtype=torch.bool)) & expected[:, None, None, :]
    additive = torch.where(causal, 0.0, torch.finfo(torch.float32).min)
    sliding = causal & torch.triu(torch.ones(4, 4, dtype=torch.bool), diagonal=-1)
    for mask in (expected.long(), causal, additive, {"full_attention": causal}, sliding):
        assert torch.equal(real_tokens({"attention_mask": mask}, 2, 4), expected)
    assert real_tokens({}, 2, 4).all()
    cache = DynamicCache()
    cache.update(*states(1, 0), 0)
    assert torch.equal(real_tokens({**plain, "past_key_values": cache}, 2, 3), expected[:, 1:])


def test_visual_input_is_pixels_or_features_not_tokens():
    pixels, features = torch.zeros(1), object()
    assert visual_input({"pixel_values": pixels}) is pixels
    assert visual_input({"mm_encoder_outputs": {"image": features}}) is features
    assert visual_input({"mm_encoder_outputs": {"image": None}, "pixel_values": None}) is None
    assert visual_input({"input_ids": torch.zeros(1), "mm_encoder_outputs": None}) is None


def test_edits_keep_the_shape_that_a_family_returns():
    hidden = torch.randn(2, 3, 4)
    rows, positions = torch.tensor([0, 1]), torch.tensor([2, 0])
    edited = edit_tokens((hidden, "rest"), rows, positions, lambda tokens: tokens * 2)
    assert edited[1] == "rest"
    assert torch.equal(hidden_of(edited)[0, 2], hidden[0, 2] * 2)
    assert torch.equal(hidden_of(edited)[0, :2], hidden[0, :2])
    assert with_hidden(hidden, hidden_of(edited)) is edited[0]


def test_the_stack_restores_attributes_and_their_absence():
    module = torch.nn.Linear(1, 1)
    module.note = "mine"
    with HookStack() as stack:
        stack.attribute(module, "note", "ours")
        stack.attribute(module, "generate", len)
        assert (module.note, module.generate) == ("ours", len)
    assert module.note == "mine"
    assert "generate" not in vars(module)


def test_index_tensors_are_placed_once_per_device():
    first, second = torch.arange(3), torch.ones(2)
    placed = Placed(first, second)
    assert placed.on(torch.device("cpu")) == (first, second)
    assert placed.on(torch.device("meta"))[0].device.type == "meta"
    assert placed.on(torch.device("meta")) is placed.on(torch.device("meta"))
