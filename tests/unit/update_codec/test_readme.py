"""What the folder's README shows is true."""

import re
from pathlib import Path

import pytest

from update_codec import PROFILES, CodecSpec

README = (Path(__file__).parents[3] / "compression" / "README.md").read_text()


def test_example_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    source = README.split("```python\n")[1].split("```")[0]
    names: dict[str, object] = {}
    exec(compile(source, "README.md", "exec"), names)  # noqa: S102 - our own page
    match = re.fullmatch(r"(\d+) bytes instead of (\d+)\n", capsys.readouterr().out)
    assert match is not None
    assert int(match[1]) < int(match[2]) / 64


def test_every_profile_is_in_the_table() -> None:
    table = README.split("## Profiles")[1].split("##")[0]
    for profile in PROFILES:
        assert f"`{profile}`" in table or profile in ("eden2", "eden3")
    for text in re.findall(r"`(\w+\([^`]*\))`", README):
        if text.split("(")[0] in ("deadzone", "dither", "common"):
            assert CodecSpec.parse(text)
