"""Strict configuration from TOML, environment and flags: an unknown key is an error that names the key and its source.

Here are the loader, and the sections that both roles have; each role adds its own.

Every key is ``section.name``. Later sources win: TOML file, then environment, then command line flags. The environment
variable of ``broker.url`` with the prefix ``FEDMQ_NODE`` is ``FEDMQ_NODE__BROKER__URL``; an empty one is as good as
none. A text in the file that begins with ``{here}/`` is a path beside the file, so that a folder with a configuration
can be moved; everywhere ``~/`` is the home folder.
"""

import codecs
import difflib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from federation.documents import read_file, read_json, read_toml
from federation.errors import ConfigError, FederationError
from federation.protocol.limits import SECONDS_MAX
from federation.protocol.topics import validate_federation_id
from federation.runtime.address import BrokerAddress, TlsFiles, parse_broker_url, read_password
from federation.runtime.profiles import BrokerProfile, ProfileName, profile_named
from federation.setting_checks import check_bounds, check_place, check_value
from federation.setting_errors import explained, siblings
from federation.tasks.arguments import joined
from update_codec import CodecError, CodecSpec

__all__ = [
    "CONFIG_BYTES_MAX",
    "BrokerSection",
    "Codec",
    "Device",
    "FederationSection",
    "LogSection",
    "PositiveSeconds",
    "Seconds",
    "Section",
    "TaskArguments",
    "Threads",
    "accepted_by",
    "broker_address",
    "load_config",
]

CONFIG_BYTES_MAX = 1 << 20
"""A configuration file larger than this is refused, in bytes."""

Seconds = Annotated[float, Field(ge=0.0, le=SECONDS_MAX)]
"""A duration that a message can carry and a clock can wait for: a year at most."""

PositiveSeconds = Annotated[float, Field(gt=0.0, le=SECONDS_MAX)]
"""The same above nothing."""

Threads = Annotated[int, Field(gt=0, le=1_024)]
"""Of a pool: the libraries that compute count them in 32 bits, and make each."""


def accepted_by(check: Callable[[str], object]) -> AfterValidator:
    """A text as ``check`` gives it back; what it refuses is a wrong setting, in its own words."""

    def accept(text: str) -> str:
        try:
            return str(check(text))
        except (FederationError, CodecError) as error:
            raise ValueError(str(error)) from error

    return AfterValidator(accept)


Codec = Annotated[str, accepted_by(CodecSpec.parse)]
"""A codec specification in its canonical form."""

Device = Literal["auto", "cpu", "cuda"]
"""Where a task computes; ``auto`` takes a GPU when there is one."""

_HERE = "{here}/"

PREFIXES = ("FEDMQ_COORDINATOR", "FEDMQ_NODE", "FEDMQ_HELPER", "FEDMQ_GATEWAY")
"""Of the environment variables of all roles: one role does not ask about the other's."""

ConfigT = TypeVar("ConfigT", bound=BaseModel)


class Section(BaseModel):
    """Base of every section and of the whole: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _sound(cls, value: object, info: ValidationInfo) -> object:
        check_value(value, cls.model_fields[str(info.field_name)].annotation)
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _bounded(cls, value: object) -> object:
        check_bounds(value)
        return value


class FederationSection(Section):
    """``[federation]``: what is coordinated, or taken part in.

    Attributes:
        id: The federation's name: a topic level.
    """

    id: Annotated[str, accepted_by(validate_federation_id)]


class TaskArguments(Section):
    """What a section ``[task]`` tells the task itself.

    Attributes:
        name: A built-in name, ``file.py:function``, ``package.module:function`` or ``file.toml``. The arguments become
            part of it (`federation.tasks.arguments`).
        arguments: What the task is told, by name, such as ``{ columns = ["flow"], window = 60 }``; the task checks it.
    """

    name: str = "digits"
    arguments: Mapping[str, Any] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _arguments_in_name(cls, values: Any) -> Any:
        if not isinstance(values, Mapping) or not isinstance(values.get("arguments"), Mapping):
            return values
        return {**values, "name": joined(str(values.get("name", "digits")), values["arguments"])}


class BrokerSection(Section):
    """``[broker]``: where the broker is.

    Attributes:
        url: ``mqtt://``, ``mqtts://``, ``ws://`` or ``wss://``, with host and port.
        username: For the broker's password file, when it is not in the URL.
        password_file: File with the password alone: it does not show in a process list.
        tls_authority: PEM file of the certificates that sign the broker's.
        tls_certificate: PEM file of the role's own certificate chain.
        tls_key: PEM file of its private key.
        keepalive_s: Silence after which a ping is sent, in seconds.
        profile: What kind of broker it is: ``mosquitto``, ``emqx``, ``hivemq``, ``vernemq``, ``aws-iot-core`` or
            ``azure-event-grid``.
    """

    # It may hold a password: no error and no log shows it.
    url: str = Field(repr=False)
    username: str | None = None
    password_file: Path | None = None
    tls_authority: Path | None = None
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    keepalive_s: Annotated[int, Field(ge=5, le=3600)] = 45
    profile: ProfileName = "mosquitto"

    @property
    def limits(self) -> BrokerProfile:
        """What this kind of broker takes."""
        return profile_named(self.profile)


class LogSection(Section):
    """``[log]``: what is said, and how.

    Attributes:
        json: One JSON object per line on standard output, for machines; else text on standard error.
        level: The least important level that is shown.
    """

    as_json: bool = Field(default=False, alias="json")
    level: Literal["debug", "info", "warning", "error", "critical"] = "info"


def broker_address(section: BrokerSection) -> BrokerAddress:
    """Where the broker is, with credentials and certificates.

    Raises:
        ConfigError: The URL or a file is wrong.
    """
    names = ("tls_authority", "tls_certificate", "tls_key")
    authority, certificate, key = (_file_named(section, name) for name in names)
    tls = TlsFiles(authority=authority, certificate=certificate, key=key) if authority or certificate or key else None
    address = parse_broker_url(section.url, tls=tls)
    password = None if section.password_file is None else read_password(section.password_file)
    return replace(
        address,
        username=address.username if section.username is None else section.username,
        password=address.password if password is None else password,
        password_file=section.password_file,
    )


def _file_named(section: BrokerSection, name: str) -> str | None:
    """Where a file of TLS is, which the library reads by itself: it would wait for ever for the writer of a pipe."""
    path: Path | None = getattr(section, name)
    # One that is not there is told of by whoever opens it.
    check_place(f"broker.{name}", path, lambda place: place.is_file() or not place.exists(), "is no file")
    return None if path is None else str(path)


@dataclass(slots=True)
class _Gathered:
    """Values by section and name, and where each came from."""

    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    def put(self, section: str, name: str, value: object, source: str) -> None:
        self.values.setdefault(section, {})[name] = _at_home(f"{section}.{name}", value, source)
        self.sources[f"{section}.{name}"] = source


def load_config(
    model: type[ConfigT],
    *,
    prefix: str,
    file: Path | None,
    flags: Mapping[str, object],
    environ: Mapping[str, str] | None = None,
    in_folder: str = "config.toml",
) -> ConfigT:
    """Read all sources into ``model``, whose fields are `Section` models.

    Args:
        model: What the configuration must be.
        prefix: Of the environment variables, such as ``FEDMQ_NODE``.
        file: TOML file, the folder that it is in, or None.
        flags: Command line values by dotted key; None values were not given.
        environ: The environment; None is the process's own.
        in_folder: What the file is called in a folder.

    Raises:
        ConfigError: A key is unknown, missing or out of range, or the file cannot be read.
    """
    if file is not None and file.is_dir():
        file = file / in_folder
    gathered = _Gathered()
    for section, name, value in _from_toml(file):
        gathered.put(section, name, value, f"file {file}")
    keys = [(section, key) for section in model.model_fields for key in siblings(model, [section])]
    for variable, section, name, value in _from_environ(prefix, os.environ if environ is None else environ, keys):
        gathered.put(section, name, value, _environment(variable))
    for key, value in flags.items():
        if value is not None:
            section, _, name = key.partition(".")
            gathered.put(section, name, value, "command line")
    try:
        # A section that was not given is an empty one, so that a missing key is named in full.
        return model.model_validate({name: {} for name in model.model_fields} | gathered.values)
    except ValidationError as error:
        # An unknown key first: it is what a key that is missing was called by mistake.
        details = sorted(error.errors(), key=lambda detail: detail["type"] != "extra_forbidden")
        more = [".".join(map(str, one["loc"])) for one in details[1:] if one["type"] == "extra_forbidden"]
        raise explained(model, details[0], gathered.sources, more) from error


def _at_home(key: str, value: object, source: str) -> object:
    """A path in the home folder, which a shell would have written out, in full."""
    if isinstance(value, list):
        return [_at_home(key, each, source) for each in value]
    if isinstance(value, dict):
        return {name: _at_home(key, each, source) for name, each in value.items()}
    text = str(value) if isinstance(value, Path) else value
    if not isinstance(text, str) or not (text == "~" or re.match(r"~[^/]*/", text)):
        return value
    place = os.path.expanduser(text)  # noqa: PTH111 - a task's name is no path, and may begin with one
    if place.startswith("~"):
        raise ConfigError(key, f"there is no home folder for {text.partition('/')[0]}", source=source)
    return place


def _from_toml(file: Path | None) -> list[tuple[str, str, object]]:
    if file is None:
        return []
    source = f"file {file}"
    try:
        tables = read_toml(_decoded(read_file(file, bytes_max=CONFIG_BYTES_MAX), source))
    except FileNotFoundError as error:
        missing = f"{file.name} in {file.parent}" if file.parent.is_dir() else f"file or folder {file}"
        raise ConfigError("--config", f"there is no {missing}", source="command line") from error
    except OSError as error:
        raise ConfigError("--config", f"cannot be read: {error.strerror or error}", source=source) from error
    except ValueError as error:
        raise ConfigError("--config", f"cannot be read as TOML: {error}", source=source) from error
    for section, table in tables.items():
        if not isinstance(table, dict):
            raise ConfigError(section, "put it into a section: under a line such as [broker]", source=source)
    return [(section, name, _placed(value, file)) for section, table in tables.items() for name, value in table.items()]


def _placed(value: object, file: Path) -> object:
    if isinstance(value, list):
        return [_placed(each, file) for each in value]
    if isinstance(value, dict):
        return {name: _placed(each, file) for name, each in value.items()}
    if isinstance(value, str) and value.startswith(_HERE):
        return str(file.absolute().parent / value.removeprefix(_HERE))
    return value


def _decoded(body: bytes, source: str) -> str:
    """Text without the mark that editors of Windows put in front of it."""
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ConfigError("--config", "is in UTF-16: save it as UTF-8", source=source)
    return body.decode("utf-8-sig")


def _from_environ(
    prefix: str, environ: Mapping[str, str], keys: Iterable[tuple[str, str]]
) -> list[tuple[str, str, str, object]]:
    found: list[tuple[str, str, str, object]] = []
    meant = {f"{prefix}_{section}_{key}".upper(): f"{prefix}__{section}__{key}".upper() for section, key in keys}
    for variable, text in sorted(environ.items()):
        if not variable.startswith(f"{prefix}__"):
            _refuse_misspelt(prefix, variable, meant)
        # An empty one is what a compose file makes of a variable that was not set.
        elif text:
            section, separator, name = variable[len(prefix) + 2 :].lower().partition("__")
            if not separator:
                raise _misnamed(variable, meant.get(_squeezed(variable), f"{prefix}__SECTION__KEY"))
            if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
                raise ConfigError(f"{section}.{name}", "is in quotes: leave them out", source=_environment(variable))
            found.append((variable, section, name, _typed(text)))
    return found


def _refuse_misspelt(prefix: str, variable: str, meant: Mapping[str, str]) -> None:
    """Whoever gives a setting under a name that nobody reads would never hear of it."""
    known = meant.get(_squeezed(variable))
    if known is not None and variable != known:
        raise _misnamed(variable, known)
    begin, separator, rest = variable.partition("__")
    if separator and begin not in PREFIXES and difflib.get_close_matches(begin, [prefix], cutoff=0.75):
        raise _misnamed(variable, f"{prefix}__{rest.upper() if '__' in rest else 'SECTION__KEY'}")


def _squeezed(variable: str) -> str:
    return re.sub(r"_+", "_", variable.upper())


def _misnamed(variable: str, meant: str) -> ConfigError:
    return ConfigError(variable, f"is read by nobody; name it {meant}", source=_environment(variable))


def _environment(variable: str) -> str:
    return f"environment variable {variable}"


def _typed(text: str) -> object:
    """Lists and tables are given as JSON; everything else stays text, which the model converts."""
    if text[:1] not in ("[", "{"):
        return text
    try:
        value: object = read_json(text)
    except ValueError:
        return text
    return value
