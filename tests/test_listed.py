"""What the rows of a table of photos mean, and which columns are refused."""

import hashlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from scr import ConfigError
from scr.describing.listed import check_columns, item


@pytest.mark.parametrize(
    ("row", "image", "path", "content"),
    [
        ({"image": "a", "path": "b.png"}, "a", "/here/b.png", b""),
        ({"image": "a.png", "path": None, "bytes": None}, "a.png", "/here/a.png", b""),
        ({"path": "/there/b.png", "bytes": b"x\0"}, "/there/b.png", "", b"x\0"),
        ({"path": "b", "bytes": "eAA="}, "b", "", b"x\0"),
        ({"image": {"bytes": b"x", "path": "a"}}, "a", "", b"x"),
        ({"image": {"bytes": "eAA=", "path": None}, "path": "b"}, "b", "", b"x\0"),
        ({"image": {"path": "a"}, "bytes": b"x"}, "a", "", b"x"),
        ({"image": {"bytes": None, "path": "a"}, "path": "b"}, "a", "/here/b", b""),
        ({"image": None, "path": None, "bytes": b"x"}, "", "", b"x"),
        # No picture's file, so that its row says what is wrong with it.
        ({"path": "b", "bytes": "data:é"}, "b", "", "data:é".encode()),
        ({"path": "b", "bytes": "!!!!"}, "b", "", b"!!!!"),
        ({"path": "b", "bytes": "abcde"}, "b", "", b"abcde"),
    ],
)
def test_what_a_row_of_a_table_means(row, image, path, content):
    digest = hashlib.sha256(content).hexdigest() if content else ""
    assert item(row, "/here") == {"image": image, "path": path, "bytes": content, "digest": digest}


def test_columns_are_checked_by_the_names_of_their_types():
    def check(**kinds):
        check_columns(SimpleNamespace(names=[*kinds], types=[*kinds.values()]), Path("t"))

    check(image="string", path="null", bytes="large_binary", label="int64")
    for kinds, said in (
        ({"image": "binary"}, "got image of binary in t; expected text, or a struct of bytes and path"),
        ({"path": "int64"}, "got path of int64 in t; expected text"),
        ({"path": "string", "bytes": "list<item: uint8>"}, "got bytes of list<item: uint8> in t; expected bytes, or"),
    ):
        with pytest.raises(ConfigError, match=said):
            check(**kinds)
