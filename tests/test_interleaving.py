"""At random: patch, generate, fail, unpatch, in several threads; in the end every bit is where it was."""

import contextlib
import random
import threading

import pytest
import torch
from tiny_families import TINY

import scr

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPTS = [
    [("USER : <image> is there a dog ?", [1])],
    [("two of <image> describe <image> yes", [2, 3])],
    [("a dog", [])],
]
METHODS = [
    {"num_sources": 4, "scale": 1.4},
    {"method": "uniform_smooth", "num_sources": 3, "seed": 2},
    {"method": "noise_control", "num_sources": 2},
]


class Interrupted(Exception):
    """Raised somewhere inside a forward, on purpose."""


def snapshot(model):
    """Everything that a patch may touch."""
    return {
        name: (
            {key: list(value) for key, value in vars(module).items() if key.endswith("_hooks") and value},
            id(getattr(module, "config", None)),
            sorted(vars(module)),
        )
        for name, module in model.named_modules()
    }


def interleave(steps: int, seed: int, names: list[str], threads: int = 3) -> None:
    made = [TINY[name](layers=4) for name in names]
    inputs = [[tiny.prompt(prompt).inputs for prompt in PROMPTS] for tiny in made]

    def said(index, number, **kwargs):
        with torch.no_grad():
            made[index].model.rope_deltas = None
            logits = made[index].model.generate(
                **inputs[index][number],
                max_new_tokens=2,
                do_sample=False,
                output_logits=True,
                return_dict_in_generate=True,
                **kwargs,
            )
        return torch.stack(logits.logits, dim=1)

    plain = [[said(index, number) for number in range(len(PROMPTS))] for index in range(len(made))]
    before = [snapshot(tiny.model) for tiny in made]
    # What methods that were put on in some order must say, wherever and whenever it is asked.
    expected: dict[tuple[int, int, tuple[int, ...]], torch.Tensor] = {}
    rng, handles = random.Random(seed), [dict[int, scr.Patch]() for _ in made]
    failures: list[str] = []

    def work(index, number, key):
        found = said(index, number)
        reference = expected.setdefault(key, found)
        if not torch.equal(found, reference):
            failures.append(f"{names[index]}, prompt {number}, methods {key[2]}")

    def fail(index, number):
        layer = rng.randrange(4)

        def interrupt(module, args):
            raise rng.choice([Interrupted, KeyboardInterrupt])

        target = rng.choice(
            [made[index].layers[layer], getattr(made[index].layers[layer], "self_attn", made[index].layers[layer])]
        )
        handle = target.register_forward_pre_hook(interrupt)
        with contextlib.suppress(Interrupted, KeyboardInterrupt):
            said(index, number)
            failures.append("the interruption was swallowed")
        handle.remove()

    for _ in range(steps):
        index, number, method = rng.randrange(len(made)), rng.randrange(len(PROMPTS)), rng.randrange(len(METHODS))
        action = rng.choice(["switch", "switch", "generate", "generate", "threads", "fail", "twice"])
        on = handles[index]
        key = (index, number, tuple(on))
        if action == "switch":
            if method in on:
                on.pop(method).remove()
            else:
                on[method] = scr.patch(made[index].model, **METHODS[method]).install()
        elif action == "generate":
            work(index, number, key)
        elif action == "threads":
            workers = [threading.Thread(target=work, args=(index, number, key)) for _ in range(threads)]
            [worker.start() for worker in workers]
            [worker.join() for worker in workers]
        elif action == "fail":
            fail(index, number)
        elif method in on:
            with pytest.raises(scr.AlreadyPatchedError):
                scr.patch(made[index].model, **METHODS[method]).install()
    order = [handle for on in handles for handle in on.values()]
    rng.shuffle(order)
    [handle.remove() for handle in order]
    assert not failures
    assert [snapshot(tiny.model) for tiny in made] == before
    for index in range(len(made)):
        for number in range(len(PROMPTS)):
            assert torch.equal(said(index, number), plain[index][number])
            alone = expected.get((index, number, ()))
            assert alone is None or torch.equal(alone, plain[index][number])
            edited = expected.get((index, number, (0,)))
            assert edited is None or torch.equal(edited, plain[index][number]) == (number == 2)


def test_a_few_hundred_steps():
    interleave(steps=300, seed=1, names=["llava", "chameleon", "idefics3"])


@pytest.mark.slow
def test_ten_thousand_steps():
    interleave(steps=10_000, seed=2, names=list(TINY))
