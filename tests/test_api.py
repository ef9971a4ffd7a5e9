"""The public namespaces: complete, documented, and each name used by a test."""

import importlib
import inspect
import pkgutil
import re
import typing
from pathlib import Path

import pytest

import hooks
import scr

TESTS = "\n".join(path.read_text() for path in Path(__file__).parent.glob("*.py") if path.name != "test_api.py")
MODULES = [
    name
    for package in ("hooks", "scr", "benchmarks", "analysis")
    for name in [
        package,
        *(module.name for module in pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}.")),
    ]
]


@pytest.mark.parametrize("namespace", [scr, hooks], ids=lambda namespace: namespace.__name__)
def test_the_namespace_is_what_it_says(namespace):
    assert len(set(namespace.__all__)) == len(namespace.__all__)
    public = {
        name for name in vars(namespace) if not name.startswith("_") and not inspect.ismodule(vars(namespace)[name])
    }
    assert public - {"annotations", "TYPE_CHECKING"} <= set(namespace.__all__)
    for name in namespace.__all__:
        assert hasattr(namespace, name)


def test_version_and_marker():
    assert re.fullmatch(r"\d+\.\d+\.\d+", scr.__version__)
    assert all((Path(package.__file__).parent / "py.typed").exists() for package in (scr, hooks))


def test_annotations_resolve():
    for namespace in (scr, scr.redistribution, scr.credit, scr.contrast, scr.perturb, scr.variants):
        for value in vars(namespace).values():
            if (inspect.isclass(value) or inspect.isfunction(value)) and value.__module__.startswith("scr."):
                assert isinstance(typing.get_type_hints(value), dict)


@pytest.mark.parametrize("module_name", MODULES)
def test_every_public_name_has_a_docstring(module_name):
    module = importlib.import_module(module_name)
    assert module.__doc__, module_name
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module_name:
            continue
        if inspect.isclass(value) or inspect.isfunction(value):
            assert value.__doc__, f"{module_name}.{name}"
            for member, function in vars(value).items() if inspect.isclass(value) else ():
                if inspect.isfunction(function) and not member.startswith("_"):
                    assert inspect.getdoc(getattr(value, member)), f"{module_name}.{name}.{member}"


@pytest.mark.parametrize("name", sorted({*scr.__all__, *hooks.__all__} - {"__version__"}))
def test_every_public_name_is_used_by_a_test(name):
    assert re.search(rf"\b{name}\b", TESTS), f"no test names {name}"
