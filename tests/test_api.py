"""The public namespaces: complete, documented, and each name used by a test."""

import ast
import contextlib
import importlib
import inspect
import pkgutil
import re
import sys
import textwrap
import typing
from pathlib import Path

import pytest
from readmes import PAGES

import hooks
import scr

ROOT = Path(__file__).parent.parent
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


def documentation() -> dict[str, str]:
    """Where → README and every docstring of the four packages."""
    found = {page: (ROOT / page).read_text() for page in PAGES}
    for name in MODULES:
        path = Path(inspect.getsourcefile(importlib.import_module(name)))
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
                found[f"{name}:{getattr(node, 'name', '')}"] = ast.get_docstring(node)
    return found


def test_whatever_documentation_names_is_there():
    named = {
        (where, name)
        for where, text in documentation().items()
        for name in re.findall(r'(?<![\w./"-])(?:scr|hooks|benchmarks|analysis)(?:\.\w+)+', text)
        if not re.search(r"\.(py|json|toml)$", name)
    }
    assert len(named) > 30
    lost = []
    for where, name in sorted(named):
        package, *rest = name.split(".")
        value = sys.modules[package]
        for one in rest:
            try:
                value = getattr(value, one, None) or importlib.import_module(f"{value.__name__}.{one}")
            except (ImportError, AttributeError):
                lost.append((where, name))
                break
    assert not lost


def test_examples_in_docstrings_use_nothing_that_is_not_there():
    """A name that starts with a capital is a class, and has to be reached through a package."""
    examples = [
        (where, block)
        for where, text in documentation().items()
        if where.startswith("scr")
        for block in re.findall(r"(?:^    .*\n)+", text + "\n", re.MULTILINE)
    ]
    bare = []
    for where, block in examples:
        with contextlib.suppress(SyntaxError):  # prose
            called = [node.func for node in ast.walk(ast.parse(textwrap.dedent(block))) if isinstance(node, ast.Call)]
            bare += [(where, one.id) for one in called if isinstance(one, ast.Name) and one.id[0].isupper()]
    assert not bare


@pytest.mark.parametrize("name", sorted({*scr.__all__, *hooks.__all__} - {"__version__"}))
def test_every_public_name_is_used_by_a_test(name):
    assert re.search(rf"\b{name}\b", TESTS), f"no test names {name}"
