"""The bytes of a message: canonical msgpack with integer keys, strict in both directions.

A message is one map ``{0: protocol version, 1: type code, 2…: fields}`` with ascending keys (schema.py). The same value
always gives the same bytes, and only those bytes are read back: a second spelling of a message is refused.
"""

from collections.abc import Callable
from typing import Any, Final, cast

import msgpack

from federation.errors import IncompatibleVersion, LocalProtocolError, MalformedMessage
from federation.protocol.fields import FieldError
from federation.protocol.limits import (
    ANNOUNCEMENT_BYTES_MAX,
    HEADER_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    SIGNATURE_BYTES,
)
from federation.protocol.messages import Message
from federation.protocol.schema import SCHEMAS

__all__ = [
    "ANNOUNCEMENT_BYTES_MAX",
    "HEADER_BYTES_MAX",
    "MESSAGE_BYTES_MAX",
    "PROTOCOL_MIN",
    "PROTOCOL_VERSION",
    "decode_message",
    "encode_message",
    "split_signature",
    "unsigned",
]

PROTOCOL_VERSION: Final = 1
"""The protocol that this code writes, and the newest that it reads."""
PROTOCOL_MIN: Final = 1
"""The oldest protocol that this code reads."""

_SCHEMA_BY_TYPE: Final = {schema.record.make: schema for schema in SCHEMAS}
_SCHEMA_BY_CODE: Final = {schema.code: schema for schema in SCHEMAS}
_SIGNATURE_KEY: Final = 255
_SIGNATURE_MARK: Final = b"\xcc\xff\xc4\x40"
"""Key 255 and the length 64, as canonical msgpack spells them: what stands before a signature, at a message's end."""
_KEY_TYPES: Final = frozenset({int, str})
_ARRAY_LENGTH_MAX: Final = 256
_MAP_LENGTH_MAX: Final = 64
_STRING_BYTES_MAX: Final = 1_024


def encode_message(message: Message, *, sign: Callable[[bytes], bytes] | None = None) -> bytes:
    """The one spelling of ``message``.

    Args:
        message: What is said.
        sign: The signature of all bytes before it, `SIGNATURE_BYTES` long; None is a message without one.

    Raises:
        LocalProtocolError: A value is outside its field's limits: a bug of the caller's.
    """
    schema = _SCHEMA_BY_TYPE.get(type(message))
    if schema is None:
        raise LocalProtocolError(f"{type(message).__name__} is no message of this protocol")
    try:
        fields = schema.record.pack(message)
    except FieldError as error:
        raise LocalProtocolError(f"refused to send: {error}") from error
    signature = {} if sign is None else {_SIGNATURE_KEY: bytes(SIGNATURE_BYTES)}
    encoded: bytes = msgpack.packb({0: PROTOCOL_VERSION, 1: schema.code, **fields, **signature})
    if len(encoded) > schema.bytes_max:
        raise LocalProtocolError(
            f"refused to send: {type(message).__name__} has {len(encoded)} bytes, the limit is {schema.bytes_max}"
        )
    if sign is None:
        return encoded
    body = encoded[:-SIGNATURE_BYTES]
    return body + sign(body)


def unsigned(message: Message) -> bytes:
    """What a signature of ``message`` covers, and what it is put behind.

    Raises:
        LocalProtocolError: As `encode_message`.
    """
    return encode_message(message, sign=lambda _body: b"")


def split_signature(payload: bytes) -> tuple[bytes, bytes]:
    """What a signature covers and the signature, without parsing either; b"" when there is none."""
    body = payload[:-SIGNATURE_BYTES]
    return (body, payload[-SIGNATURE_BYTES:]) if body.endswith(_SIGNATURE_MARK) else (payload, b"")


def decode_message(payload: bytes) -> Message:
    """The message that ``payload`` spells.

    Raises:
        IncompatibleVersion: The peer speaks another version of the protocol.
        MalformedMessage: Anything else that is not a message, for whatever bytes.
    """
    if len(payload) > MESSAGE_BYTES_MAX:
        raise MalformedMessage(f"{len(payload)} bytes, the limit is {MESSAGE_BYTES_MAX}")
    envelope = _unpack(payload)
    _check_version(envelope.get(0))
    code = envelope.get(1)
    schema = _SCHEMA_BY_CODE.get(code) if type(code) is int else None
    if schema is None:
        raise MalformedMessage("unknown message type")
    if len(payload) > schema.bytes_max:
        raise MalformedMessage(f"{len(payload)} bytes, the limit of this message is {schema.bytes_max}")
    try:
        return cast("Message", schema.record.unpack(envelope))
    except FieldError as error:
        raise MalformedMessage(str(error)) from None


def _check_version(version: object) -> None:
    if type(version) is not int:
        raise MalformedMessage("no protocol version")
    if not PROTOCOL_MIN <= version <= PROTOCOL_VERSION:
        raise IncompatibleVersion(
            f"the peer speaks protocol {version}, this side {PROTOCOL_MIN} to {PROTOCOL_VERSION}: upgrade the older one"
        )


def _unpack(payload: bytes) -> dict[Any, Any]:
    try:
        data = msgpack.unpackb(
            payload,
            object_pairs_hook=_ordered_map,
            ext_hook=_refuse_extension,
            strict_map_key=False,
            max_str_len=_STRING_BYTES_MAX,
            max_bin_len=MESSAGE_BYTES_MAX,
            max_array_len=_ARRAY_LENGTH_MAX,
            max_map_len=_MAP_LENGTH_MAX,
            max_ext_len=0,
        )
        # Packing what was read is the whole canonical check: wide integers, float32 and long lengths come out shorter.
        canonical = msgpack.packb(data) == payload
    except (ValueError, TypeError, RecursionError) as error:
        raise MalformedMessage(f"no canonical msgpack: {error}") from None
    if not canonical:
        raise MalformedMessage("no canonical msgpack: there is a shorter spelling")
    if type(data) is not dict:
        raise MalformedMessage("no map")
    return data


def _ordered_map(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    keys = [key for key, _ in pairs]
    if not {*map(type, keys)} <= _KEY_TYPES:
        raise FieldError("keys need to be integers or text")
    ordered = dict(pairs)
    if keys != sorted(keys) or len(ordered) != len(keys):
        raise FieldError("duplicate or unordered keys")
    return ordered


def _refuse_extension(code: int, _data: bytes) -> None:
    raise FieldError(f"extension type {code}")
