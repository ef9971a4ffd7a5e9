"""What runs on a model, and who may put something on it meanwhile."""

import threading

import pytest
from tiny_families import TINY

import scr
from hooks import INSTALLING, HookStack, current_calls, outside_generate, watch_generate, when_idle

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def tiny():
    return TINY["llava"](layers=2)


def one(tiny):
    return tiny.prompt([("is there a dog <image>", [1])]).inputs


def test_what_waits_for_a_model_is_undone_when_it_is_idle(tiny):
    undone, seen = [], []
    when_idle(tiny.model, lambda: undone.append("at once"))
    assert undone == ["at once"]

    def meanwhile(call):
        when_idle(tiny.model, lambda: undone.append("afterwards"))
        seen.append(list(undone))

    with HookStack() as stack:
        watch_generate(tiny.model, meanwhile, stack)
        tiny.model.generate(**one(tiny), max_new_tokens=1, do_sample=False)
    assert seen == [["at once"]]
    assert undone == ["at once", "afterwards"]


def test_outside_generate_is_inside_no_call(tiny):
    seen = []

    def look(call):
        with outside_generate():
            seen.append(list(current_calls()))
        seen.append(list(current_calls()))

    with HookStack() as stack:
        watch_generate(tiny.model, look, stack)
        tiny.model.generate(**one(tiny), max_new_tokens=1, do_sample=False)
    assert seen[0] == []
    assert [call.model for call in seen[1]] == [tiny.model]


def test_one_at_a_time_puts_something_on_a_model(tiny):
    patch = scr.patch(tiny.model, "plausibility_only")
    other = threading.Thread(target=patch.install)
    with INSTALLING:
        other.start()
        other.join(timeout=0.2)
        assert other.is_alive()
    other.join(timeout=30)
    assert not other.is_alive()
    patch.remove()
