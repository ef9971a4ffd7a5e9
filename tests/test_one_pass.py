"""One-pass SCR on tiny models: against a slow recomputation from the network's numbers, and what its files must be."""

import json
import math
import shutil

import pytest
import torch
from reference import reference_logits
from tiny_families import TINY, VOCABULARY

import scr
from scr import ConfigError
from scr.errors import DataFileError
from scr.onepass import predictor as networks
from scr.onepass.card import PredictorCard
from scr.onepass.predictor import HIDDEN, PLACE, STATES, Predictor, places
from scr.onepass.storing import CARD_FILE, WEIGHTS_FILE, load_predictor, save_predictor

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPTS = [
    ("USER : <image> is there a dog", [1]),
    ("USER : two of <image> describe <image> yes", [2, 3]),
    ("is there a dog", []),
]
FIELDS = {"scale": 1.5, "num_sources": 4}


def trained(folder, tiny, text=True, seed=3, **changes):
    """A predictor with weights as if it had been trained: every number of it matters."""
    width = tiny.model.config.get_text_config().hidden_size
    card = {"model_type": tiny.model.config.model_type, "width": width, "text": text, "spread": 0.7, **changes}
    one = Predictor(PredictorCard(**card), seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        one.mean.copy_(torch.randn(one.mean.shape, generator=generator) / 10)
        one.deviation.copy_(0.5 + torch.rand(one.mean.shape, generator=generator))
    save_predictor(one, folder)
    return str(folder)


def naive_maps(folder, tiny, prompt):
    """(row, image) → map, by the words of `Predictor`, patch by patch."""
    from safetensors.torch import load_file

    weights, card = load_file(f"{folder}/{WEIGHTS_FILE}"), json.loads((folder / CARD_FILE).read_text())
    seen = []
    handle = tiny.layers[0].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]), with_kwargs=True
    )
    with torch.no_grad():
        tiny.model(**prompt.inputs)
    handle.remove()
    visual, real, maps = tiny.visual(prompt.inputs), prompt.inputs["attention_mask"].bool(), {}
    for (row, image), (positions, grids) in prompt.layout.items():
        after = [t for t in range(max(positions) + 1, real.shape[1]) if real[row, t] and not visual[row, t]]
        text = torch.stack([seen[0][row, token] for token in after]).mean(dim=0)
        scores, patch = [], 0
        for number, (height, width) in enumerate(grids):
            for down in range(height):
                for right in range(width):
                    where = [2 * down / (height - 1) - 1 if height > 1 else 0]
                    where += [2 * right / (width - 1) - 1 if width > 1 else 0]
                    waves = [
                        function(math.pi / 2 * wave * one)
                        for wave in (1, 2, 4, 8)
                        for function in (math.sin, math.cos)
                        for one in where
                    ]
                    place = torch.tensor([*where, *waves, number / (len(grids) - 1) if len(grids) > 1 else 0])
                    parts = [seen[0][row, positions[patch]], *([text] if card["text"] else []), place]
                    inputs = (torch.cat(parts) - weights["mean"]) / weights["deviation"]
                    hidden = torch.nn.functional.gelu(weights["first.weight"] @ inputs + weights["first.bias"])
                    scores.append(float(weights["second.weight"][0] @ hidden + weights["second.bias"][0]))
                    patch += 1
        powers = [math.exp(card["spread"] * score) for score in scores]
        maps[row, image] = torch.tensor([power / sum(powers) for power in powers])
    return maps


@pytest.mark.parametrize(
    ("name", "attention", "text"),
    [("llava", "sdpa", True), ("llava", "eager", False), ("llava_next", "sdpa", True), ("qwen2_vl", "sdpa", True),
     ("internvl", "sdpa", False), ("chameleon", "sdpa", True)],
)  # fmt: skip
def test_plans_and_logits_equal_a_slow_recomputation(tmp_path, name, attention, text):
    tiny, eager = TINY[name](attention=attention), TINY[name](attention="eager")
    folder, prompt, plans = trained(tmp_path / "p", tiny, text), tiny.prompt(PROMPTS), {}
    maps = naive_maps(tmp_path / "p", tiny, prompt)
    with scr.patch(tiny.model, "scr_one_pass", predictor=folder, **FIELDS) as patched, torch.no_grad():
        logits = tiny.model(**prompt.inputs).logits
        plain = eager.model(**prompt.inputs).logits
    visual = tiny.visual(prompt.inputs)
    expected = reference_logits(eager.model, prompt.inputs, prompt.layout, visual, patched.config, plans, maps)
    real = prompt.inputs["attention_mask"].bool()
    assert (expected - plain)[real].abs().max() > 0.05, "the reference must do something"
    assert (logits - expected)[real].abs().max() < 1e-5
    assert len(patched.traces) == len(plans) == 3
    for trace in patched.traces:
        sources, neighbors, owners, attention_map = plans[trace.row, trace.image]
        assert (trace.sources.tolist(), trace.neighbors.tolist()) == (sources, neighbors)
        assert trace.owners.tolist() == owners
        assert (trace.attention - attention_map).abs().max() < 1e-6
        assert (trace.norm_ratio, trace.milliseconds > 0) == (None, True)


@pytest.mark.parametrize("sample", [False, True])
def test_generating_equals_a_slow_recomputation_without_caches(tmp_path, sample):
    tiny, eager = TINY["llava"](), TINY["llava"](attention="eager")
    folder, prompt = trained(tmp_path / "p", tiny), tiny.prompt(PROMPTS[:2])
    maps, inputs = naive_maps(tmp_path / "p", tiny, prompt), dict(prompt.inputs)
    barred = [VOCABULARY["<image>"], VOCABULARY["<video>"]]
    with scr.patch(tiny.model, "scr_one_pass", predictor=folder, **FIELDS) as patched:
        torch.manual_seed(4)
        given = {"max_new_tokens": 4, "do_sample": sample, "suppress_tokens": barred}
        more = {"top_k": 0, "temperature": 3.0} if sample else {}
        found = tiny.model.generate(**inputs, **given, **more)[:, inputs["input_ids"].shape[1] :]
    torch.manual_seed(4)
    for step in range(4):
        visual = tiny.visual(inputs)
        logits = reference_logits(eager.model, inputs, prompt.layout, visual, patched.config, None, maps)[:, -1]
        logits[:, barred] = -math.inf
        tokens = torch.multinomial((logits / 3).softmax(dim=-1), 1) if sample else logits.argmax(dim=-1, keepdim=True)
        assert torch.equal(found[:, step], tokens[:, 0])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], tokens], dim=1)
        inputs["attention_mask"] = torch.cat([inputs["attention_mask"], torch.ones_like(tokens)], dim=1)


def test_no_block_runs_twice_and_a_row_gets_what_it_gets_alone(tmp_path):
    tiny = TINY["llava"]()
    folder, calls = trained(tmp_path / "p", tiny), []
    handles = [layer.register_forward_hook(lambda *_: calls.append(1)) for layer in tiny.layers]
    with scr.patch(tiny.model, "scr_one_pass", predictor=folder, **FIELDS) as patched, torch.no_grad():
        together = tiny.model(**tiny.prompt(PROMPTS).inputs).logits[:, -1]
        assert len(calls) == len(tiny.layers)
        for row, prompt in enumerate(PROMPTS):
            count = len(patched.traces)
            alone = tiny.model(**tiny.prompt([prompt]).inputs).logits[0, -1]
            assert (together[row] - alone).abs().max() < 1e-4
            for one, other in zip(
                [trace for trace in patched.traces[:3] if trace.row == row], patched.traces[count:], strict=True
            ):
                assert torch.equal(one.sources, other.sources)
    for handle in handles:
        handle.remove()


def test_scale_one_and_images_that_no_text_follows_are_bit_equal(tmp_path):
    tiny = TINY["llava"]()
    folder = trained(tmp_path / "p", tiny)
    last = tiny.prompt([("describe <image>", [1])]).inputs
    inputs = tiny.prompt(PROMPTS).inputs
    with torch.no_grad():
        plain, blind = tiny.model(**inputs).logits, tiny.model(**last).logits
        with scr.patch(tiny.model, "scr_one_pass", predictor=folder, scale=1.0) as patched:
            assert torch.equal(tiny.model(**inputs).logits, plain)
            assert len(patched.traces) == 3
        with (
            scr.patch(tiny.model, "scr_one_pass", predictor=folder) as patched,
            pytest.warns(UserWarning, match="as when none comes after them"),
        ):
            assert torch.equal(tiny.model(**last).logits, blind)
        assert not patched.traces


def test_it_takes_scrs_other_fields(tmp_path):
    tiny = TINY["llava"]()
    folder, inputs = trained(tmp_path / "p", tiny), tiny.prompt(PROMPTS).inputs
    with torch.no_grad():
        with scr.patch(tiny.model, "scr_one_pass", predictor=folder, **FIELDS) as plain:
            first = tiny.model(**inputs).logits
        with scr.patch(tiny.model, "scr_one_pass", predictor=folder, edit="noise", **FIELDS) as noisy:
            second, again = tiny.model(**inputs).logits, tiny.model(**inputs).logits
        with scr.patch(tiny.model, "scr_one_pass", predictor=folder, selection="greedy", **FIELDS) as greedy:
            tiny.model(**inputs)
    assert not torch.allclose(first, second, atol=1e-3)
    assert torch.equal(second, again)
    assert torch.equal(plain.traces[0].sources, noisy.traces[0].sources)
    assert not torch.equal(plain.traces[0].sources, greedy.traces[0].sources)


def test_a_prompt_in_bfloat16_and_inference_mode(tmp_path):
    tiny = TINY["llava"]()
    folder = trained(tmp_path / "p", tiny)
    tiny.model.to(torch.bfloat16)
    inputs = tiny.prompt(PROMPTS).inputs
    inputs["pixel_values"] = inputs["pixel_values"].bfloat16()
    with scr.patch(tiny.model, "scr_one_pass", predictor=folder, **FIELDS) as patched, torch.inference_mode():
        tiny.model(**inputs)
    assert all(
        trace.attention.dtype == torch.float32 and not trace.attention.is_inference() for trace in patched.traces
    )


def test_a_file_of_something_else_is_refused_in_a_sentence(tmp_path):
    llava, other = TINY["llava"](), TINY["qwen2_vl"]()
    good = tmp_path / "good"
    trained(good, llava)

    def refused(name, match, kind=ConfigError, model=llava):
        with pytest.raises(kind, match=match):
            scr.patch(model.model, "scr_one_pass", predictor=str(tmp_path / name))

    def changed(name, file, content):
        shutil.copytree(good, tmp_path / name)
        (tmp_path / name / file).write_bytes(content)

    card, weights = json.loads((good / CARD_FILE).read_text()), (good / WEIGHTS_FILE).read_bytes()
    refused("nowhere", r"no predictor: got .*nowhere.*expected a folder with predictor.json")
    refused("good", r"predictor of other models: got .*made for 'llava' of width .*expected 'qwen2_vl'", model=other)
    changed("wide", CARD_FILE, json.dumps({**card, "width": 2 * card["width"]}).encode())
    refused("wide", rf"of width {2 * card['width']}; expected 'llava' of width {card['width']}")
    changed("short", WEIGHTS_FILE, weights[:-100])
    refused("short", "predictor cannot be read", DataFileError)
    changed("blind", CARD_FILE, json.dumps({**card, "text": False}).encode())
    refused("blind", "weights of another predictor", DataFileError)
    changed("old", CARD_FILE, json.dumps({**card, "format": 2}).encode())
    refused("old", r"no card of a predictor.*format", DataFileError)
    changed("bare", CARD_FILE, b'{"model_type": "llava"}')
    refused("bare", r"no card of a predictor.*are missing", DataFileError)
    changed("text", CARD_FILE, b"{")
    refused("text", "is no JSON", DataFileError)
    nan = Predictor(PredictorCard(**{**card, "made_from": None}))
    torch.nn.init.constant_(nan.second.bias, math.nan)
    save_predictor(nan, tmp_path / "nan")
    refused("nan", "not finite", DataFileError)
    with pytest.raises(ConfigError, match=r"python -m scr.onepass train"):
        scr.patch(llava.model, "scr_one_pass")


def test_loading_draws_nothing_from_torchs_generator(tmp_path, monkeypatch):
    tiny = TINY["llava"]()
    folder = trained(tmp_path / "p", tiny)
    state = torch.random.get_rng_state()
    begun = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", begun.append)
    one, other = load_predictor(folder, tiny.model), load_predictor("untrained", tiny.model)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not begun, "the draws of a GPU begin anew"
    assert torch.equal(networks.untrained("llava", other.card.width).first.weight, other.first.weight)
    assert one.card.text
    assert not torch.equal(one.second.weight, other.second.weight)


def test_a_kill_between_the_two_files_leaves_no_predictor(tmp_path, monkeypatch):
    """New weights with the card of others would be believed, as they have the same shapes."""
    tiny = TINY["llava"]()
    folder = trained(tmp_path / "p", tiny)
    card = load_predictor(folder, tiny.model).card

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("scr.onepass.storing.write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        save_predictor(Predictor(card, 5), tmp_path / "p")
    with pytest.raises(DataFileError, match=CARD_FILE):
        load_predictor(folder, tiny.model)


def test_wide_states_are_projected_and_the_network_keeps_its_size():
    wide = Predictor(PredictorCard(model_type="llava", width=4096, text=False, spread=1.0))
    both = Predictor(PredictorCard(model_type="llava", width=4096, text=True, spread=1.0))
    narrow = Predictor(PredictorCard(model_type="llava", width=128, text=False, spread=1.0))
    assert wide.parameters_trained == (STATES + PLACE) * HIDDEN + HIDDEN + HIDDEN + 1 == 107_777
    assert both.parameters_trained == wide.parameters_trained
    assert (wide.projection.shape, both.projection.shape, narrow.projection) == ((4096, 400), (4096, 200), None)
    states = torch.randn(50, 4096, generator=torch.Generator().manual_seed(1))
    lengths = wide.project(states).norm(dim=1) / states.norm(dim=1)
    assert lengths.mean().sub(1).abs() < 0.05, "lengths are kept"


def test_places_tell_patches_and_grids_apart():
    found = places(((2, 3), (1, 1)))
    assert found.shape == (7, PLACE)
    assert len({tuple(row) for row in found.tolist()}) == 7
    assert found[:, :2].tolist()[:4] == [[-1, -1], [-1, 0], [-1, 1], [1, -1]]
    assert found[:, -1].tolist() == [0] * 6 + [1]
