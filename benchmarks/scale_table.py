"""What a million and a hundred million nodes would take, computed from what was measured and from list prices.

``python -m benchmarks.scale_table [--write docs/explanation/scale.md]``.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["BEGIN", "END", "FLEETS", "Fleet", "Measured", "Prices", "main", "table", "write_table"]

BEGIN, END = "<!-- scale: begin -->\n", "<!-- scale: end -->\n"
FLEETS: Final = (10_000, 1_000_000, 100_000_000)
DAY_S: Final = 86_400.0
MONTH_DAYS: Final = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One update of one node, as it was measured here (two shared cores, Mosquitto 2.0.11).

    Attributes:
        coordinator_s: CPU of the coordinator, in seconds: `benchmarks.load`, 700 to 800 updates a second.
        delivery_s: CPU of the broker for one delivery, in seconds: 19 to 37 microseconds.
        deliveries: What an update takes at the broker besides its own offer: `benchmarks.load`.
        handshake_s: CPU of the broker for a connection with mutual TLS (without: 0.1 ms), in seconds.
        ping_s: CPU of the broker for a ping over TLS, in seconds.
        connection_bytes: Memory of the broker for a standing session (3.8 KB) with TLS (24 KB).
        update_bytes: An update of 101,770 parameters with ``edge``.
        model_bytes: The mean of many coded again, which is what a version costs each node with such a downlink.
        words_bytes: Invitation, receipts, birth and topics.
        ping_bytes: A ping and its answer, with TCP, IP and TLS.
        keepalive_s: Between two pings, in seconds.
        row_bytes: Of an update that is compacted (3, `benchmarks.commands`), with the row of a round of its own (16).
        messages: Of a check-in, as a hosted broker counts them: CONNECT, SUBSCRIBEs, publishes and acknowledgements of
            the device.
        minutes: That a check-in lasts.
    """

    coordinator_s: float = 1 / 750
    delivery_s: float = 28e-6
    deliveries: float = 5.0
    handshake_s: float = 2.4e-3
    ping_s: float = 18e-6
    connection_bytes: float = 28_000.0
    update_bytes: float = 4_400.0
    model_bytes: float = 4_400.0
    words_bytes: float = 900.0
    ping_bytes: float = 170.0
    keepalive_s: float = 45.0
    row_bytes: float = 19.0
    messages: float = 16.0
    minutes: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """List prices in US dollars, of AWS IoT Core and EC2 in us-east-1, without free tiers: look them up again.

    Attributes:
        minutes_million: A million minutes of connection.
        messages_million: A million messages of at most 5 KB: the first 10^9 of a month, the next 4 * 10^9, the rest.
        core_month: A core of a virtual machine for a month.
        memory_gb_month: A gigabyte of its memory for a month.
        traffic_gb: A gigabyte that leaves the data centre.
    """

    minutes_million: float = 0.08
    messages_million: tuple[float, float, float] = (1.00, 0.80, 0.70)
    core_month: float = 25.0
    memory_gb_month: float = 4.0
    traffic_gb: float = 0.09

    def of_messages(self, count: float) -> float:
        """What so many messages of a month cost."""
        million, left = 0.0, count / 1e6
        for price, most in zip(self.messages_million, (1e3, 4e3, float("inf")), strict=True):
            million += price * min(left, most)
            left = max(0.0, left - most)
        return million


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """A fleet of which each node makes one update a day."""

    nodes: int
    measured: Measured = Measured()
    prices: Prices = Prices()

    @property
    def connected(self) -> float:
        """Connections at once where nodes check in, spread over the day."""
        return self.nodes * self.measured.minutes * 60.0 / DAY_S

    @property
    def updates_s(self) -> float:
        """Updates each second."""
        return self.nodes / DAY_S

    @property
    def coordinator_cores(self) -> float:
        """Cores that the coordinator keeps busy."""
        return self.updates_s * self.measured.coordinator_s

    @property
    def pings_s(self) -> float:
        """Pings each second of a fleet that stands connected."""
        return self.nodes / self.measured.keepalive_s

    def broker_cores(self, *, standing: bool) -> float:
        """Cores that the broker keeps busy."""
        one = self.measured
        work = self.updates_s * (one.deliveries + 2.0) * one.delivery_s
        return work + (self.pings_s * one.ping_s if standing else self.updates_s * one.handshake_s)

    def broker_bytes(self, *, standing: bool) -> float:
        """Memory of the broker for connections."""
        return self.measured.connection_bytes * (self.nodes if standing else self.connected)

    @property
    def up_day(self) -> float:
        """Bytes to the broker in a day, without pings."""
        return self.nodes * (self.measured.update_bytes + self.measured.words_bytes / 2)

    @property
    def down_day(self) -> float:
        """Bytes from the broker in a day, without pings."""
        return self.nodes * (self.measured.model_bytes + self.measured.words_bytes / 2)

    @property
    def pings_day(self) -> float:
        """Bytes of pings in a day where all stand connected."""
        return self.pings_s * DAY_S * self.measured.ping_bytes

    @property
    def rows_year(self) -> float:
        """Bytes that the store grows in a year."""
        return self.nodes * 365.0 * self.measured.row_bytes

    def hosted_month(self, *, standing: bool) -> float:
        """A month at a broker that is paid by connection and message, in dollars."""
        minutes = self.nodes * MONTH_DAYS * (1_440.0 if standing else self.measured.minutes)
        per_update = self.measured.deliveries * 2.0 + 2.0 if standing else self.measured.messages
        connections = minutes / 1e6 * self.prices.minutes_million
        return connections + self.prices.of_messages(self.nodes * MONTH_DAYS * per_update)

    def own_month(self, *, standing: bool) -> float:
        """A month at machines of one's own: cores at half load, memory, and what leaves, in dollars."""
        cores = 2.0 * (self.coordinator_cores + self.broker_cores(standing=standing))
        leaves = (self.down_day + (self.pings_day / 2 if standing else 0.0)) * MONTH_DAYS
        memory = 2.0 * self.broker_bytes(standing=standing)
        prices = self.prices
        machines = max(1.0, cores) * prices.core_month + memory / 1e9 * prices.memory_gb_month
        return machines + leaves / 1e9 * prices.traffic_gb


def table(fleets: tuple[int, ...] = FLEETS) -> str:
    """The table in Markdown."""
    all_of_them = [Fleet(nodes=nodes) for nodes in fleets]
    rows: list[tuple[str, list[str]]] = [
        ("connections at once, standing", [_count(one.nodes) for one in all_of_them]),
        ("connections at once, checking in", [_count(one.connected) for one in all_of_them]),
        ("pings a second, standing", [_count(one.pings_s) for one in all_of_them]),
        ("updates a second", [_count(one.updates_s) for one in all_of_them]),
        ("coordinator, cores", [_number(one.coordinator_cores) for one in all_of_them]),
        ("broker, cores: standing / checking in", [_both(one) for one in all_of_them]),
        ("broker, memory of connections: standing / checking in", [_memory(one) for one in all_of_them]),
        ("up and down a day, without pings", [f"{_bytes(one.up_day)}, {_bytes(one.down_day)}" for one in all_of_them]),
        ("pings a day, standing", [_bytes(one.pings_day) for one in all_of_them]),
        ("store grows in a year", [_bytes(one.rows_year) for one in all_of_them]),
        ("hosted broker, $ a month: standing", [_money(one.hosted_month(standing=True)) for one in all_of_them]),
        ("hosted broker, $ a month: checking in", [_money(one.hosted_month(standing=False)) for one in all_of_them]),
        ("of these for connections alone: standing / checking in", [_connections(one) for one in all_of_them]),
        ("own machines, $ a month: standing", [_money(one.own_month(standing=True)) for one in all_of_them]),
        ("own machines, $ a month: checking in", [_money(one.own_month(standing=False)) for one in all_of_them]),
    ]
    head = "| one update a node and day | " + " | ".join(f"{_count(nodes)} nodes" for nodes in fleets) + " |\n"
    rule = "|---|" + "---:|" * len(fleets) + "\n"
    return head + rule + "".join(f"| {what} | {' | '.join(cells)} |\n" for what, cells in rows)


def _both(fleet: Fleet) -> str:
    return f"{_number(fleet.broker_cores(standing=True))} / {_number(fleet.broker_cores(standing=False))}"


def _memory(fleet: Fleet) -> str:
    return f"{_bytes(fleet.broker_bytes(standing=True))} / {_bytes(fleet.broker_bytes(standing=False))}"


def _connections(fleet: Fleet) -> str:
    price = fleet.prices.minutes_million * fleet.nodes * MONTH_DAYS / 1e6
    return f"{_money(price * 1_440.0)} / {_money(price * fleet.measured.minutes)}"


def _count(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.1f}"


def _number(number: float) -> str:
    return f"{number:,.0f}" if number >= 10 else f"{number:.2g}"


def _money(dollars: float) -> str:
    return f"{dollars:,.0f}" if dollars >= 1 else f"{dollars:.2f}"


def _bytes(count: float) -> str:
    for unit in ("B", "KB", "MB", "GB", "TB"):
        if count < 1_000:
            return f"{count:.3g} {unit}"
        count /= 1_000
    return f"{count:.3g} PB"


def write_table(page: Path, text: str) -> None:
    """Put the table in place of the one before.

    Raises:
        ValueError: The page has no place for it.
    """
    found = page.read_text(encoding="utf-8")
    before, begin, rest = found.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} has no {BEGIN.strip()} and {END.strip()}")
    page.write_text(before + BEGIN + text + END + after, encoding="utf-8")


def main() -> int:
    """Print the table, or write it into its page."""
    parser = argparse.ArgumentParser(prog="benchmarks.scale_table", description=__doc__.splitlines()[0])
    parser.add_argument("--write", type=Path, help="the page whose table is replaced")
    given = parser.parse_args()
    if given.write is None:
        sys.stdout.write(table())
    else:
        write_table(given.write, table())
    return 0


if __name__ == "__main__":
    sys.exit(main())
