"""The errors of the contract.

FederationError
├── ConfigError               a setting is wrong: names the key and where it came from
├── LocalProtocolError        our own bug: crashes loudly
├── RemoteProtocolError       their bytes: counted, logged once, dropped
│   ├── MalformedMessage      not a message of this protocol
│   ├── IncompatibleVersion   a peer of another major protocol version
│   ├── MalformedTopic        a topic outside this federation's tree
│   └── BadSignature          not signed by the one who may speak there
├── TransportError            the network shell cannot do what was asked
│   └── PayloadTooLarge       larger than the broker's Maximum Packet Size
├── StorageError              a store cannot persist: nothing may be acknowledged
│   ├── StoreLocked           another process owns this state folder
│   └── DamagedStore          what was stored is gone, or is not what was stored
└── TaskError                 the user's task broke its contract
"""


class FederationError(Exception):
    """Root of every error that this project raises on purpose."""


class ConfigError(FederationError):
    """A setting is wrong.

    Attributes:
        key: Dotted name of the setting, such as ``round.buffer``.
        source: Where the value came from: a file, an environment variable or a flag.
    """

    def __init__(self, key: str, problem: str, *, source: str = "configuration") -> None:
        super().__init__(f"{key}: {problem} (from {source})")
        self.key = key
        self.source = source


class LocalProtocolError(FederationError):
    """Our own code asked for something that the protocol forbids."""


class RemoteProtocolError(FederationError):
    """A peer sent something that the protocol forbids."""


class MalformedMessage(RemoteProtocolError):  # noqa: N818 - the name says what it is
    """The bytes are not a message of this protocol."""


class IncompatibleVersion(RemoteProtocolError):  # noqa: N818 - the name says what it is
    """The peer speaks another major version of the protocol."""


class MalformedTopic(RemoteProtocolError):  # noqa: N818 - the name says what it is
    """The topic is outside this federation's tree."""


class BadSignature(RemoteProtocolError):  # noqa: N818 - the name says what it is
    """The message is not signed by the one who may speak on its topic."""


class TransportError(FederationError):
    """The network shell cannot do what was asked."""


class PayloadTooLarge(TransportError):  # noqa: N818 - the name says what it is
    """The packet would be larger than the broker's Maximum Packet Size."""


class StorageError(FederationError):
    """The store cannot persist: nothing that depends on it may be acknowledged."""


class StoreLocked(StorageError):  # noqa: N818 - the name says what it is
    """Another process owns this state folder."""


class DamagedStore(StorageError):  # noqa: N818 - the name says what it is
    """What was stored is not there any more, or is not what was stored: trying again does not help."""


class TaskError(FederationError):
    """The user's task broke its contract."""
