"""From a ledger partition's inputs to its entries.

Live processing, recovery and audit all decide here, so they cannot differ.

A `PartitionBook` holds what is known of a partition's accounts and identities; who uses it provides
what is missing before it decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple

from usageledger.domain.account import AccountState, due_at
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.chain import SealedEntry, seal
from usageledger.domain.decide import decide, decide_due
from usageledger.domain.entry import InputAddress, LedgerEntry, Topic, Voids
from usageledger.domain.events import AnyEvent, UsageRecorded, UsageVoided
from usageledger.domain.evolve import evolve
from usageledger.domain.head import Head, advance
from usageledger.domain.identity import IdentityRecord, identity_changes, identity_of, window_of
from usageledger.ledger.adoption import adopted_catalogs, adoption_entry
from usageledger.ledger.decoding import (
    DETAIL_LENGTH_MAX,
    Malformed,
    account_named_by,
    decode_account,
    decode_usage,
)
from usageledger.ledger.due_list import DueList
from usageledger.ledger.records import Record
from usageledger.ledger.timestamps import time_of

_CHANGE_NOTHING = ("refusal", "duplicate", "skip")


class Undecidable(Exception):
    """The code fails on an input that it should accept or refuse: an error of ours, which the input
    brings out. The book is as it was.

    ``input`` is None where it is not an input but an account that is due.
    """

    def __init__(self, what: str, error: Exception, input: InputAddress | None = None) -> None:
        super().__init__(f"{what}: {error!r}")
        self.input = input
        self.error = error


class NotDecoded(NamedTuple):
    """What the decoder failed with.

    Not the record's fault, as `Malformed` is, so it is no refusal.
    """

    error: Exception


class DecodedInput(NamedTuple):
    """A record and what its bytes say; ``appended_at`` is the ledger's time if it is decided next,
    in order.
    """

    topic: Topic
    offset: int
    appended_at: datetime
    event: AnyEvent | Malformed | NotDecoded


class Changes(NamedTuple):
    """Accounts, identities and due dates that decisions have changed, and the holds (account, id)
    that uses have settled.
    """

    accounts: dict[str, AccountState]
    identities: dict[bytes, IdentityRecord]
    due: dict[str, datetime | None]
    settled_holds: dict[tuple[str, str], None]


class PartitionBook:
    """One partition's decisions in progress: its head, and the accounts and identities that have
    been provided or decided.
    """

    def __init__(
        self, partition: int, partition_count: int, head: Head, catalogs: AdoptedCatalogs
    ) -> None:
        self.partition = partition
        self.partition_count = partition_count
        self.head = head
        self.catalogs = catalogs
        self.accounts: dict[str, AccountState | None] = {}
        self.identities: dict[bytes, IdentityRecord | None] = {}
        self.due = DueList()
        self._changed_accounts: dict[str, None] = {}
        self._changed_identities: dict[bytes, None] = {}
        self._settled_holds: dict[tuple[str, str], None] = {}

    def take_changes(self) -> Changes:
        """What was decided or folded since this was last asked: what a commit has to write."""
        changes = Changes(
            {
                account: state
                for account in self._changed_accounts
                if (state := self.accounts[account]) is not None
            },
            {
                identity: record
                for identity in self._changed_identities
                if (record := self.identities[identity]) is not None
            },
            self.due.take_changed(),
            self._settled_holds,
        )
        self._changed_accounts, self._changed_identities, self._settled_holds = {}, {}, {}
        return changes

    def decode(self, topic: Topic, records: Sequence[Record]) -> list[DecodedInput]:
        """Decode records of one input that are to be decided next, in order."""
        decode = decode_usage if topic == "usage" else decode_account
        clock = self.head.clock
        decoded: list[DecodedInput] = []
        for record in records:
            clock = max(clock, time_of(record.timestamp_ms))
            event: AnyEvent | Malformed | NotDecoded
            try:
                event = decode(record, self.partition, self.partition_count)
            except Exception as error:  # noqa: BLE001 - raised when it is this record's turn
                event = NotDecoded(error)
            decoded.append(DecodedInput(topic, record.offset, clock, event))
        return decoded

    def used_by(self, inputs: Iterable[DecodedInput]) -> tuple[list[str], list[tuple[int, bytes]]]:
        """The accounts, and the (newest window, identity) pairs, that have to be provided before
        these can be decided.

        Inputs can span months, and then one identity is asked about in several windows.
        """
        accounts: dict[str, None] = {}
        identities: dict[tuple[int, bytes], None] = {}
        for item in inputs:
            if isinstance(item.event, (Malformed, NotDecoded)):
                continue
            accounts[item.event.account] = None
            window = window_of(item.appended_at)
            for identity in identities_of(item.event):
                identities[window, identity] = None
        return list(accounts), list(identities)

    def decide_input(self, item: DecodedInput) -> list[SealedEntry]:
        """Decide one input, preceded by what its account's time has brought. Raises Undecidable."""
        try:
            return self._decided_input(item)
        except Exception as error:
            place = InputAddress(topic=item.topic, partition=self.partition, offset=item.offset)
            raise Undecidable(
                f"{item.topic} {self.partition}-{item.offset}", error, place
            ) from error

    def decide_due(self, account: str, at: datetime) -> list[SealedEntry]:
        """Write what time brings an account that is due at ``at``. Raises Undecidable."""
        try:
            return self._decided_due(account, at)
        except Exception as error:
            raise Undecidable(f"account {account!r}, due at {at.isoformat()}", error) from error

    def adopt(self, record: Record) -> list[SealedEntry]:
        """Decide a record of the catalog topic: from now on decisions see that version.

        It is dated with the ledger's time, which stays.

        Raises Undecidable.
        """
        try:
            return self._adopted(record)
        except Exception as error:
            place = InputAddress(topic="catalog", partition=0, offset=record.offset)
            raise Undecidable(f"catalog 0-{record.offset}", error, place) from error

    def skip(self, topic: Topic, record: Record, *, reason: str, detail: str) -> list[SealedEntry]:
        """Leave an input undecided for good, as an operator has said: it charges nothing, takes no
        identity and changes no account.

        Nothing of the event is asked, for it is what the code fails on: the account is the one that
        the record's key names.
        """
        entry = LedgerEntry(
            kind="skip",
            appended_at=max(self.head.clock, time_of(record.timestamp_ms)),
            account=account_named_by(record.key),
            input=InputAddress(topic=topic, partition=self.partition, offset=record.offset),
            reason=reason,
            detail=detail[:DETAIL_LENGTH_MAX],
        )
        return self._write([entry])

    def fold(self, entries: Iterable[SealedEntry]) -> None:
        """Apply entries that lie in the log, in order.

        What they read must have been provided: see `read_by`.

        ``catalogs`` are those that all of them were decided by. Raises Undecidable, and then the
        book is of no more use.
        """
        last_of_account: dict[str, LedgerEntry] = {}
        last_of_input: dict[Topic | None, SealedEntry] = {}
        try:
            for sealed in entries:
                entry = sealed.entry
                last_of_input[None if entry.input is None else entry.input.topic] = sealed
                self._note_hold(entry)
                if entry.account and entry.kind not in _CHANGE_NOTHING:
                    last_of_account[entry.account] = entry
                    self._remember(self._identities_after(entry))
                    self.accounts[entry.account] = evolve(self.accounts.get(entry.account), entry)
            for entry in last_of_account.values():
                self._note_state(entry, self.accounts[entry.account])
        except Exception as error:
            raise Undecidable(f"ledger entry {self.partition}-{entry.offset}", error) from error
        # A head keeps of each input where its last entry got to, and of the ledger the very last.
        for sealed in sorted(last_of_input.values(), key=lambda sealed: sealed.entry.offset):
            self.head = advance(self.head, sealed.entry, sealed.hash)

    def _decided_input(self, item: DecodedInput) -> list[SealedEntry]:
        address = InputAddress(topic=item.topic, partition=self.partition, offset=item.offset)
        event = item.event
        if isinstance(event, NotDecoded):
            raise event.error
        if isinstance(event, Malformed):
            refusal = LedgerEntry(
                kind="refusal",
                appended_at=item.appended_at,
                account=event.account,
                input=address,
                reason=event.refusal.value,
                detail=event.detail,
            )
            return self._write([refusal])
        identities = [self.identities.get(identity) for identity in identities_of(event)]
        decision = decide(
            event,
            state=self.accounts.get(event.account),
            identity=identities[0],
            voided=identities[1] if len(identities) > 1 else None,
            appended_at=item.appended_at,
            catalogs=self.catalogs,
        )
        return self._write(decision.entries, address, decision.state)

    def _decided_due(self, account: str, at: datetime) -> list[SealedEntry]:
        state = self.accounts[account]
        if state is None:
            self.due.set(account, None)
            return []
        decision = decide_due(
            account, state, appended_at=max(self.head.clock, at), catalogs=self.catalogs
        )
        sealed = self._write(decision.entries, None, decision.state)
        if not sealed:
            self.due.set(account, self._due_at(state, self.head.clock))
        return sealed

    def _adopted(self, record: Record) -> list[SealedEntry]:
        entry = LedgerEntry(
            kind="catalog_adopted",
            appended_at=self.head.clock,
            input=InputAddress(topic="catalog", partition=0, offset=record.offset),
        )
        catalogs = adopted_catalogs([record], self.catalogs)
        sealed = self._write([adoption_entry(entry, record, self.catalogs)])
        self.catalogs = catalogs
        return sealed

    def _write(
        self,
        drafts: Sequence[LedgerEntry],
        address: InputAddress | None = None,
        state: AccountState | None = None,
    ) -> list[SealedEntry]:
        """Seal drafts.

        ``state`` is the account's after the last of them: the fold of them, as `decide` has made it
        already.
        """
        sealed, head = seal(drafts, self.head, self.partition, address)
        changing = [
            item.entry
            for item in sealed
            if item.entry.account and item.entry.kind not in _CHANGE_NOTHING
        ]
        identities = [change for entry in changing for change in self._identities_after(entry)]
        # Whatever can fail has not: what is decided of an input is kept whole, or nothing of it is.
        if changing:
            self._note_state(changing[-1], state)
        self._remember(identities)
        for item in sealed:
            self._note_hold(item.entry)
        self.head = head
        return sealed

    def _identities_after(self, entry: LedgerEntry) -> list[tuple[bytes, IdentityRecord]]:
        voided = (
            None
            if entry.voids is None
            else self.identities.get(_voided_by(entry.account, entry.voids))
        )
        return identity_changes(entry, voided)

    def _remember(self, identities: Sequence[tuple[bytes, IdentityRecord]]) -> None:
        for identity, record in identities:
            self.identities[identity] = record
            self._changed_identities[identity] = None

    def _note_hold(self, entry: LedgerEntry) -> None:
        """A use settles the hold that it names, and so does a duplicate: a retry may have a hold of
        its own. A refusal does not.
        """
        if entry.hold_id is not None and entry.kind != "refusal":
            self._settled_holds[entry.account, entry.hold_id] = None

    def _note_state(self, entry: LedgerEntry, state: AccountState | None) -> None:
        due = None if state is None else self._due_at(state, entry.appended_at)
        self.accounts[entry.account] = state
        self._changed_accounts[entry.account] = None
        if state is not None:
            self.due.set(entry.account, due)

    def _due_at(self, state: AccountState, at: datetime) -> datetime | None:
        return due_at(state, free_plan=self.catalogs.in_force(at).free.id)


def asked_for_by(sealed: SealedEntry) -> object:
    """What entries that were decided together have in common.

    Entries of one input lie side by side in the ledger; and each time that a due account was acted
    on, entries of one account and one moment were written.
    """
    entry = sealed.entry
    return entry.input if entry.input is not None else (entry.account, entry.appended_at)


def identities_of(event: AnyEvent) -> list[bytes]:
    """The event's own identity, and after it that of the usage which a void names."""
    if isinstance(event, UsageRecorded):
        return [identity_of("usage", event.account, event.source, event.id)]
    own = identity_of("account", event.account, event.source, event.id)
    if isinstance(event, UsageVoided):
        return [own, identity_of("usage", event.account, event.usage_source, event.usage_id)]
    return [own]


def read_by(entries: Iterable[SealedEntry]) -> tuple[list[str], list[tuple[int, bytes]]]:
    """The accounts, and the (newest window, identity) pairs, that have to be provided before these
    can be folded.

    Of identities that is the usage that a void names; an event's own is written whatever was known
    of it.
    """
    accounts: dict[str, None] = {}
    identities: dict[tuple[int, bytes], None] = {}
    for sealed in entries:
        entry = sealed.entry
        if entry.account:
            accounts[entry.account] = None
        if entry.voids is not None:
            identities[window_of(entry.appended_at), _voided_by(entry.account, entry.voids)] = None
    return list(accounts), list(identities)


def _voided_by(account: str, voids: Voids) -> bytes:
    return identity_of("usage", account, voids.source, voids.id)
