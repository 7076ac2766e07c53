"""Configuration is strict: every mistake names its key and where it came from."""

import codecs
import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field

from federation.config import CONFIG_BYTES_MAX, BrokerSection, Section, broker_address, load_config
from federation.errors import ConfigError
from federation.runtime.address import read_password
from federation.setting_checks import check_place


class Broker(Section):
    url: str
    port: int = Field(default=1883, ge=1)
    names: tuple[str, ...] = ()
    as_json: bool = Field(default=False, alias="json")


class Other(Section):
    ratio: float = 0.5
    place: Path | None = None
    count: int = 0
    table: Mapping[str, Any] = Field(default_factory=dict)


class Whole(Section):
    broker: Broker
    other: Other


def load(
    file: Path | None = None, environ: dict[str, str] | None = None, flags: dict[str, object] | None = None
) -> Whole:
    return load_config(Whole, prefix="FEDMQ_TEST", file=file, environ=environ or {}, flags=flags or {})


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "node.toml"
    path.write_text('[broker]\nurl = "mqtt://file"\nport = 1\nnames = ["a"]\njson = true\n')
    return path


def refused(
    file: Path | None = None, environ: dict[str, str] | None = None, flags: dict[str, object] | None = None
) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(file, environ, flags)
    return caught.value


def test_all_keys_that_are_unknown_are_named_at_once(toml: Path) -> None:
    toml.write_text('[brokr]\nurl = "x"\n[broker]\nprot = 1\nurl = "x"\n')
    told = str(refused(toml))
    assert "did you mean" in told
    assert "brokr" in told
    assert "broker.prot" in told


def test_file_is_read_and_defaults_fill_the_rest(toml: Path) -> None:
    config = load(toml)
    assert (config.broker.url, config.broker.port, config.broker.names) == ("mqtt://file", 1, ("a",))
    assert (config.broker.as_json, config.other.ratio) == (True, 0.5)


def test_environment_wins_over_the_file_and_flags_over_both(toml: Path) -> None:
    environ = {"FEDMQ_TEST__BROKER__URL": "mqtt://environment", "FEDMQ_TEST__BROKER__PORT": "2", "PATH": "/bin"}
    config = load(toml, environ, {"broker.port": 3, "other.ratio": None})
    assert (config.broker.url, config.broker.port) == ("mqtt://environment", 3)


def test_environment_gives_lists_as_json(toml: Path) -> None:
    config = load(toml, {"FEDMQ_TEST__BROKER__NAMES": '["x", "y"]', "FEDMQ_TEST__BROKER__JSON": "false"})
    assert (config.broker.names, config.broker.as_json) == (("x", "y"), False)


def test_missing_key_is_named_in_full() -> None:
    error = refused()
    assert error.key == "broker.url"
    assert "required" in str(error)
    assert "--config FILE" in str(error)


@pytest.mark.parametrize(
    ("flag", "suggestion"),
    [("broker.prot", "did you mean 'port'"), ("broker.zzz", "known are"), ("borker.url", "did you mean 'broker'")],
)
def test_unknown_key_is_refused_with_a_suggestion(toml: Path, flag: str, suggestion: str) -> None:
    error = refused(toml, flags={flag: "x"})
    assert suggestion in str(error)
    assert error.source == "command line"


def test_name_of_a_field_in_the_code_is_no_key(toml: Path) -> None:
    assert "did you mean" in str(refused(toml, flags={"broker.jsn": True}))
    assert "unknown key" in str(refused(toml, flags={"broker.as_json": True}))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('[broker]\nulr = "x"', r"broker.ulr: unknown key; did you mean 'url'"),
        ('[brokr]\nurl = "x"', r"brokr: unknown key; did you mean 'broker'"),
        ('[broker]\nurl = "x"\nratio = 1', r"broker.ratio: .* it belongs below \[other\]"),
        ('url = "x"', r"url: put it into a section: under a line such as \[broker\]"),
    ],
)
def test_a_misspelt_key_is_named_and_not_the_one_that_is_missing(toml: Path, content: str, said: str) -> None:
    toml.write_text(content)
    with pytest.raises(ConfigError, match=said):
        load(toml)


@pytest.mark.parametrize("content", ["a = " + "[" * 100_000, "a = " + "9" * 5_000, "a." * 5_000 + "b = 1"])
def test_a_file_that_no_parser_bears_is_refused(toml: Path, content: str) -> None:
    toml.write_text(content)
    with pytest.raises(ConfigError, match="--config: cannot be read as TOML"):
        load(toml)


def test_a_file_that_is_not_there_is_no_toml_that_is_wrong(toml: Path) -> None:
    """It said `cannot be read as TOML: [Errno 2]`, also where a command takes the folder as an argument."""
    toml.unlink()
    for place, said in ((toml, f"there is no {toml.name} in {toml.parent}"), (toml / "x", f"folder {toml / 'x'}")):
        with pytest.raises(ConfigError, match=re.escape(said)):
            load(place)
    toml.mkdir()
    with pytest.raises(ConfigError, match=re.escape(f"there is no config.toml in {toml}")):
        load(toml)


def test_a_file_of_windows_is_read(toml: Path) -> None:
    toml.write_bytes(codecs.BOM_UTF8 + toml.read_bytes().replace(b"\n", b"\r\n"))
    assert load(toml).broker.url == "mqtt://file"
    toml.write_text("[broker]", encoding="utf-16")
    assert "save it as UTF-8" in str(refused(toml))


def test_a_tilde_is_the_home_folder(toml: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    toml.write_text('[broker]\nurl = "~/x.py:build"\n[other]\nplace = "~/state"\n')
    config = load(toml)
    assert (config.broker.url, config.other.place) == ("/home/me/x.py:build", Path("/home/me/state"))
    assert load(toml, flags={"other.place": Path("~/a")}).other.place == Path("/home/me/a")
    assert load(toml, {"FEDMQ_TEST__OTHER__PLACE": "~"}).other.place == Path("/home/me")
    assert load(toml, flags={"broker.url": "~x"}).broker.url == "~x"
    assert "no home folder for ~nobody-at-all" in str(refused(toml, flags={"other.place": "~nobody-at-all/x"}))


def test_an_empty_variable_is_none_and_an_empty_path_is_refused(toml: Path) -> None:
    assert load(toml, {"FEDMQ_TEST__BROKER__URL": "", "FEDMQ_TEST__OTHER__PLACE": ""}).other.place is None
    assert "required" in str(refused(environ={"FEDMQ_TEST__BROKER__URL": ""}))
    toml.write_text('[broker]\nurl = "x"\n[other]\nplace = ""\n')
    assert "is empty: leave the key out" in str(refused(toml))


@pytest.mark.parametrize(
    "variable",
    [
        "FEDMQ_TEST_BROKER__URL",
        "FEDMQ_TEST_BROKER_URL",
        "FEDMQ_TEST__BROKER_URL",
        "FEDMQ__TEST__BROKER__URL",
        "FEDMQ_TESTS__BROKER__URL",
        "fedmq_test__broker__url",
    ],
)
def test_a_variable_that_nobody_reads_is_refused_with_its_right_name(toml: Path, variable: str) -> None:
    error = refused(toml, {variable: "x"})
    assert "FEDMQ_TEST__BROKER__URL" in str(error)
    assert error.source == f"environment variable {variable}"


@pytest.mark.parametrize("variable", ["FEDMQ_TEST", "FEDMQ_TEST_IMAGE", "FEDMQ_NODE__BROKER__URL", "FEDMQ_FAILPOINT"])
def test_a_variable_of_somebody_else_is_left_alone(toml: Path, variable: str) -> None:
    assert load(toml, {variable: "x"}).broker.url == "mqtt://file"


def test_quotes_that_belong_to_the_shell_are_named(toml: Path) -> None:
    assert "leave them out" in str(refused(toml, {"FEDMQ_TEST__BROKER__URL": '"mqtt://x"'}))


@pytest.mark.parametrize("value", ["many", 0, 1.5])
def test_value_out_of_range_names_key_and_source(toml: Path, value: object) -> None:
    error = refused(toml, {"FEDMQ_TEST__BROKER__PORT": str(value)})
    assert (error.key, error.source) == ("broker.port", "environment variable FEDMQ_TEST__BROKER__PORT")


def test_source_of_a_value_in_the_file_is_the_file(toml: Path) -> None:
    toml.write_text('[broker]\nurl = "x"\nport = 0\n')
    assert refused(toml).source == f"file {toml}"


@pytest.mark.parametrize("value", ["[1", "{x", "nan"])
def test_value_that_is_no_json_stays_text_and_is_refused_by_its_type(toml: Path, value: str) -> None:
    assert refused(toml, {"FEDMQ_TEST__OTHER__RATIO": value}).key == "other.ratio"


def test_unknown_section_in_the_environment_is_refused(toml: Path) -> None:
    assert refused(toml, {"FEDMQ_TEST__BORKER__URL": "x"}).source.endswith("FEDMQ_TEST__BORKER__URL")
    assert "SECTION__KEY" in str(refused(toml, {"FEDMQ_TEST__URL": "x"}))


@pytest.mark.parametrize("content", [b"[broker", b"\xff\xfe", b"x" * (CONFIG_BYTES_MAX + 1), b'url = "top level"'])
def test_file_that_cannot_be_used_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    assert refused(path).source == f"file {path}"


def test_file_that_is_missing_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "nowhere.toml").key == "--config"


def test_key_below_a_value_is_refused(toml: Path) -> None:
    toml.write_text('[broker]\nurl = { nested = "x" }\n')
    assert refused(toml).key == "broker.url"


def test_password_comes_from_its_file_and_not_from_the_url(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_bytes(codecs.BOM_UTF8 + b"secret\r\n")
    address = broker_address(BrokerSection(url="mqtt://user:url@host:99", username="pi-3", password_file=file))
    assert (address.host, address.port, address.username, address.password) == ("host", 99, "pi-3", "secret")
    plain = broker_address(BrokerSection(url="mqtt://user:url@host"))
    assert (plain.username, plain.password, plain.tls) == ("user", "url", None)


def test_certificates_need_a_secure_url(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="mqtts"):
        broker_address(BrokerSection(url="mqtt://host", tls_authority=tmp_path / "ca.pem"))
    address = broker_address(BrokerSection(url="mqtts://host", tls_authority=tmp_path / "ca.pem"))
    assert address.tls is not None
    assert address.tls.authority == str(tmp_path / "ca.pem")


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines\n", b"x" * 1025, b"\xff"])
def test_password_file_must_hold_one_line(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_password(file)
    assert caught.value.source == str(file)


def test_password_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_password(tmp_path / "nowhere")


@pytest.mark.parametrize("key", ["tls_authority", "tls_certificate", "tls_key"])
def test_a_file_of_tls_that_is_a_pipe_or_folder_is_named(tmp_path: Path, key: str) -> None:
    """The library would wait for ever for somebody who writes into it."""
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(ConfigError, match="is no file") as caught:
            broker_address(BrokerSection.model_validate({"url": "mqtts://host", key: place}))
        assert caught.value.key == f"broker.{key}"


def test_a_nul_character_is_refused_with_its_key(toml: Path) -> None:
    toml.write_text('[broker]\nurl = "mqtt://a\\u0000b"\n')
    error = refused(toml)
    assert (error.key, "NUL" in str(error)) == ("broker.url", True)


@pytest.mark.parametrize("value", ['{ a = "\\u0000" }', '{ "\\u0000" = 1 }', '{ a = [["\\u0000"]] }'])
def test_a_nul_character_is_found_however_deep_it_is(toml: Path, value: str) -> None:
    toml.write_text(f'[broker]\nurl = "x"\n[other]\ntable = {value}\n')
    assert "other.table: has a NUL character" in str(refused(toml))


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("port = true", "broker.port: must be a number, and true is none"),
        ("port = false", "broker.port: must be a number, and false is none"),
        ("json = 1", "broker.json: must be true or false, and a number is neither"),
        ("json = 0.0", "broker.json: must be true or false, and a number is neither"),
    ],
)
def test_a_truth_value_is_no_number_and_no_number_is_one(toml: Path, line: str, said: str) -> None:
    """`buffer = true` was a buffer of 1."""
    toml.write_text(f'[broker]\nurl = "x"\n{line}\n')
    assert said in str(refused(toml))


def test_truth_values_are_taken_where_they_belong(toml: Path) -> None:
    assert load(toml, {"FEDMQ_TEST__BROKER__JSON": "0"}).broker.as_json is False
    assert load(toml, {"FEDMQ_TEST__OTHER__TABLE": '{"a": true}'}).other.table == {"a": True}


def test_a_number_that_no_database_holds_is_refused(toml: Path) -> None:
    """A seed of 100 bits ended the coordinator with a traceback of its store."""
    largest = str((1 << 63) - 1)
    assert load(toml, {"FEDMQ_TEST__OTHER__COUNT": largest}).other.count == (1 << 63) - 1
    for value in (str(1 << 63), str(-1 << 63), "9" * 300):
        error = refused(toml, {"FEDMQ_TEST__OTHER__COUNT": value})
        assert "other.count: must be at most 9,223,372,036,854,775,807" in str(error)


def test_a_place_that_the_system_does_not_look_up_is_refused(tmp_path: Path) -> None:
    check_place("task.data", None, Path.is_dir, "is not a folder")
    check_place("task.data", tmp_path, Path.is_dir, "is not a folder")
    with pytest.raises(ConfigError, match=re.escape("task.data: /nowhere/at-all is not a folder (from configuration)")):
        check_place("task.data", Path("/nowhere/at-all"), Path.is_dir, "is not a folder")
    with pytest.raises(ConfigError, match="cannot be used: File name too long"):
        check_place("task.data", tmp_path / ("x" * 300), Path.exists, "does not exist")


def test_a_certificate_below_a_barred_folder_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def barred(_: Path) -> bool:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "is_file", barred)
    with pytest.raises(ConfigError, match=r"broker.tls_key: .*/x cannot be used: Permission denied"):
        broker_address(BrokerSection(url="mqtts://host", tls_key=tmp_path / "x"))
