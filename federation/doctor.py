"""What both doctors share: findings, the checks of a machine and of the way to its broker, and how they are told."""

import datetime as dt
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path

import typer

from federation.errors import ConfigError, FederationError
from federation.identity.certificate_facts import presented, untrusted
from federation.identity.certificates import common_name, read_certificate
from federation.identity.private_files import read_text
from federation.runtime.address import BrokerAddress
from federation.runtime.dial import dial
from federation.runtime.obstacles import read_obstacles
from federation.runtime.visit import Seen
from federation.storage.folder import lock_holder
from federation.storage.remedies import access_remedy, remedy_for
from federation.units import counted
from update_codec.kernel import status

__all__ = [
    "OUTDATED",
    "Finding",
    "Verdict",
    "check_clock",
    "check_dial",
    "check_folder",
    "check_own_certificate",
    "check_room",
    "check_tls",
    "check_versions",
    "failed",
    "is_outdated",
    "is_patched",
    "judge_refusal",
    "judge_silence",
    "package_version",
    "passed",
    "passing_by",
    "said_by",
    "tell",
    "warned",
]

FREE_BYTES_MIN = 256 << 20
"""Less free disk than this is a warning, in bytes."""

CLOCK_MIN_S = 1_735_689_600
"""A clock before 2025 was never set, in seconds since 1970: certificates look as if they were not valid yet."""

DIAL_S = 5.0
"""How long a TCP connection, and a TLS handshake, may take, in seconds."""

CERTIFICATE_DAYS_MIN = 30
"""A certificate that ends sooner is a warning, in days."""

CERTIFICATE_BYTES_MAX = 65_536

PACKAGES = ("fedmq", "paho-mqtt", "numpy", "zstandard", "msgpack")


SECURE = (2, 0, 21)
"""The first Mosquitto with all security fixes that were published until this release of ours."""

OUTDATED = (
    f"published faults are fixed in Mosquitto {'.'.join(map(str, SECURE))}: upgrade, or see in the changelog of your "
    "system's package that it has CVE-2023-0809, CVE-2023-28366, CVE-2023-3592 and CVE-2024-8376 (Debian 12: "
    "2.0.11-1.2+deb12u2)"
)

_PATCHED_PACKAGE = "2.0.11-1.2+deb12u2"
"""Debian's package has the fixes under the old number from here on."""

INDENT = " " * 23
ROOM_MIN = 30
"""A terminal with less room than this beside the indent wraps by itself, in characters."""


class Verdict(StrEnum):
    """How a check ended."""

    PASS = "PASS"  # noqa: S105 - a verdict, not a password
    WARN = "WARN"
    FAIL = "FAIL"


COLOURS = {Verdict.PASS: "green", Verdict.WARN: "yellow", Verdict.FAIL: "red"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One check.

    Attributes:
        check: What was looked at.
        verdict: How it ended.
        detail: What was found.
        remedy: What to do about it; empty when there is nothing to do.
    """

    check: str
    verdict: Verdict
    detail: str
    remedy: str = ""


def passed(check: str, detail: str) -> Finding:
    """Nothing to do."""
    return Finding(check=check, verdict=Verdict.PASS, detail=detail)


def warned(check: str, detail: str, remedy: str) -> Finding:
    """It works, for now."""
    return Finding(check=check, verdict=Verdict.WARN, detail=detail, remedy=remedy)


def failed(check: str, detail: str, remedy: str) -> Finding:
    """It will not work."""
    return Finding(check=check, verdict=Verdict.FAIL, detail=detail, remedy=remedy)


def check_versions() -> Finding:
    """Which software this is."""
    python = ".".join(map(str, sys.version_info[:3]))
    loops = "compiled" if status().name == "compiled" else f"numpy ({status().reason})"
    packages = (f"{name} {version(name)}" for name in PACKAGES)
    return passed("versions", ", ".join([f"python {python}", *packages, f"codec loops {loops}"]))


def check_clock(now_s: float) -> Finding:
    """Whether the clock was ever set; ``now_s`` is in seconds since 1970."""
    said = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now_s))
    if now_s < CLOCK_MIN_S:
        return failed("clock", said, "set the clock (NTP): certificates are not valid yet for this device")
    return passed("clock", said)


def check_folder(folder: Path) -> Finding:
    """Whether the state folder can be written, and is not in use; nothing is left behind, not even the folder."""
    try:
        if not folder.exists():
            return _check_absent(folder)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"doctor")
            file.flush()
            os.fsync(file.fileno())
        barred = [
            path for path in sorted(folder.iterdir()) if not os.access(path, os.R_OK | os.W_OK, effective_ids=True)
        ]
    except OSError as error:
        return failed("state folder", said_by(error), _folder_remedy(error, folder))
    if barred:
        said = f"{barred[0].name} in it cannot be written"
        return failed("state folder", said, access_remedy(folder).removeprefix("; "))
    holder = lock_holder(folder)
    if holder is not None:
        return warned("state folder", f"in use by the process with pid {holder}", "fine if it is this role itself")
    return passed("state folder", str(folder.absolute()))


def _check_absent(folder: Path) -> Finding:
    """As root a folder that is made here would be root's own, and bar the service's user."""
    parent = _nearest(folder)
    if not parent.is_dir():
        return failed("state folder", f"{parent} is no folder", "choose another store.folder")
    if not os.access(parent, os.W_OK | os.X_OK, effective_ids=True):
        return failed("state folder", f"{parent} cannot be written", f"make it writable, or make {folder.absolute()}")
    return passed("state folder", f"{folder.absolute()}: none yet, the first start makes it")


def _folder_remedy(error: OSError, folder: Path) -> str:
    return (remedy_for(error, folder) or access_remedy(None)).removeprefix("; ")


def _nearest(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    folder = folder.absolute()
    return next(one for one in (folder, *folder.parents) if os.path.lexists(one))


def check_room(folder: Path, *, bytes_min: int, remedy: str) -> Finding:
    """Whether a folder's disk has so many bytes free."""
    try:
        free_bytes = shutil.disk_usage(_nearest(folder)).free
    except OSError as error:
        return failed("disk", said_by(error), "see the state folder")
    said = f"{free_bytes >> 20} MiB free"
    return warned("disk", said, remedy) if free_bytes < bytes_min else passed("disk", said)


def check_dial(address: BrokerAddress) -> Finding:
    """Whether the name resolves and the port answers, before anything is said."""
    where = f"{address.host}:{address.port}"
    try:
        with dial(address.host, address.port, timeout_s=DIAL_S):
            return passed("broker port", where)
    except socket.gaierror as error:
        return failed("broker port", f"{where}: {error.strerror}", "see the host name and this device's DNS")
    except OSError as error:
        said = f"{where}: {said_by(error)}"
        return failed("broker port", said, "see the port, firewalls, and whether the broker runs")


def check_own_certificate(path: Path, now: dt.datetime, *, owner: str | None, renewal: str) -> Finding:
    """Whether a certificate is whose it should be, and for how long.

    Args:
        path: PEM file.
        now: With a time zone.
        owner: The common name that it should have; None is any.
        renewal: How to get a new one.
    """
    try:
        certificate = read_certificate(read_text(path, bytes_max=CERTIFICATE_BYTES_MAX), source=path.name)
        name = common_name(certificate)
    except FederationError as error:
        return failed("certificate", str(error), renewal)
    left = certificate.not_valid_after_utc - now
    said = f"of {name}, until {certificate.not_valid_after_utc:%Y-%m-%d}"
    if owner not in (None, name):
        return failed("certificate", said, f"it should be of {owner}: {renewal}")
    if left <= dt.timedelta(0):
        return failed("certificate", said, f"it has ended: {renewal}")
    if now < certificate.not_valid_before_utc:
        begins = f"it begins on {certificate.not_valid_before_utc:%Y-%m-%d}"
        return failed("certificate", said, f"{begins}: see this machine's clock (NTP); if it is right, {renewal}")
    return warned("certificate", said, renewal) if left.days < CERTIFICATE_DAYS_MIN else passed("certificate", said)


def check_tls(address: BrokerAddress, now_s: float) -> Finding | None:
    """Whether the broker's certificate is one that we trust; None without TLS. ``now_s`` is in seconds since 1970.

    Ours is judged by the broker, which says so only after the handshake: see the session.
    """
    if address.tls is None:
        return None

    def connect(context: ssl.SSLContext) -> ssl.SSLSocket:
        with dial(address.host, address.port, timeout_s=DIAL_S) as plain:
            return context.wrap_socket(plain, server_hostname=address.host)

    try:
        with connect(address.tls.context()) as secure:
            ends = str((secure.getpeercert() or {})["notAfter"])
            said = f"{secure.version()}, the broker's certificate ends {ends}"
    except ConfigError as error:
        return failed("tls", str(error), "see broker.tls_authority, tls_certificate and tls_key")
    except ssl.SSLError as error:
        found = untrusted(error, address.host, address.tls, lambda: presented(connect), _moment(now_s))
        return failed("tls", found.reason, found.remedy or "see whether this port speaks TLS")
    except OSError as error:
        return failed("tls", said_by(error), "see whether this port speaks TLS")
    if ssl.cert_time_to_seconds(ends) - now_s < CERTIFICATE_DAYS_MIN * 86_400:
        return warned("tls", said, "renew the broker's certificate")
    return passed("tls", said)


def _moment(now_s: float) -> dt.datetime:
    return dt.datetime.fromtimestamp(now_s, dt.UTC)


def is_outdated(version: str) -> bool:
    """Whether a text such as ``mosquitto version 2.0.11`` names a release that lacks security fixes."""
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", version)
    return found is not None and tuple(map(int, found.groups())) < SECURE


def is_patched(package: str) -> bool:
    """Whether a package of Debian 12, by its version, has the fixes under an older release's number."""
    series, _, update = package.rpartition("u")
    wanted, _, least = _PATCHED_PACKAGE.rpartition("u")
    return series == wanted and update.isdigit() and int(update) >= int(least)


def package_version() -> str:
    """The version of this system's Mosquitto package; empty where dpkg knows none."""
    try:
        done = subprocess.run(
            ["dpkg-query", "-W", "-f", "${Version}", "mosquitto"],  # noqa: S607 - wherever the system has it
            capture_output=True,
            text=True,
            check=True,
            timeout=DIAL_S,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def judge_refusal(seen: Seen, *, with_certificate: bool) -> Finding:
    """The broker has not accepted the connection of a visit."""
    if with_certificate:
        remedy = "see whether the broker trusts the authority of broker.tls_certificate, and the broker's own log"
    else:
        remedy = "see broker.username and broker.password_file, whether this port wants TLS, and the broker's own log"
    return failed("broker session", seen.reason, seen.remedy or remedy)


def judge_silence(seen: Seen) -> Finding:
    """The broker has not answered what a visit published: whether it may be is not known."""
    said = f"the broker has not answered to {counted(seen.unanswered, 'trial message')}"
    return warned("access rules", said, "try again; if it stays so, see the broker's load, its limits and its log")


def passing_by(folder: Path, said: str, remedy: str) -> Finding:
    """No visit was tried, since the role runs: what it says itself of its broker, or ``said``, with its remedy."""
    obstacle = read_obstacles(folder).get("node")
    return warned("broker session", said, remedy) if obstacle is None else failed("broker session", obstacle, remedy)


def said_by(error: OSError) -> str:
    """What the system says, without its number."""
    return error.strerror or str(error)


def tell(findings: Iterable[Finding], *, as_json: bool) -> int:
    """Print findings as they come, or all of them as JSON; returns the exit code, 1 when a check failed."""
    told: list[Finding] = []
    for finding in findings:
        told.append(finding)
        if not as_json:
            for line in _lines(finding):
                typer.echo(line)
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in told], indent=2))
    return 1 if any(finding.verdict is Verdict.FAIL for finding in told) else 0


def _lines(finding: Finding) -> Iterator[str]:
    """The finding, then its remedy; wrapped on a terminal, one line each elsewhere. Colours reach terminals only."""
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    verdict = typer.style(f"{finding.verdict:4}", fg=COLOURS[finding.verdict])
    first, *more = _wrapped(finding.detail, columns)
    yield f"{verdict}  {finding.check:16} {first}"
    yield from (INDENT + line for line in more)
    if finding.remedy:
        first, *more = _wrapped(finding.remedy, columns)
        yield f"{'->':>{len(INDENT) - 1}} {first}"
        yield from (INDENT + line for line in more)


def _wrapped(text: str, columns: int) -> list[str]:
    room = columns - len(INDENT)
    return [text] if room < ROOM_MIN or not text else textwrap.wrap(text, room)
