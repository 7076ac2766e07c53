"""What others have written is parsed in one place: whatever is wrong with it is one kind of error there."""

import ast

import pytest

from tests.rigs.source_tree import files, nodes, shown, tree

pytestmark = pytest.mark.xdist_group("source")

PARSERS = {("json", "load"), ("json", "loads"), ("tomllib", "load"), ("tomllib", "loads")}

MAY_PARSE = {
    "federation/documents.py": "the place",
    "compression/update_codec/files.py": "the codec imports nothing of ours",
}


def test_toml_and_json_are_parsed_in_one_place() -> None:
    parsing = {
        shown(path)
        for path in files()
        for node in nodes(tree(path))
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and (node.value.id, node.attr) in PARSERS
    }
    assert parsing == set(MAY_PARSE)
