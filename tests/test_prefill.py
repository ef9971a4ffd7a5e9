"""The prefill dispatcher with methods of a test's own: one diagnostic for all, in order, and nothing kept."""

import torch
from tiny import SIDE, inputs_for, tiny_llava

from hooks import Diagnosis, PrefillDispatcher, PrefillMethod, PrefillSession, dispatcher, edit_tokens


class Recorder:
    """Notes what a session is told; adds 1 to the first patch of the first image after one block."""

    reads_of, reads_heads, planned = "text", False, False

    def __init__(self, attention_layers: range, edited: int | None = None) -> None:
        self.attention_layers, self.edited, self.events, self.maps = attention_layers, edited, [], []

    def open(self, images, embeds, copies, digests) -> PrefillSession:
        self.images = images
        self.events.append(("open", tuple(embeds.shape[:2])))
        return self

    def observe(self, layer, hidden) -> None:
        self.events.append(("observe", layer))

    def plan(self, diagnosis: Diagnosis) -> None:
        self.events.append(("plan", sorted(diagnosis.maps)))
        self.maps = diagnosis.attention(self.images, self.attention_layers)

    def edit(self, layer, output):
        self.events.append(("edit", layer))
        if layer != self.edited:
            return output
        return edit_tokens(output, torch.tensor([0]), self.images[0].positions[:1], lambda hidden: hidden + 1)

    def close(self) -> None:
        self.events.append(("close", None))


def test_two_methods_share_one_diagnostic():
    model, processor = tiny_llava()
    inputs = inputs_for(processor, [("USER : <image> is there a dog ?", [1]), ("two of <image> cat", [2])])
    shape = tuple(inputs["input_ids"].shape)
    served = dispatcher(model)
    assert isinstance(served, PrefillDispatcher)
    assert dispatcher(model) is served
    first, second = Recorder(range(1, 3)), Recorder(range(4, 5), edited=2)
    methods: list[PrefillMethod] = [first, second]
    with torch.no_grad():
        plain = model(**inputs).logits
        for method in methods:
            served.attach(method, model)
        edited = model(**inputs).logits
        for method in methods:
            served.detach(method)
        after = model(**inputs).logits
    expected = [("open", shape), *(("observe", layer) for layer in range(4)), ("plan", [1, 2, 4])]
    expected += [*(("edit", layer) for layer in range(8)), ("close", None)]
    assert first.events == second.events == expected
    assert [tuple(image.shape) for image in first.maps] == [(SIDE * SIDE,)] * 2
    assert not torch.equal(first.maps[0], second.maps[0])
    assert torch.equal(plain, after)
    assert torch.equal(plain[1], edited[1])
    assert not torch.equal(plain[0], edited[0])
