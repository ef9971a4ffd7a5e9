"""Patching while other threads generate: what a generation began with stays for it, and nothing stays after it."""

import os
import signal
import threading
import time

import pytest
import torch
from test_interrupts import Subject
from transformers import LogitsProcessor

import scr
from hooks import HookStack, dispatcher
from hooks.installing.compiled import _EAGER_STANCE
from hooks.installing.running import _RUNNING

pytestmark = pytest.mark.usefixtures("one_thread")
METHODS = [name for name in scr.list_methods() if scr.get_method(name).least_beams == 1]
PATIENCE = 60


class Pause(LogitsProcessor):
    """Stops a generation after its first step, until it may go on."""

    def __init__(self):
        self.reached, self.go_on = threading.Event(), threading.Event()

    def __call__(self, input_ids, scores):
        self.reached.set()
        assert self.go_on.wait(PATIENCE)
        return scores


class Generation(threading.Thread):
    """One in another thread, which is in the middle when this is made."""

    def __init__(self, subject, **options):
        super().__init__()
        self.subject, self.options, self.pause = subject, options, Pause()
        self.said, self.error = None, None
        self.start()
        assert self.pause.reached.wait(PATIENCE)

    def run(self):
        try:
            self.said = said(self.subject, logits_processor=[self.pause], **self.options)
        except BaseException as error:
            self.error = error
            self.pause.reached.set()

    def ends(self):
        self.pause.go_on.set()
        self.join(PATIENCE)
        assert self.error is None
        return self.said


def said(subject, **options):
    options = {"max_new_tokens": 3, "do_sample": False, **options}
    out = subject.model.generate(**subject.inputs, **options, output_logits=True, return_dict_in_generate=True)
    return torch.stack([*out.logits, *out.scores] if out.scores else out.logits)


@pytest.fixture(scope="module")
def subject():
    return Subject()


def prepared(subject, method):
    fields = {"scale": 1.5} if method in ("scr", "uniform_smooth", "noise_control") else {}
    return scr.patch(subject.model, method, **{**scr.get_method(method).example, **fields})


WAYS = [{}, {"use_cache": False}]


def patched_says(subject, method, **options):
    """What it says with the method on, which then comes off; skips where the method refuses to generate so."""
    with prepared(subject, method):
        try:
            return said(subject, **options)
        except scr.UnsupportedGenerationError as error:
            pytest.skip(str(error))


@pytest.mark.parametrize("options", WAYS, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_a_patch_that_comes_while_another_thread_generates(subject, method, options):
    options = {**options, "output_scores": True}
    plain, patched = said(subject, **options), patched_says(subject, method, **options)
    assert not torch.equal(plain, patched), "else nothing is tested"
    generation = Generation(subject, **options)
    with prepared(subject, method):
        assert torch.equal(said(subject, **options), patched), "another call"
        assert torch.equal(generation.ends(), plain)
    subject.assert_as_before(method)


@pytest.mark.parametrize("options", WAYS, ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_a_patch_that_goes_while_another_thread_generates(subject, method, options):
    options = {**options, "output_scores": True}
    plain, patched = said(subject, **options), patched_says(subject, method, **options)
    with prepared(subject, method):
        generation = Generation(subject, **options)
    assert torch.equal(said(subject, **options), plain), "another call"
    with prepared(subject, method):
        assert torch.equal(said(subject, **options), patched), "put on again"
    assert torch.equal(said(subject, **options), plain)
    assert torch.equal(generation.ends(), patched)
    subject.assert_as_before(method)


def test_a_second_patch_comes_and_both_go(subject):
    plain = said(subject)
    outer, inner = prepared(subject, "scr"), prepared(subject, "dola")
    with outer:
        first = Generation(subject)
        with inner:
            second = Generation(subject)
    assert torch.equal(said(subject), plain)
    with outer:
        assert torch.equal(first.ends(), said(subject))
        with inner:
            assert torch.equal(second.ends(), said(subject))
    subject.assert_as_before("both")


def test_patching_in_a_loop_while_threads_generate(subject):
    plain, seen, errors, stop = said(subject), [], [], threading.Event()
    methods = ["scr", "dola", "vcd", "yes_shift"]
    known = [plain]
    for method in methods:
        with prepared(subject, method):
            known.append(said(subject))

    def work():
        try:
            while not stop.is_set():
                seen.append(said(subject))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    [thread.start() for thread in threads]
    deadline = time.monotonic() + PATIENCE
    try:
        for number in range(40):
            handle = prepared(subject, methods[number % len(methods)]).install()
            time.sleep(0.005)
            handle.remove()
            if errors or time.monotonic() > deadline:
                break
    finally:
        stop.set()
        [thread.join(PATIENCE) for thread in threads]
    assert not errors
    assert all(any(torch.equal(one, other) for other in known) for one in seen)
    subject.assert_as_before("loop")


def test_a_fork_beside_a_diagnostic(subject):
    """The child generates under the patch, though the thread that holds the diagnostic is not in it."""
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    layer = dispatcher(subject.model)._family.layers(subject.model)[0]
    configs = [block.self_attn.config for block in dispatcher(subject.model)._family.layers(subject.model)]
    reached, go_on, main = threading.Event(), threading.Event(), threading.get_ident()

    def hold(module, args):
        if threading.get_ident() != main:
            reached.set()
            assert go_on.wait(PATIENCE)

    with prepared(subject, "scr") as patched:
        expected = said(subject)
        handle = layer.register_forward_pre_hook(hold)
        other = threading.Thread(target=said, args=(subject,))
        other.start()
        assert reached.wait(PATIENCE)
        child = os.fork()
        if not child:
            signal.alarm(PATIENCE)  # a child that hangs is ended
            same = torch.equal(said(subject), expected)
            handle.remove()
            patched.remove()
            clean = [block.self_attn.config for block in dispatcher(subject.model)._family.layers(subject.model)]
            as_before = subject.state() == subject.before and all(a is b for a, b in zip(clean, configs, strict=True))
            empty = not _RUNNING._calls and not _EAGER_STANCE._inside
            os._exit(0 if same and as_before and empty else 1 + 2 * same + 4 * as_before + 8 * empty)
        _, status = os.waitpid(child, 0)
        go_on.set()
        other.join(PATIENCE)
        handle.remove()
        assert os.waitstatus_to_exitcode(status) == 0
        assert torch.equal(said(subject), expected), "the parent goes on"
    subject.assert_as_before("fork")


def test_attributes_over_one_another_come_off_in_any_order():
    module = torch.nn.Linear(1, 1)
    module.note = "before"
    for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0), (0, 2, 1), (2, 0, 1)):
        stacks = [HookStack() for _ in range(3)]
        for number, stack in enumerate(stacks):
            stack.attribute(module, "note", f"ours {number}")
        for number in order:
            stacks[number].close()
        assert module.note == "before"
        assert "__getstate__" not in vars(module)
