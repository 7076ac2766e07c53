"""Two descriptions of inputs are compared in what both know, and a node takes its data by the names of the run's."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import TaskError
from federation.inputs import Inputs, agree
from federation.protocol.chunking import payload_digest
from federation.protocol.limits import INPUTS_BYTES_MAX

PRESS = Inputs(features=("heat", "vibration"), classes=("ok", "worn"), target="state (class)", shape=(2,))
NAMES = st.lists(st.text(max_size=12), max_size=6, unique=True).map(tuple)


@dataclass
class Owner:
    """A task that has these columns."""

    own: Inputs
    columns: tuple[str, ...] = ("heat", "pressure", "vibration")
    adopted: list[Inputs] = field(default_factory=list)

    def inputs(self) -> Inputs:
        if self.adopted and not set(self.adopted[-1].features) <= set(self.columns):
            raise TaskError("t.csv has no such column")
        return self.own

    def adopt_inputs(self, wanted: Inputs) -> None:
        self.adopted.append(wanted)
        self.own = replace(self.own, features=wanted.features)


@given(NAMES, NAMES, st.text(max_size=20))
def test_a_description_is_ascii_and_read_back(features: tuple[str, ...], classes: tuple[str, ...], target: str) -> None:
    """FED-125."""
    described = Inputs(features=features, classes=classes, target=target, shape=(3, 4))
    text = described.to_text()
    assert text.isascii()
    assert text.isprintable()
    assert len(text) <= INPUTS_BYTES_MAX
    assert Inputs.from_text(text) == described
    assert described.digest == payload_digest(text.encode())


def test_a_description_has_one_spelling_without_what_is_not_known() -> None:
    """FED-125."""
    assert PRESS.to_text() == (
        '{"classes":["ok","worn"],"features":["heat","vibration"],"shape":[2],"target":"state (class)"}'
    )
    assert Inputs(classes=("a",)).to_text() == '{"classes":["a"]}'
    assert not Inputs().known


def test_names_that_do_not_fit_are_said_by_their_digest_and_compared_by_it() -> None:
    """FED-125, FED-126."""
    wide = replace(PRESS, features=tuple(f"a rather long name of column {number}" for number in range(500)))
    said = Inputs.from_text(wide.to_text())
    assert (said.features, said.classes) == ((), ("ok", "worn"))
    assert wide.disagreement(said) is None
    assert "of digest" in str(replace(wide, features=wide.features[::-1]).disagreement(said))
    classes = tuple(f"a rather long name of class {number}" for number in range(500))
    everything = Inputs.from_text(replace(wide, classes=classes, target="t" * 9000).to_text())
    assert (everything.features, everything.classes, everything.target) == ((), (), "")
    assert replace(wide, classes=classes).disagreement(everything) is None


@pytest.mark.parametrize("text", ["", "[]", "7", '{"features":7}', '{"shape":["a"]}'])
def test_what_is_no_description_is_a_task_error(text: str) -> None:
    with pytest.raises(TaskError, match="cannot be read"):
        Inputs.from_text(text)


def test_a_part_of_a_newer_release_is_passed_over() -> None:
    """FED-14."""
    assert Inputs.from_text('{"classes":["a"],"units":["K"]}') == Inputs(classes=("a",))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, None),
        ({"features": ()}, None),
        ({"features": ("vibration", "heat")}, "features are vibration, heat, .* in another order"),
        ({"features": ("heat", "pressure")}, "it lacks vibration; pressure is not the run's"),
        ({"features": ("heat", "id", "no", "vibration")}, "id, no are not the run's"),
        ({"classes": ("worn", "ok")}, "its classes are worn, ok, and the run's are ok, worn: the same"),
        ({"target": "state (number)"}, r"its target is state \(number\), and the run's is state \(class\)"),
        ({"shape": (3,)}, r"the shape \(3,\), and the run's \(2,\)"),
        ({"features": tuple(f"f{n}" for n in range(9))}, "f5 and 3 more"),
    ],
)
def test_what_both_know_is_compared_and_named(change: dict[str, tuple[str, ...]], said: str | None) -> None:
    """FED-126."""
    found = replace(PRESS, **change).disagreement(PRESS)  # type: ignore[arg-type]
    if said is None:
        assert found is None
    else:
        with pytest.raises(TaskError, match=said):
            raise TaskError(str(found))


def test_a_node_takes_its_columns_by_the_run_s_names() -> None:
    """FED-126."""
    owner = Owner(replace(PRESS, features=("heat", "pressure", "vibration")))
    agree(owner, PRESS.digest, PRESS.to_text())
    assert owner.inputs() == PRESS
    agree(owner, PRESS.digest, None)
    assert owner.adopted == [PRESS]


def test_a_node_that_lacks_a_column_or_has_another_target_declines_with_the_names() -> None:
    """FED-126."""
    lacking = Owner(replace(PRESS, features=("heat", "pressure")), columns=("heat", "pressure"))
    with pytest.raises(TaskError, match=r"it lacks vibration; pressure .*\(t\.csv has no such column\)"):
        agree(lacking, PRESS.digest, PRESS.to_text())
    with pytest.raises(TaskError, match=r"means something else: its target is life \(number\)"):
        agree(Owner(replace(PRESS, target="life (number)")), PRESS.digest, PRESS.to_text())
    with pytest.raises(TaskError, match="it will ask again"):
        agree(Owner(replace(PRESS, features=("heat",))), PRESS.digest, None)


def test_nothing_is_compared_where_one_side_knows_nothing() -> None:
    """FED-127."""
    agree(object(), PRESS.digest, None)
    agree(Owner(PRESS), None, None)
    agree(Owner(Inputs()), PRESS.digest, None)
    other = Inputs(classes=("ok", "worn"))
    agree(Owner(PRESS), other.digest, other.to_text())


@pytest.mark.parametrize(
    ("now", "words"),
    [
        (
            replace(PRESS, classes=("worn", "ok")),
            "its classes are worn, ok, and the run's are ok, worn: the same in another",
        ),
        (replace(PRESS, classes=("ok",)), "its classes are ok"),
        (replace(PRESS, features=("vibration", "heat")), "its features are vibration, heat"),
        (replace(PRESS, target="load (number)"), "its target is load"),
        (PRESS, None),
        (Inputs(), None),
        (replace(PRESS, features=("heat", "pressure", "vibration"), shape=(3,)), None),
    ],
)
def test_a_run_does_not_go_on_with_what_contradicts_its_beginning(now: Inputs, words: str | None) -> None:
    found = now.contradiction(PRESS)
    assert found is None if words is None else found is not None and found.startswith(words)
