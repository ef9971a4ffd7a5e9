"""Tensor parallelism: every rank sees a part of the heads, and all choose what one process with all heads chooses."""

import pytest
import torch
from tiny import inputs_for, tiny_llava, tiny_processor
from torch import distributed, multiprocessing
from transformers import LlavaForConditionalGeneration

import scr
from hooks import UnsupportedModelError

RANKS = 2
PROMPTS = [
    ("USER : <image> is there a dog in the image ? ASSISTANT :", [1]),
    ("USER : two of <image> describe <image> yes", [2, 3]),
    ("is there a dog", []),
]


def run(model):
    inputs = inputs_for(tiny_processor(), PROMPTS)
    with scr.patch(model, num_sources=4) as patched, torch.no_grad():
        logits = model(**inputs).logits
        tokens = model.generate(**inputs, max_new_tokens=4, do_sample=False)
    with scr.patch(model, num_sources=4, heads=0.3) as sharpest, torch.no_grad():
        model(**inputs)
    plans = [(trace.sources.tolist(), trace.neighbors.tolist()) for trace in patched.traces]
    maps = [trace.attention for trace in [*patched.traces, *sharpest.traces]]
    return {"logits": logits, "tokens": tokens, "plans": plans, "maps": maps}


def rank_process(rank, folder):
    from transformers.distributed import DistributedConfig

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=RANKS)
    try:
        config = DistributedConfig(tp_size=RANKS)
        model = LlavaForConditionalGeneration.from_pretrained(folder / "model", distributed_config=config)
        result = run(model)
        attention = model.model.language_model.layers[0].self_attn
        result["heads"] = attention.q_proj.weight.to_local().shape[0] // attention.head_dim
        try:
            run(half_a_model())
        except UnsupportedModelError as error:
            result["without DTensors"] = str(error)
        torch.save(result, folder / f"rank{rank}.pt")
    finally:
        distributed.destroy_process_group()


def half_a_model():
    """Says that it has twice the heads which it computes, as a rank does whose parallelism is not transformers' own."""
    model, _ = tiny_llava()
    model.config.text_config.num_attention_heads *= 2
    return model


@pytest.mark.skipif(torch.accelerator.is_available(), reason="transformers would shard over accelerators, one a rank")
@pytest.mark.usefixtures("one_thread")
def test_ranks_choose_what_one_process_chooses(tmp_path):
    model, _ = tiny_llava()
    model.save_pretrained(tmp_path / "model")
    multiprocessing.spawn(rank_process, args=(tmp_path,), nprocs=RANKS)
    expected = run(model)
    assert len(expected["plans"]) == 6
    for rank in range(RANKS):
        found = torch.load(tmp_path / f"rank{rank}.pt")
        assert found["heads"] == model.config.text_config.num_attention_heads // RANKS
        assert found["plans"] == expected["plans"]
        assert all((one - two).abs().max() < 1e-6 for one, two in zip(found["maps"], expected["maps"], strict=True))
        assert (found["logits"] - expected["logits"]).abs().max() < 1e-5
        assert torch.equal(found["tokens"], expected["tokens"])
        assert "got 4 of 8 heads" in found["without DTensors"]


def test_a_part_of_the_heads_alone_is_refused():
    model = half_a_model()
    inputs = inputs_for(tiny_processor(), PROMPTS)
    with torch.no_grad():
        plain = model(**inputs).logits
        with scr.patch(model), pytest.raises(UnsupportedModelError, match="got 4 of 8 heads"):
            model(**inputs)
        assert torch.equal(model(**inputs).logits, plain)
