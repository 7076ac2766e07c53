"""Who may import whom: the contracts of pyproject.toml hold, and no import opens a door to pickle."""

import ast
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

from tests.rigs.source_tree import ROOT, files, nodes, shown, tree

pytestmark = pytest.mark.xdist_group("source")

UNSAFE = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def imported(parsed: ast.AST) -> set[str]:
    """The top-level packages that a module imports, wherever the import stands."""
    names: set[str] = set()
    for node in nodes(parsed):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def unsafe_calls(parsed: ast.AST) -> set[str]:
    """Calls that would run what they read: ``torch.load``, and numpy's ``allow_pickle``."""
    calls = [node for node in nodes(parsed) if isinstance(node, ast.Call)]
    loads = {ast.unparse(call.func) for call in calls} & {"torch.load", "torch.jit.load"}
    pickled = {ast.unparse(call) for call in calls for word in call.keywords if word.arg == "allow_pickle"}
    return loads | {call for call in pickled if "allow_pickle=False" not in call}


def test_every_import_contract_is_kept(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    status = lint_imports(no_cache=True, no_logo=True)
    assert status == EXIT_STATUS_SUCCESS, capsys.readouterr().out


def test_a_broken_contract_would_be_noticed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    config = tmp_path / "contracts.toml"
    config.write_text(
        "[tool.importlinter]\nroot_packages = ['federation']\n"
        "[[tool.importlinter.contracts]]\nname = 'Wrong on purpose'\ntype = 'forbidden'\n"
        "source_modules = ['federation.protocol.wire']\nforbidden_modules = ['federation.protocol.schema']\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(ROOT)
    assert lint_imports(config_filename=str(config), no_cache=True, no_logo=True) != EXIT_STATUS_SUCCESS
    assert "Wrong on purpose BROKEN" in capsys.readouterr().out


def unsafe(parsed: ast.AST) -> set[str]:
    """What a module has of both."""
    return imported(parsed) & UNSAFE | unsafe_calls(parsed)


SHIPS_CODE = {"fedmq/simulation/training/shipping.py": {"pickle", "cloudpickle"}}
"""A worker of Dask or Ray runs whatever the program sends that has started it: that is what it is for."""


def test_no_module_can_run_what_it_reads() -> None:
    found = {shown(path): unsafe(tree(path)) for path in files()}
    assert {path: what for path, what in found.items() if what} == SHIPS_CODE


def test_unsafe_code_would_be_noticed() -> None:
    parsed = ast.parse("import os\ndef f(p):\n import pickle.x\n torch.load(p)\n np.load(p, allow_pickle=True)\n")
    assert unsafe(parsed) == {"pickle", "torch.load", "np.load(p, allow_pickle=True)"}
    assert unsafe(ast.parse("np.load(p, allow_pickle=False)")) == set()
