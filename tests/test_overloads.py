"""`scr.patch` as type checkers see it: made from the table. That they are strict about fields is in typed_use.py."""

import typing

import scr
from scr.methods.overloads import PLACE, written


def test_they_are_those_of_the_table():
    text = PLACE.read_text(encoding="utf-8")
    assert text == written(text), "run `python -m scr.methods.overloads`"
    assert list(typing.get_args(scr.MethodName)) == scr.list_methods()
