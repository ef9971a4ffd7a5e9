"""Flash attention as transformers calls it, over kernels in plain torch, for machines without a GPU."""

from collections.abc import Iterator

import pytest
import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers import modeling_flash_attention_utils as flash
from transformers.masking_utils import flash_attention_mask


def attend(query, key, value, scaling, window):
    """One row as a flash kernel computes it, without padding: causal from the end. States are (heads, tokens, dim)."""
    key, value = (states.repeat_interleave(len(query) // len(key), dim=0) for states in (key, value))
    age = (torch.arange(query.shape[1]) + key.shape[1] - query.shape[1])[:, None] - torch.arange(key.shape[1])
    hidden = (age < 0) | (age >= (window or key.shape[1]))
    weights = (query @ key.transpose(1, 2) * scaling).masked_fill(hidden, -torch.inf).softmax(dim=-1)
    return weights @ value, weights


def padding_free_attention(module, query, key, value, mask, scaling, sliding_window=None, **kwargs):
    """What flash attention computes, with the weights that it keeps to itself."""
    output, weights = torch.zeros_like(query), query.new_zeros(*query.shape[:3], key.shape[2])
    for row in range(len(query)):
        real = torch.ones(key.shape[2], dtype=torch.bool) if mask is None else mask[row].bool()
        keys, queries = real.nonzero().flatten(), real[-query.shape[2] :].nonzero().flatten()
        states = query[row][:, queries], key[row][:, keys], value[row][:, keys]
        output[row][:, queries], weights[row][:, queries[:, None], keys] = attend(*states, scaling, sliding_window)
    return output.transpose(1, 2).contiguous(), weights


def flash_kernel(q, k, v, softmax_scale=None, causal=False, window_size=(-1, -1)):
    rows = zip(*(states.transpose(1, 2) for states in (q, k, v)), strict=True)
    assert causal
    return torch.stack([attend(*row, softmax_scale, window_size[0] + 1)[0].transpose(0, 1) for row in rows])


def flash_varlen_kernel(q, k, v, cu_seqlens_q, cu_seqlens_k, softmax_scale=None, causal=False, window_size=(-1, -1)):
    queries, keys = ((starts[1:-1].long()).tolist() for starts in (cu_seqlens_q, cu_seqlens_k))
    rows = zip(q.tensor_split(queries), k.tensor_split(keys), v.tensor_split(keys), strict=True)
    parts = ([states[None] for states in row] for row in rows)
    return torch.cat([flash_kernel(*row, softmax_scale, causal, window_size)[0] for row in parts])


def installed() -> Iterator[None]:
    """Make `flash_attention_2` run here, and `padding_free`, the same once more with its weights to see.

    That one goes by transformers' own masks for flash attention; no part of its name may read "flash".
    """
    loaded = {
        "_loaded_implementation": "flash_attention_2",
        "_flash_fn": flash_kernel,
        "_flash_varlen_fn": flash_varlen_kernel,
        "_flash_with_kvcache_fn": None,
        "_pad_fn": flash._pad_input,
        "_unpad_fn": flash._unpad_input,
        "_process_flash_kwargs_fn": flash._lazy_define_process_function(flash_varlen_kernel),
        "_process_with_kvcache_kwargs_fn": dict,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in loaded.items():
            patch.setattr(flash, name, value)
        patch.setitem(AttentionInterface._global_mapping, "padding_free", padding_free_attention)
        patch.setitem(AttentionMaskInterface._global_mapping, "padding_free", flash_attention_mask)
        yield
