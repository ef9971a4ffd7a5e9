"""A whole answer in one forward without a cache, through decoder blocks that are written out here."""

import contextlib

import torch
from tiny_families import longer

from hooks import beside_generate, prompt_positions


def block_by_hand(layer, hidden, kwargs, after_attention, after_mlp):
    """One block as transformers computes it, with two places to change something."""
    if not hasattr(layer, "post_attention_layernorm"):  # Cohere's: both from the same
        normed = layer.input_layernorm(hidden)
        return hidden + layer.self_attn(hidden_states=normed, **kwargs)[0] + after_mlp(layer.mlp(normed))
    for names in (  # norms before and behind either
        ("post_attention_layernorm", "pre_feedforward_layernorm", "post_feedforward_layernorm"),
        ("post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm"),
    ):
        if all(hasattr(layer, name) for name in names):
            behind, before, last = (getattr(layer, name) for name in names)
            update = behind(layer.self_attn(hidden_states=layer.input_layernorm(hidden), **kwargs)[0])
            hidden = after_attention(hidden + update, update)
            return hidden + last(after_mlp(layer.mlp(before(hidden))))
    if hasattr(layer, "linear_attn"):
        normed, state = layer.input_layernorm(hidden), kwargs["past_key_values"]
        update = layer.linear_attn(hidden_states=normed, cache_params=state, attention_mask=kwargs["attention_mask"])
        hidden = after_attention(hidden + update, update)
        return hidden + after_mlp(layer.mlp(layer.post_attention_layernorm(hidden)))
    swin = layer.self_attn.config.model_type == "chameleon" and layer.self_attn.config.swin_norm
    attended = layer.self_attn(hidden_states=hidden if swin else layer.input_layernorm(hidden), **kwargs)[0]
    update = layer.input_layernorm(attended) if swin else attended
    hidden = after_attention(hidden + update, update)
    answer = after_mlp(layer.mlp(hidden if swin else layer.post_attention_layernorm(hidden)))
    return hidden + (layer.post_attention_layernorm(answer) if swin else answer)


@contextlib.contextmanager
def by_hand(layers, after_attention=lambda block, stream, update: stream, after_mlp=lambda block, answer: answer):
    """Inside the `with`, these blocks are computed by hand; each change is told which block it is in."""

    def forward_of(block, layer):
        original = layer.forward

        def forward(hidden_states, **kwargs):
            like = original(hidden_states, **kwargs)
            hidden = block_by_hand(
                layer,
                hidden_states,
                kwargs,
                lambda stream, update: after_attention(block, stream, update),
                lambda answer: after_mlp(block, answer),
            )
            return (hidden, *like[1:]) if isinstance(like, tuple) else hidden

        return forward

    forwards = {layer: forward_of(block, layer) for block, layer in enumerate(layers)}
    for layer, forward in forwards.items():
        layer.forward = forward
    try:
        yield
    finally:
        for layer in forwards:
            del layer.forward


@torch.no_grad()
def whole(model, inputs, tokens):
    """The output for a batch of prompts and what was said, as (rows, longer) ids, in one forward without a cache."""
    mask = inputs["attention_mask"]
    new = tokens.shape[1] - mask.shape[1]
    positions = prompt_positions(model, inputs)
    given = longer(inputs, new)
    given["input_ids"] = tokens
    given["attention_mask"] = torch.cat([mask, mask.new_ones(len(mask), new)], dim=1)
    given["position_ids"] = torch.cat([positions, positions[..., -1:] + torch.arange(1, new + 1)], dim=-1)
    with beside_generate():
        return model(**given, use_cache=False, output_hidden_states=True)
