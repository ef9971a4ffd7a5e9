"""What is in a table is named in its own file and in the table: whatever is added needs no other place."""

import ast
import inspect
from pathlib import Path

import pytest

import scr
from benchmarks.tasks import GROUPS, SCORERS, TASKS
from hooks import FAMILIES
from scr.methods.overloads import END, PLACE, START

ROOT = Path(__file__).parent.parent
TABLES = ("scr/methods/__init__.py", "hooks/families/__init__.py", "benchmarks/tasks/__init__.py")
LAB = "benchmarks/lab/"
"""The lab declares experiments with methods and tasks by name, and has trained models of three families."""
DEFAULT = "the default of a flag, or of an argument"
COMPARED = "`benchmarks.overhead` measures on the shapes of certain models"
MEASURED = "what is checked on a GPU: the methods that the paper has times of"
WORD = "the word means something else: "
# File → the names in it, and why.
ALLOWED = {
    "scr/patching/prepare.py": ({"scr"}, DEFAULT),
    "scr/__init__.py": ({"SCRConfig", "PurifiedConfig", "VCDConfig", "DoLaConfig", "PlausibilityOnlyConfig",
                         "YesShiftConfig"}, "configurations that were ever exported stay so; no new one need be"),
    "scr/diagnostics.py": ({"SCR", "SCRConfig"}, "`diagnose` measures where SCR would look, by SCR's own ranges"),
    **{f"scr/onepass/{name}.py": ({"SCR", "SCRConfig"}, "one-pass SCR learns what two-pass SCR reads")
       for name in ("training", "watching")},
    **{f"scr/onepass/{name}.py": ({"SCRConfig"}, "one-pass SCR learns what two-pass SCR reads")
       for name in ("collecting", "command", "report")},
    "scr/methods/vcd.py": ({"Purified"}, "VCD derives from it"),
    **{f"hooks/families/{name}.py": ({"Qwen2VL"}, "its positions and patches are told as Qwen2-VL's")
       for name in ("qwen3_vl", "glm4v", "qwen3_5")},
    "hooks/families/llama4.py": ({"AyaVision"}, "its tiles are told as Aya Vision's"),
    "benchmarks/printing/arguments.py": ({"pope", "chair"}, DEFAULT),
    "benchmarks/run.py": ({"scr"}, DEFAULT),
    "benchmarks/compare.py": ({"scr", "purified"}, DEFAULT),
    "benchmarks/sweep.py": ({"scr", "pope_adversarial", "chair"}, DEFAULT),
    "benchmarks/calibrate.py": ({"pope", "chair"}, DEFAULT),
    "benchmarks/running/plan.py": ({"scr", "pope", "chair"}, DEFAULT),
    "benchmarks/doubts.py": ({"chair"}, "doubts are of the objects that CHAIR counts"),
    **{f"benchmarks/gpu_check/{name}.py": ({"llava"}, DEFAULT) for name in ("bench", "command")},
    **{f"benchmarks/gpu_check/{name}.py": (kept, MEASURED)
       for name, kept in (("agreement", {"scr"}), ("compiled", {"scr", "purified"}),
                          ("precision", {"scr", "scr_one_pass"}),
                          ("cost", {"scr", "scr_one_pass", "purified", "vcd"}))},
    "benchmarks/overhead/command.py": ({"llava"}, DEFAULT),
    "benchmarks/overhead/models.py": ({"llava", "qwen2_vl", "internvl"}, COMPARED),
    "benchmarks/running/provenance.py": ({"scr"}, WORD + "the folder of the package"),
    "benchmarks/running/prompts.py": ({"vcd", "caption"}, WORD + "a prompt's name, a kind of task"),
    "benchmarks/tasks/parsing.py": ({"pope", "vcd", "mme", "amber"}, WORD + "rules for yes and no"),
    "benchmarks/tasks/yes_no.py": ({"pope", "vcd"}, WORD + "rules for yes and no"),
    "benchmarks/tasks/coco.py": ({"pope", "caption"}, WORD + "the folder of questions, a field of COCO's files"),
    "benchmarks/tasks/amber/task.py": ({"caption"}, WORD + "a kind of task"),
    "benchmarks/tasks/amber/rule.py": ({"chair"}, WORD + "a metric of AMBER"),
    "benchmarks/tasks/chair/task.py": ({"caption"}, WORD + "a kind of task"),
    "benchmarks/tasks/chair/scorer.py": ({"caption", "Caption"}, WORD + "a field of answer files, and its row"),
    "benchmarks/tasks/mmvet/task.py": ({"caption"}, WORD + "a kind of task"),
    "benchmarks/tasks/sycophancy/task.py": ({"caption"}, WORD + "a kind of task"),
    "analysis/command.py": ({"only"}, WORD + "and no other"),
    "analysis/page/wording.py": ({"chair"}, WORD + "a metric of AMBER"),
    "analysis/drawing/pictures.py": ({"pope"}, WORD + "the folder of questions"),
}  # fmt: skip


def own_places() -> dict[str, set[str]]:
    """Name in a table, or of a class in it → the files and folders that are its own."""
    places: dict[str, set[str]] = {}

    def add(name, *own):
        places.setdefault(name, set()).update(own)

    def file_of(kind):
        return str(Path(inspect.getfile(kind)).relative_to(ROOT))

    for name in scr.list_methods():
        entry = scr.get_method(name)
        kinds = (entry.method, entry.config_class)
        own = set(map(file_of, kinds))
        for one in (name, *(kind.__name__ for kind in kinds)):
            add(one, *own)
    for name, family in FAMILIES.items():
        for one in (name, type(family).__name__, *family.model_types):
            add(one, file_of(type(family)))
    for name, place in [*TASKS.items(), *SCORERS.items()]:
        module, _, kind = place.partition(":")
        # A task's folder, or a module of the lab.
        own = LAB if module.startswith("..lab") else f"benchmarks/tasks/{module.split('.')[1]}/"
        add(name, own)
        add(kind, own)
    for group in GROUPS:
        add(group)
    return places


def names_in(path: Path, known: dict[str, set[str]]) -> set[str]:
    """Of the known names those that code says: as a string of their own, or as a class."""
    found = set()
    text = path.read_text()
    if path == PLACE:  # a part of it is made from the table, which another test holds it to
        text = text.split(START)[0] + text.split(END)[1]
    for node in ast.walk(ast.parse(text)):
        match node:
            case ast.Constant(value=str(one)) | ast.Name(id=one) | ast.Attribute(attr=one) | ast.alias(name=one):
                if one in known and (isinstance(node, ast.Constant) or one[0].isupper()):
                    found.add(one)
    return found


def test_nothing_of_a_table_is_named_elsewhere():
    places = own_places()
    named = {}
    for folder in ("hooks", "scr", "benchmarks", "analysis"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            file = str(path.relative_to(ROOT))
            if file in TABLES or file.startswith(LAB):
                continue
            foreign = {one for one in names_in(path, places) if not any(file.startswith(own) for own in places[one])}
            if foreign:
                named[file] = foreign
    allowed = {file: names for file, (names, _) in ALLOWED.items()}
    new = {file: names - allowed.get(file, set()) for file, names in named.items()}
    assert not {file: names for file, names in new.items() if names}, "ask the method, the family, or the task"
    gone = {file: names - named.get(file, set()) for file, names in allowed.items()}
    assert not {file: names for file, names in gone.items() if names}, "not to be allowed any more"


@pytest.mark.parametrize("name", scr.list_methods())
def test_a_row_of_methods_says_all_that_others_ask(name):
    entry = scr.get_method(name)
    config = entry.configure(entry.example)
    assert entry.configure(config.to_dict()) == config
    assert not config.ordered()
    fields = inspect.signature(entry.config_class).parameters
    required = {field for field, one in fields.items() if one.default is one.empty}
    assert required <= set(entry.example) <= set(fields)
    assert set(entry.config_class.answer_tokens) <= set(fields)
    assert set(entry.config_class.answer_tokens.values()) <= {"yes", "no"}
