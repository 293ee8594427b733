"""What `utils/upstream*.py` lists is all that is private of other libraries, and the installed versions have it."""

import ast
import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import transformers_anymodality


SOURCE = Path(transformers_anymodality.__file__).parents[1]
ROOM = sorted((SOURCE / "transformers_anymodality" / "utils").glob("upstream*.py"))
OTHERS = ("accelerate", "evaluate", "gradio", "huggingface_hub", "peft", "transformers", "trl")
# Of torch and of the standard library.
KNOWN = {"_buffers", "_parameters", "_modules", "_exit"}


def trees(files: list[Path]) -> Iterator[tuple[str, ast.Module]]:
    for file in files:
        yield str(file.relative_to(SOURCE)), ast.parse(file.read_text(encoding="utf-8"))


def imports(tree: ast.AST) -> Iterator[tuple[ast.ImportFrom, str, str]]:
    """Names that are imported from other libraries: node, module, name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and node.module.split(".")[0] in OTHERS:
            yield from ((node, node.module, alias.name) for alias in node.names)


def supplied(tree: ast.AST) -> set[ast.AST]:
    """What stands in a `try` whose `except ImportError` supplies it."""
    tries = [node for node in ast.walk(tree) if isinstance(node, ast.Try)]
    caught = [one for one in tries if any("ImportError" in ast.unparse(h.type) for h in one.handlers if h.type)]
    return {inner for one in caught for statement in one.body for inner in ast.walk(statement)}


def exists(module: str, name: str) -> bool:
    try:
        found = importlib.import_module(module)
        return hasattr(found, name) or find_spec(f"{module}.{name}") is not None
    except (ImportError, AttributeError):
        return False


def hooks() -> dict[str, set[str]]:
    """Class -> private names, of all files of the room; literals, so that a file can be read that cannot be imported."""
    found: dict[str, set[str]] = {}
    for _, tree in trees(ROOM):
        for node in tree.body:
            if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == "HOOKS":
                found |= {place: set(names) for place, names in ast.literal_eval(node.value).items()}
    return found


def installed(place: str) -> bool:
    return find_spec(place.split(".")[0]) is not None


def test_the_installed_versions_have_every_name():
    gone = []
    for file, tree in trees(sorted(SOURCE.rglob("*.py"))):
        optional = supplied(tree)
        gone += [
            f"{module}.{name}, which {file} imports"
            for node, module, name in imports(tree)
            if node not in optional and installed(module) and not exists(module, name)
        ]
    for place, names in hooks().items():
        module, _, name = place.rpartition(".")
        if not installed(place):
            continue
        if not exists(module, name):
            gone.append(f"{place}, whose hooks we use")
            continue
        owner = getattr(importlib.import_module(module), name)
        # Some are attributes of instances, which only the source tells.
        source = "".join(inspect.getsource(base) for base in owner.__mro__ if base.__module__.split(".")[0] in OTHERS)
        gone += [f"{place}.{hook}" for hook in sorted(names) if not (hasattr(owner, hook) or hook in source)]
    assert not gone, "gone from the installed versions:\n" + "\n".join(dict.fromkeys(gone))


def test_private_names_are_imported_in_the_room_alone():
    files = [file for file in sorted(SOURCE.rglob("*.py")) if file not in ROOM]
    wrong = [
        f"{file}:{node.lineno} imports {module}.{name}"
        for file, tree in trees(files)
        for node, module, name in imports(tree)
        if any(part.startswith("_") for part in (*module.split("."), name))
    ]
    assert not wrong, "take these from utils/upstream.py:\n" + "\n".join(wrong)


def own_names() -> set[str]:
    """Private names that our own code defines: functions, classes, variables, attributes of its own objects."""
    names: set[str] = set()
    for _, tree in trees(sorted(SOURCE.rglob("*.py"))):
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                names.add(node.name)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                if isinstance(node.value, ast.Name) and node.value.id == "self":
                    names.add(node.attr)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
    return names


def test_private_attributes_are_touched_in_the_room_alone():
    """But for our own, and the hooks of classes that ours are built on."""
    allowed = own_names() | KNOWN | set().union(*hooks().values())
    files = [file for file in sorted(SOURCE.rglob("*.py")) if file not in ROOM]
    wrong = [
        f"{file}:{node.lineno} {ast.unparse(node)}"
        for file, tree in trees(files)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and not node.attr.startswith("__")
        and node.attr not in allowed
    ]
    assert not wrong, "give these a function in utils/upstream.py, or list them in its HOOKS:\n" + "\n".join(wrong)


def classes() -> Iterator[type]:
    for found in pkgutil.walk_packages(transformers_anymodality.__path__, "transformers_anymodality."):
        try:
            module = importlib.import_module(found.name)
        except ImportError:  # an extra is not installed
            continue
        yield from (
            cls for cls in vars(module).values() if isinstance(cls, type) and cls.__module__ == module.__name__
        )


def test_every_hook_that_is_overridden_is_listed():
    listed = set().union(*hooks().values())
    wrong = set()
    for cls in classes():
        foreign = [base for base in cls.__mro__ if base.__module__.split(".")[0] in OTHERS]
        for own in (base for base in cls.__mro__ if base.__module__.startswith("transformers_anymodality.")):
            wrong |= {
                f"{own.__name__}.{name} overrides {base.__module__}.{base.__name__}'s"
                for name in vars(own)
                for base in foreign
                if name.startswith("_") and not name.startswith("__") and name != "_abc_impl"
                if not name.endswith("_cached_value")  # Transformers keeps some answers on classes as they are used
                if name in vars(base) and name not in listed
            }
    assert not wrong, "list these in HOOKS of utils/upstream.py:\n" + "\n".join(sorted(wrong))


def test_every_hook_that_is_listed_is_used():
    text = "".join(file.read_text(encoding="utf-8") for file in SOURCE.rglob("*.py") if file not in ROOM)
    assert not {hook for hook in set().union(*hooks().values()) if hook not in text}
