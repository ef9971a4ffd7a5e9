"""An interrupt at any point of putting on, generating and taking off leaves the model as it was."""

import _thread
import contextlib
import functools
import random
import signal
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
import torch
from test_patch_undo import everything_on
from tiny_families import TINY

import scr
from hooks import HookStack, uninterrupted
from hooks.installing.running import _RUNNING

pytestmark = [
    pytest.mark.usefixtures("one_thread", "interruptible"),
    # An interrupt may come before a patch is entered, or while a patch that was of use is dropped.
    pytest.mark.filterwarnings("ignore::scr.UnusedPatchWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
OURS = tuple(f"{Path(scr.__file__).parent.parent / folder}/" for folder in ("scr", "hooks"))
METHODS = scr.list_methods()
SAMPLE = 16


def autocast_depth():
    """How many autocasts torch believes to be in; above none, no autocast empties its cache when it ends."""
    torch.autocast_increment_nesting()
    return torch.autocast_decrement_nesting()


class Subject:
    """A model after its first generation, since transformers leaves hooks of its own."""

    def __init__(self):
        made = TINY["llava"](layers=3)
        self.model = made.model
        self.inputs = made.prompt([("USER : <image> is there a dog ? ASSISTANT :", [1])]).inputs
        self.generate()
        self.before, self.tokens = self.state(), self.generate()

    def generate(self, *methods):
        beams = max((scr.get_method(method).least_beams for method in methods), default=1)
        with torch.no_grad():
            return self.model.generate(**self.inputs, max_new_tokens=2, do_sample=False, num_beams=beams)

    def state(self):
        call = [vars(module).get("_compiled_call_impl") is None for module in self.model.modules()]
        return everything_on(self.model), call, str(torch._dynamo.eval_frame._stance), autocast_depth()

    def assert_as_before(self, where):
        assert self.state() == self.before, where
        assert torch.equal(self.generate(), self.tokens), where
        assert not _RUNNING._calls, where


@pytest.fixture(scope="module")
def subject():
    return Subject()


class Profile:
    """Counts the calls that our code makes, and the returns of C functions to it; interrupts at the one asked for."""

    def __init__(self, target=None):
        self.target, self.count, self.where = target, 0, None

    def __call__(self, frame, event, arg):
        # A generator that goes on is no call.
        goes_on = frame.f_code.co_flags & 0x20 and frame.f_lasti > 8
        if event not in ("call", "c_return") or (event == "call" and goes_on):
            return
        ours, depth = frame, 0
        while ours is not None and depth < 4 and not ours.f_code.co_filename.startswith(OURS):
            ours, depth = ours.f_back, depth + 1
        if ours is None or depth == 4:
            return
        self.count += 1
        if self.count == self.target:
            sys.setprofile(None)
            self.where = f"{ours.f_code.co_qualname}:{ours.f_lineno} {event} in {frame.f_code.co_qualname}"
            raise KeyboardInterrupt

    def run(self, scenario):
        before = sys.getprofile()
        sys.setprofile(self)
        try:
            scenario()
        except KeyboardInterrupt:
            pass
        finally:
            sys.setprofile(before)
        return self


def walk(scenario, check, sample=None):
    """Interrupt `scenario` at each of its points, or at `sample` of them; `check` says what is wrong then."""
    total = Profile().run(scenario).count
    assert total > 100
    points = range(1, total + 1) if sample is None else random.Random(0).sample(range(1, total + 1), sample)
    for point in points:
        interrupted = Profile(point).run(scenario)
        check(f"point {point} of {total}: {interrupted.where}")


def patch_and_generate(subject, method):
    def scenario():
        with scr.patch(subject.model, method, **scr.get_method(method).example):
            subject.generate(method)

    def check(where):
        subject.assert_as_before(where)
        scr.patch(subject.model, method, **scr.get_method(method).example).install().remove()

    return scenario, check


def generate_alone(subject, method):
    """The patch was put on before and stays; what a call puts on comes off."""
    generate = functools.partial(subject.generate, method)
    expected, state = generate(), subject.state()

    def check(where):
        assert subject.state() == state, where
        assert not _RUNNING._calls, where
        assert torch.equal(generate(), expected), where

    return generate, check


@pytest.mark.parametrize("method", METHODS)
def test_interrupted_at_some_points(subject, method):
    walk(*patch_and_generate(subject, method), SAMPLE)


@pytest.mark.parametrize("method", ["scr", "purified", "dola", "vli"])
def test_interrupted_inside_generate_at_some_points(subject, method):
    handle = scr.patch(subject.model, method, **scr.get_method(method).example).install()
    try:
        walk(*generate_alone(subject, method), SAMPLE)
    finally:
        handle.remove()
    subject.assert_as_before(method)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_interrupted_at_every_point(method):
    walk(*patch_and_generate(Subject(), method))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_interrupted_inside_generate_at_every_point(method):
    subject = Subject()
    handle = scr.patch(subject.model, method, **scr.get_method(method).example).install()
    walk(*generate_alone(subject, method))
    handle.remove()
    subject.assert_as_before(method)


def alarms(subject, times, seed):
    """Real signals at random moments; what they interrupt is any instruction of the main thread."""
    rng, hits, armed = random.Random(seed), 0, False

    def ring(number, frame):
        if armed:
            raise KeyboardInterrupt

    handler = signal.signal(signal.SIGALRM, ring)
    try:
        for _ in range(times):
            methods, longest = rng.sample(METHODS, rng.choice([1, 2])), rng.choice([0.002, 0.02, 0.1])
            try:
                armed = True
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-5, longest))
                with contextlib.ExitStack() as stack, warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    for method in methods:
                        stack.enter_context(scr.patch(subject.model, method, **scr.get_method(method).example))
                    subject.generate(*methods)
            except KeyboardInterrupt:
                hits += 1
            finally:
                armed = False
                signal.setitimer(signal.ITIMER_REAL, 0)
            subject.assert_as_before(methods)
    finally:
        signal.signal(signal.SIGALRM, handler)
    assert hits


def test_alarms(subject):
    alarms(subject, times=30, seed=1)


@pytest.mark.slow
def test_a_thousand_alarms():
    alarms(Subject(), times=1000, seed=2)


def test_interrupts_are_held_back_and_delivered_after():
    done = []

    def work(result):
        for _ in range(3):
            _thread.interrupt_main()
            time.sleep(0.01)
        done.append(threading.get_ident())
        return result

    with pytest.raises(KeyboardInterrupt):
        uninterrupted(work, 1)
    assert len(done) == 1
    assert done[0] != threading.get_ident(), "signals never reach the thread that does the work"


def test_uninterrupted_hands_on_what_the_work_returns_and_raises():
    assert uninterrupted(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        uninterrupted(divmod, 7, 0)
    found = []
    thread = threading.Thread(target=lambda: found.append(uninterrupted(threading.get_ident)))
    thread.start()
    thread.join()
    assert found[0] != threading.get_ident()


def test_without_another_thread_to_be_had_the_work_is_done_all_the_same(monkeypatch):
    def no_thread(*args):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_thread, "start_new_thread", no_thread)
    assert uninterrupted(divmod, 7, 2) == (3, 1)


def test_closing_again_goes_on_where_an_interrupt_ended_it():
    stack, undone, interrupts = HookStack(), [], [KeyboardInterrupt]

    def undo(name):
        if name == "second" and interrupts:
            raise interrupts.pop()
        undone.append(name)

    for name in ("first", "second", "third"):
        stack.callback(undo, name)
    with pytest.raises(KeyboardInterrupt):
        stack.close()
    assert undone == ["third"]
    stack.close()
    stack.close()
    assert undone == ["third", "second", "first"]


def test_an_error_of_one_undo_does_not_keep_the_others_from_their_work():
    stack, undone = HookStack(), []
    stack.callback(undone.append, "first")
    stack.callback(int, "no number")
    stack.callback(undone.append, "third")
    with pytest.raises(ValueError, match="no number"):
        stack.close()
    stack.close()
    assert undone == ["third", "first"]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["attribute", "forward_hook", "forward_pre_hook", "callback"])
def test_an_error_while_it_is_put_on_leaves_nothing(subject, monkeypatch, method, kind):
    real = getattr(HookStack, kind)
    for failing in range(1, 6):
        calls = 0

        def fails(self, *args, failing=failing, **kwargs):
            nonlocal calls
            calls += 1
            if calls == failing:
                raise MemoryError("planned")
            return real(self, *args, **kwargs)

        with monkeypatch.context() as patched:
            patched.setattr(HookStack, kind, fails)
            prepared = scr.patch(subject.model, method, **scr.get_method(method).example)
            with contextlib.suppress(MemoryError):
                prepared.install()
                assert calls < failing
        prepared.remove()
        subject.assert_as_before(f"{kind} {failing}")
