"""A codec's name is one string that reads back to the same specification."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from update_codec import PROFILES, CodecSpec, SpecError
from update_codec.spec import Kind


@pytest.mark.parametrize("profile", PROFILES)
def test_profile_reads_back_to_itself(profile: str) -> None:
    spec = CodecSpec.parse(profile)
    assert str(spec) == profile
    assert CodecSpec.parse(str(spec)) == spec


@pytest.mark.parametrize(
    "text",
    [
        "deadzone(bpp=0.2)",
        "deadzone(bpp=0.2,feedback=1)",
        "deadzone(bytes=4096,feedback=1)",
        "deadzone(step=2.5)",
        "deadzone(bpp=1,feedback=1,link=1)",
        "deadzone(bpp=0.35,feedback=1,context=1)",
        "dither(bpp=0.47)",
        "dither(bytes=100)",
        "common(bits=8,delta=0.001)",
        "common(bits=8,delta=0.001,feedback=1)",
    ],
)
def test_parametrised_form_reads_back_to_itself(text: str) -> None:
    assert str(CodecSpec.parse(text)) == text


def test_profile_spelled_out_gets_its_name() -> None:
    assert str(CodecSpec.parse("deadzone(feedback=1,bpp=0.350)")) == "edge"
    assert str(CodecSpec.parse("eden(bits=3)")) == "eden3"
    assert CodecSpec.parse("deadzone(bpp=1.8,feedback=0)") == CodecSpec.parse("balanced")


@given(bpp=st.floats(0.001, 12), feedback=st.booleans())
def test_any_rate_reads_back_to_an_equal_specification(bpp: float, *, feedback: bool) -> None:
    spec = CodecSpec(kind=Kind.DEADZONE, bpp=bpp, feedback=feedback)
    assert CodecSpec.parse(str(spec)) == spec
    assert len(str(spec)) <= 40


@pytest.mark.parametrize(
    "text",
    [
        "",
        "zip",
        "deadzone",
        "deadzone()",
        "deadzone(",
        "deadzone(bpp)",
        "deadzone(bpp=)",
        "deadzone(bpp=x)",
        "deadzone(bpp=0)",
        "deadzone(bpp=99)",
        "deadzone(bpp=0.1,bpp=0.2)",
        "deadzone(bpp=0.1,step=1)",
        "deadzone(feedback=1)",
        "deadzone(bpp=0.1,feedback=2)",
        "deadzone(bpp=0.1,feedback=0.5)",
        "deadzone(bytes=1.5)",
        "deadzone(bytes=3)",
        "deadzone(bits=3)",
        "deadzone(step=0.01)",
        "deadzone(colour=1)",
        "deadzone(bpp=1,link=1)",
        "deadzone(bytes=100,feedback=1,link=1)",
        "deadzone(bpp=1,feedback=1,link=2)",
        "deadzone(bpp=0.123456,feedback=1,context=1)",
        "dither(bpp=1,link=1)",
        "dither(bpp=1,feedback=1)",
        "lossless(bpp=1)",
        "eden()",
        "eden(bits=5)",
        "common(bits=8)",
        "common(bits=1,delta=1)",
        "common(bits=25,delta=1)",
        "unknown(bpp=1)",
        "deadzone(bpp=0.1,)",
        "deadzone(bpp=0.123456789012345678901234567890123)",
        "edge ",
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(SpecError):
        CodecSpec.parse(text)


def test_option_of_another_kind_is_refused() -> None:
    with pytest.raises(SpecError, match="step"):
        CodecSpec(kind=Kind.EDEN, bits=2, step=1.0)


def test_unknown_name_lists_the_profiles() -> None:
    with pytest.raises(SpecError, match="balanced"):
        CodecSpec.parse("zip")


def test_rate_is_what_was_asked_for() -> None:
    assert CodecSpec.parse("edge").bits_per_parameter == 0.35
    assert CodecSpec.parse("eden2").bits_per_parameter == 2
    assert CodecSpec.parse("fine").bits_per_parameter is None
    assert CodecSpec.parse("edge").feedback
    assert not CodecSpec.parse("balanced").feedback
    assert not CodecSpec.parse("lossless").lossy


def test_a_budget_replaces_the_rate_and_never_raises_it() -> None:
    link = CodecSpec.parse("link")
    assert str(link.within_bytes(1_000, 100_000)) == "deadzone(bytes=1000,feedback=1)"
    assert str(link.within_bytes(25_000, 100_000)) == "deadzone(bpp=2,feedback=1)"
    assert str(link.within_bytes(1, 100_000)) == "deadzone(bytes=16,feedback=1)"


def test_what_has_no_rate_has_no_budget() -> None:
    step = CodecSpec.parse("deadzone(step=2,context=1)")
    assert str(step.within_bytes(10, 1_000)) == "deadzone(step=2)"
    assert CodecSpec.parse("edge").plain() is CodecSpec.parse("edge")


def test_a_specification_that_a_frame_has_no_room_for_is_refused() -> None:
    with pytest.raises(SpecError, match="fewer digits"):
        CodecSpec(kind=Kind.DEADZONE, bpp=0.123456, feedback=True, context=True)


def test_a_text_is_read_once_and_what_is_refused_is_refused_each_time() -> None:
    text = "deadzone(bpp=0.734,feedback=1)"
    assert CodecSpec.parse(text) is CodecSpec.parse(text)
    assert [str(CodecSpec.parse(text)) for _ in range(2)] == [text] * 2
    for _ in range(2):
        with pytest.raises(SpecError, match="unknown codec"):
            CodecSpec.parse("deadzone(bpp=0.734")
