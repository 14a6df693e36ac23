"""From a ledger partition's inputs to its entries.

Live processing, recovery and audit all decide here, so they cannot differ.

A `PartitionBook` holds what is known of a partition's accounts and identities. Its caller provides
whatever is missing before it decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import NamedTuple, assert_never

from usageledger.domain.account import AccountState, due_at
from usageledger.domain.adopted_catalogs import AdoptedCatalogs
from usageledger.domain.chain import SealedEntry, seal
from usageledger.domain.decide import decide, decide_due
from usageledger.domain.entry import InputAddress, InputRun, LedgerEntry, Topic, Voids
from usageledger.domain.events import (
    AccountCancelled,
    AccountOpened,
    AccountResumed,
    AccountSubscribed,
    AccountSuspended,
    AnyEvent,
    CreditsGranted,
    PlanChanged,
    ThresholdsSet,
    UsageRecorded,
    UsageVoided,
)
from usageledger.domain.evolve import evolve
from usageledger.domain.head import Head, advance
from usageledger.domain.identity import IdentityRecord, identity_changes, identity_of, window_of
from usageledger.ledger.adoption import adopted_catalogs, adoption_entry
from usageledger.ledger.decoded_input import DecodedInput, NotDecoded, with_runs_merged
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


class Undecidable(Exception):
    """Our code raised on something that it must decide: that is a bug, not a refusal.

    The book is as it was before. ``input`` is the address of the input; it is None for an account
    that is due and for an entry that is folded.
    """

    def __init__(self, what: str, error: Exception, address: InputAddress | None = None) -> None:
        super().__init__(f"{what}: {error!r}")
        self.input = address
        self.error = error


class Changes(NamedTuple):
    """The accounts, identities and due dates that changed, and the holds that were settled.

    ``settled_holds`` is a set in order; its members are (account, hold id, source of the use).
    """

    accounts: dict[str, AccountState]
    identities: dict[bytes, IdentityRecord]
    due: dict[str, datetime | None]
    settled_holds: dict[tuple[str, str, str], None]


class PartitionBook:
    """One partition's decisions in progress.

    It has the partition's head, and the accounts and identities that were provided or decided.
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
        self._settled_holds: dict[tuple[str, str, str], None] = {}

    def take_changes(self) -> Changes:
        """Return what changed since the last call, which is what a commit has to write."""
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
        """Decode records of one input that are to be decided next, in order.

        Long runs of malformed records become one input each: see `decoded_input`.
        """
        return with_runs_merged(self.decode_each(topic, records))

    def decode_each(self, topic: Topic, records: Sequence[Record]) -> list[DecodedInput]:
        """Decode records of one input that are to be decided next, each by itself."""
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

    def needed_to_decide(
        self, inputs: Iterable[DecodedInput]
    ) -> tuple[list[str], list[tuple[int, bytes]]]:
        """The accounts and identities that must be provided before these inputs can be decided.

        Each identity comes with the newest window that it can be in. Inputs can span months; then
        an identity is needed in several windows. Inputs that are no events need nothing.
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
        """Decide one input, after the renewals and expiries that are due for its account.

        Raises Undecidable.
        """
        address = InputAddress(topic=item.topic, partition=self.partition, offset=item.offset)
        with _undecidable_if_it_fails(address):
            return self._decide_event(item.event, item.appended_at, address)

    def decide_due(self, account: str, at: datetime) -> list[SealedEntry]:
        """Write the renewals and expiries of an account that is due at ``at``.

        Raises Undecidable.
        """
        with _undecidable_if_it_fails(f"account {account!r}, due at {at.isoformat()}"):
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

    def adopt(self, record: Record) -> list[SealedEntry]:
        """Decide a record of the catalog topic: later decisions see that version.

        The entry is dated with the ledger's time, which does not advance. Raises Undecidable.
        """
        address = InputAddress(topic="catalog", partition=0, offset=record.offset)
        with _undecidable_if_it_fails(address):
            draft = LedgerEntry(kind="catalog_adopted", appended_at=self.head.clock, input=address)
            catalogs = adopted_catalogs([record], self.catalogs)
            sealed = self._write([adoption_entry(draft, record, self.catalogs)])
            self.catalogs = catalogs
            return sealed

    def skip(self, topic: Topic, record: Record, *, reason: str, detail: str) -> list[SealedEntry]:
        """Leave an input undecided for good, because an operator said so.

        The entry charges nothing, registers no identity and changes no account. The event is not
        read, because our code raises on it: the account is the one that the record's key names.
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

    def skip_unreadable(
        self, topic: Topic, offsets: range, *, reason: str, detail: str
    ) -> list[SealedEntry]:
        """Leave a batch that cannot be read undecided for good, because an operator said so.

        Neither its accounts nor its times are known. So the entry is dated with the ledger's time,
        which does not advance.
        """
        entry = LedgerEntry(
            kind="skip",
            appended_at=self.head.clock,
            input=InputAddress(topic=topic, partition=self.partition, offset=offsets[-1]),
            reason=reason,
            detail=detail[:DETAIL_LENGTH_MAX],
            run=InputRun(first_offset=offsets[0], records=len(offsets), reasons={}),
        )
        return self._write([entry])

    def fold(self, entries: Iterable[SealedEntry]) -> None:
        """Apply entries from the log, in order.

        ``catalogs`` must be the ones that all of these entries were decided by, and whatever
        `needed_to_fold` names must have been provided. Raises Undecidable; the book is then of no
        more use.
        """
        last_of_account: dict[str, LedgerEntry] = {}
        last_of_input: dict[Topic | None, SealedEntry] = {}
        try:
            for sealed in entries:
                entry = sealed.entry
                last_of_input[None if entry.input is None else entry.input.topic] = sealed
                self._note_hold(entry)
                if entry.changes_its_account:
                    last_of_account[entry.account] = entry
                    self._remember(self._identities_after(entry))
                    self.accounts[entry.account] = evolve(self.accounts.get(entry.account), entry)
            for entry in last_of_account.values():
                self._note_state(entry, self.accounts[entry.account])
        except Exception as error:
            raise Undecidable(f"ledger entry {self.partition}-{entry.offset}", error) from error
        # The head keeps each input's next offset, and the hash and clock of the last entry of all.
        for sealed in sorted(last_of_input.values(), key=lambda sealed: sealed.entry.offset):
            self.head = advance(self.head, sealed.entry, sealed.hash)

    def _decide_event(
        self, event: AnyEvent | Malformed | NotDecoded, appended_at: datetime, address: InputAddress
    ) -> list[SealedEntry]:
        if isinstance(event, NotDecoded):
            raise event.error
        if isinstance(event, Malformed):
            refusal = LedgerEntry(
                kind="refusal",
                appended_at=appended_at,
                account=event.account,
                input=address,
                reason=event.refusal.value,
                detail=event.detail,
                run=event.run,
            )
            return self._write([refusal])
        identities = [self.identities.get(identity) for identity in identities_of(event)]
        decision = decide(
            event,
            state=self.accounts.get(event.account),
            identity=identities[0],
            voided=identities[1] if len(identities) > 1 else None,
            appended_at=appended_at,
            catalogs=self.catalogs,
        )
        return self._write(decision.entries, address, decision.state)

    def _write(
        self,
        drafts: Sequence[LedgerEntry],
        address: InputAddress | None = None,
        state: AccountState | None = None,
    ) -> list[SealedEntry]:
        """Seal drafts, and remember what they change.

        ``state`` is the account's after the last of them: `decide` has folded them already.
        """
        sealed, head = seal(drafts, self.head, self.partition, address)
        changing = [item.entry for item in sealed if item.entry.changes_its_account]
        identities = [change for entry in changing for change in self._identities_after(entry)]
        # Everything that can fail is above this line, so a decision is kept whole or not at all.
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
        """Note that an entry settles the hold that it names.

        A duplicate settles one too, because a retry may have a hold of its own. A refusal does not.
        """
        hold_id, event = entry.hold_id, entry.event
        if hold_id is not None and event is not None and entry.kind != "refusal":
            self._settled_holds[entry.account, hold_id, event.source] = None

    def _note_state(self, entry: LedgerEntry, state: AccountState | None) -> None:
        due = None if state is None else self._due_at(state, entry.appended_at)
        self.accounts[entry.account] = state
        self._changed_accounts[entry.account] = None
        if state is not None:
            self.due.set(entry.account, due)

    def _due_at(self, state: AccountState, at: datetime) -> datetime | None:
        return due_at(state, free_plan=self.catalogs.in_force(at).free.id)


def group_key(sealed: SealedEntry) -> object:
    """A key that entries decided together share, and that neighbours decided apart do not.

    The entries of one input are next to each other in the ledger. So are those that were written
    because an account was due: they share its id and one moment.
    """
    entry = sealed.entry
    return entry.input if entry.input is not None else (entry.account, entry.appended_at)


def identities_of(event: AnyEvent) -> list[bytes]:
    """The event's own identity, followed by that of the usage event if it is a void."""
    match event:
        case UsageRecorded():
            return [identity_of("usage", event.account, event.source, event.id)]
        case UsageVoided():
            return [
                identity_of("account", event.account, event.source, event.id),
                identity_of("usage", event.account, event.usage_source, event.usage_id),
            ]
        case (
            AccountOpened()
            | AccountSubscribed()
            | PlanChanged()
            | AccountCancelled()
            | AccountSuspended()
            | AccountResumed()
            | ThresholdsSet()
            | CreditsGranted()
        ):
            return [identity_of("account", event.account, event.source, event.id)]
        case _:
            assert_never(event)


def needed_to_fold(entries: Iterable[SealedEntry]) -> tuple[list[str], list[tuple[int, bytes]]]:
    """The accounts and identities that must be provided before these entries can be folded.

    Each identity comes with the newest window that it can be in. The only identities needed are
    those of usage events that a void names; an event's own is written whatever was known of it.
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


@contextmanager
def _undecidable_if_it_fails(subject: InputAddress | str) -> Iterator[None]:
    """Raise Undecidable, naming ``subject``, in place of any exception that the block raises."""
    try:
        yield
    except Exception as error:
        if isinstance(subject, str):
            raise Undecidable(subject, error) from error
        name = f"{subject.topic} {subject.partition}-{subject.offset}"
        raise Undecidable(name, error, subject) from error
