"""The error trees are those that their module's docstring draws, and each tree has one root."""

import inspect
import re
from types import ModuleType

import pytest

import federation.errors
import update_codec.errors


def drawn(docstring: str) -> dict[str, str | None]:
    """Each class of a drawn tree and the class above it."""
    parents: dict[str, str | None] = {}
    above: list[tuple[int, str]] = []
    for line in inspect.cleandoc(docstring).splitlines():
        branch, name = re.fullmatch(r"([ │├└─]*)(\w*).*", line).groups()  # type: ignore[union-attr]
        if not _is_class_name(name):
            continue
        above = [(column, upper) for column, upper in above if column < len(branch)]
        parents[name] = above[-1][1] if above else None
        above.append((len(branch), name))
    return parents


def defined(module: ModuleType) -> dict[str, str | None]:
    """Each exception class of a module and its base within the module."""
    classes = [one for one in vars(module).values() if inspect.isclass(one) and one.__module__ == module.__name__]
    names = {one.__name__ for one in classes}
    return {
        one.__name__: next((base.__name__ for base in one.__bases__ if base.__name__ in names), None) for one in classes
    }


def _is_class_name(word: str) -> bool:
    return word.isidentifier() and word != word.lower() and word[1:] != word[1:].lower()


@pytest.mark.parametrize("module", [federation.errors, update_codec.errors], ids=lambda module: module.__name__)
def test_the_tree_in_the_docstring_is_the_tree_in_the_code(module: ModuleType) -> None:
    tree = drawn(module.__doc__ or "")
    assert tree == defined(module)
    assert [name for name, parent in tree.items() if parent is None] == list(tree)[:1]


def test_the_tree_is_read_with_its_levels() -> None:
    lines = ["Words.", "", "ARoot", "├── OneError     why", "│   └── DeepError", "└── TwoError"]
    expected = {"ARoot": None, "OneError": "ARoot", "DeepError": "OneError", "TwoError": "ARoot"}
    assert drawn("\n".join(lines)) == expected
    assert drawn("\n".join(["Words.", "::", *(f"    {line}" for line in lines[2:])])) == expected
