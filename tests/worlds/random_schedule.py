"""A partition's life at random: inputs over months, and workers, logs and views that fail at any
moment. All of it from a seed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from itertools import groupby
from random import Random
from typing import Any

from tests.worlds.hostile_view import HostileView
from tests.worlds.ledger_world import Worker, World, rebuild_of
from usageledger.audit.replay import PartitionReplay
from usageledger.counters.view import ViewError
from usageledger.domain.chain import SealedEntry
from usageledger.domain.encoding import encode
from usageledger.domain.identity import IDENTITY_LIFE, window_of
from usageledger.ledger.partition_book import group_key
from usageledger.ledger.records import KeyedValue, LedgerError, Record
from usageledger.ledger.timestamps import milliseconds
from usageledger.processor.catch_up import PartitionStopped
from usageledger.processor.inputs import Source
from usageledger.processor.rebuilding import Rebuilt

ACCOUNTS = ("a", "b", "c", "d")
WORKERS_MAX = 3
STEPS = 90


class RandomSchedule:
    """Sends, breaks and mends at random for a while; then lets one worker finish.

    ``check`` says what must then hold.
    """

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.random = Random(seed)
        self.at = world.now = datetime.fromisoformat("2025-01-31T10:00:00+00:00")
        self.view = HostileView()
        world.view = self.view
        self.workers: list[Worker] = []
        self.steps: list[str] = []
        self._used: list[tuple[str, str, datetime]] = []
        self._ids = iter(range(10**9))
        self._ends = {""}
        self._rebuilds: list[asyncio.Future[Rebuilt]] = []

    async def run(self) -> None:
        """Do it all, and come to rest."""
        some: list[tuple[Callable[[], Any], int]] = [
            (self.use, 30),
            (self.use_again, 10),
            (self.use_over_months, 3),
            (self.void, 6),
            (self.change_account, 10),
            (self.send_junk, 3),
            (self.let_time_pass, 12),
            (self.start_worker, 10),
            (self.kill_worker, 6),
            (self.freeze_or_thaw, 6),
            (self.claim_and_vanish, 4),
            (self.lose_answer, 5),
            (self.fail_view, 8),
            (self.fall_back, 5),
            (self.lose_view, 2),
            (self.rebuild_view, 3),
            (self.cut_rebuild_short, 1),
            (self.lose_entries, 1),
            (self.publish_catalog, 2),
            (self.go_live, 1),
        ]
        actions, weights = zip(*some, strict=True)
        for _ in range(STEPS):
            action = self.random.choices(actions, weights)[0]
            self.steps.append(action.__name__)
            result = action()
            if result is not None:
                await result
            for _ in range(self.random.choice((0, 0, 1, 3, 10, 40))):
                await asyncio.sleep(0)
            if self.random.random() < 0.15:
                await asyncio.sleep(self.random.choice((0.1, 1.0, 6.0)))
        await self.come_to_rest()

    async def come_to_rest(self) -> None:
        for worker in self.workers:
            worker.ledger.thaw()
            await worker.kill()
        await self.cut_rebuild_short()
        self.view.mend()
        self.world.start_worker()
        await self.world.settled()
        await asyncio.sleep(5)  # for what is due by the wall clock
        await self.world.settled()

    def use(self) -> None:
        account, event_id = self.random.choice(ACCOUNTS), f"gen_{next(self._ids)}"
        self._used.append((account, event_id, self.at))
        self._send_use(account, event_id, self.at)

    def use_again(self) -> None:
        """A retry, days or months later, with the same time or another, seldom with other
        content.
        """
        if self._used:
            account, event_id, occurred_at = self.random.choice(self._used[-40:])
            occurred_at = self.random.choice((occurred_at, occurred_at, self.at))
            self._send_use(account, event_id, occurred_at)

    def use_over_months(self) -> None:
        """A retry, and the same id again when it has expired: in an import that is behind, both lie
        in one chunk.
        """
        if self._used:
            account, event_id, occurred_at = self._used[-1]
            self._send_use(account, event_id, occurred_at)
            self.at += timedelta(days=self.random.choice((36, 40, 75)))
            self._used.append((account, event_id, self.at))
            self._send_use(account, event_id, self.at)

    def void(self) -> None:
        """Of a use that was sent, or of one that is yet to come."""
        account, event_id = self.random.choice(ACCOUNTS), f"gen_{next(self._ids)}"
        if self._used and self.random.random() < 0.7:
            account, event_id, _ = self.random.choice(self._used[-20:])
        else:
            self._used.append((account, event_id, self.at))
        self._send("usage.voided", account, id=event_id)

    def change_account(self) -> None:
        account = self.random.choice(ACCOUNTS)
        plan = self.random.choice(("pro", "max", "scale", "nonsense"))
        expires_at = (self.at + timedelta(days=self.random.choice((0.5, 3, 20, 50)))).isoformat()
        data: dict[str, Any]
        type_, data = self.random.choice(
            (
                (
                    "account.subscribed",
                    {
                        "plan": plan,
                        "time_zone": self.random.choice(("UTC", "Europe/Berlin", "Pacific/Apia")),
                    },
                ),
                ("account.subscribed", {"plan": plan}),
                ("account.plan_changed", {"plan": plan}),
                ("account.cancelled", {"effective": self.random.choice(("now", "period_end"))}),
                ("credits.granted", {"credits": "25", "expires_at": expires_at}),
                ("credits.granted", {"credits": "10"}),
                ("account.opened", {"plan": plan}),
            )
        )
        self._send(type_, account, None, **data)

    def send_junk(self) -> None:
        source = self.random.choice(list(Source))
        key, value = self.random.choice(
            ((b"a", b"junk"), (None, None), (b"a", b"{}"), (b"\xff", b"[]"), (b"a", None))
        )
        records = self.world.inputs[source]
        at_ms = self.random.choice((milliseconds(self.at), milliseconds(self.at), -1))
        records.append(
            Record(
                len(records),
                at_ms if self.world.is_importing else milliseconds(self.at),
                key,
                value,
            )
        )
        self._feed()

    def let_time_pass(self) -> None:
        self.at += timedelta(days=self.random.choice((0.01, 0.3, 1, 5, 20, 37, 75)))
        self.world.now = self.at

    def start_worker(self) -> None:
        self.workers = [worker for worker in self.workers if not worker.task.done()]
        if len(self.workers) < WORKERS_MAX:
            self.workers.append(self.world.start_worker())

    async def kill_worker(self) -> None:
        if self.workers:
            await self.workers.pop(self.random.randrange(len(self.workers))).kill()

    def freeze_or_thaw(self) -> None:
        if self.workers:
            ledger = self.random.choice(self.workers).ledger
            ledger.freeze() if self.random.random() < 0.5 else ledger.thaw()

    def claim_and_vanish(self) -> None:
        """A worker that claims and does nothing more: all that supersedes the others is its
        claim.
        """
        if self.world.ledger.records:
            self.world.ledger.append_as_another(
                KeyedValue(None, self.world.ledger.records[0].value or b"")
            )

    def lose_answer(self) -> None:
        if self.workers:
            self.random.choice(self.workers).ledger.lose_next_answer(
                appended=self.random.random() < 0.5
            )

    def fail_view(self) -> None:
        call = self.random.choice(
            ("head", "fetch", "commit", "commit", "verify", "due", "take_over")
        )
        self.view.fail_next(call, applied=self.random.random() < 0.5)

    def fall_back(self) -> None:
        """At once, or right before some call that comes next."""
        if not self.view.past:
            return
        snapshot = self.random.choice(self.view.past[-8:])
        call = self.random.choice(("now", "fetch", "commit", "verify", "due", "head"))
        if call == "now":
            self.view.restore(snapshot)
        else:
            self.view.before[call] = lambda: self.view.restore(snapshot)

    def lose_view(self) -> Any:
        return self.view.clear()

    def rebuild_view(self) -> None:
        """An operator's rebuild beside whoever is at work; it goes on with what one that was cut
        short has left, or does not.
        """
        work = rebuild_of(self.world).run(anew=self.random.random() < 0.2)
        self._rebuilds.append(asyncio.ensure_future(work))

    async def cut_rebuild_short(self) -> None:
        rebuilds, self._rebuilds = self._rebuilds, []
        for rebuild in rebuilds:
            rebuild.cancel()
        ended = await asyncio.gather(*rebuilds, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception) and not isinstance(
                error, (LedgerError, ViewError, PartitionStopped)
            ):
                raise error

    async def lose_entries(self) -> None:
        """An unclean election while nobody is at work: the log's last batches are gone, and
        whatever claims come next take their place.
        """
        await self.cut_rebuild_short()
        while self.workers:
            await self.workers.pop().kill()
        log = self.world.ledger
        self._keep_ends()
        end = max(1, log.end_offset - self.random.randrange(1, 6))
        split = next(
            (
                group
                for group in self._groups()
                if group[0].entry.offset < end <= group[-1].entry.offset
            ),
            None,
        )
        log.truncate_from(end if split is None else split[0].entry.offset)

    def publish_catalog(self) -> None:
        self.world.publish_catalog(version=f"version {next(self._ids)}")

    def go_live(self) -> None:
        self.world.is_importing = False

    def _send_use(self, account: str, event_id: str, occurred_at: datetime) -> None:
        quantity = "3" if self.random.random() < 0.05 else "1"
        model = (
            self.random.choice(("veo_3", "veo_3", "veo_3", "veo_2", "unheard_of"))
            if quantity == "1"
            else "veo_3"
        )
        # What is sent again is the same as before, but for the few with another quantity.
        model = model if event_id not in {used for _, used, _ in self._used[:-1]} else "veo_3"
        self._send(
            "usage.recorded",
            account,
            occurred_at,
            event_id=event_id,
            feature="genai_video",
            model=model,
            quantity=quantity,
        )

    def _send(
        self, type_: str, account: str, occurred_at: datetime | None = None, **data: Any
    ) -> None:
        if type_ == "usage.voided":
            data = {"source": "/test", **data}
        appended = self.at
        if self.world.is_importing and self.random.random() < 0.1:
            appended -= timedelta(days=self.random.choice((0.1, 3)))
        self.at += timedelta(seconds=self.random.choice((0, 0.001, 30)))
        self.world.now = self.at
        self.world.send(
            type_,
            (occurred_at or self.at).isoformat(),
            account,
            appended=appended.isoformat(),
            **data,
        )

    def _feed(self) -> None:
        for worker in self.workers:
            if worker.control.fed:
                worker.control.feed()

    async def check(self, replay: PartitionReplay) -> None:
        """What must hold at rest.

        ``replay`` has come through: every entry follows from the inputs, in order, without one left
        out.
        """
        assert replay.counts.inputs == len(self.world.sent_inputs()), "each input is decided once"
        self._check_identities()
        self._keep_ends()
        assert {position.hash for position in self.view.moved_to} <= self._ends, (
            "a view stands behind all entries of an input"
        )
        live = self.view.snapshot_for_rollback()
        self._check_view(replay)
        await self.world.stop()
        self.world.view = HostileView()
        self.world.start_worker()
        await self.world.settled()
        rebuilt = self.world.view.snapshot_for_rollback()
        assert rebuilt.accounts == live.accounts, "a rebuilt view is the live one"
        assert rebuilt.due_ms == live.due_ms, "a rebuilt view is the live one"
        assert _found(rebuilt.remembered) == _found(live.remembered), (
            "a rebuilt view is the live one"
        )

    def _groups(self) -> list[list[SealedEntry]]:
        return [list(group) for _, group in groupby(self.world.sealed(), key=group_key)]

    def _keep_ends(self) -> None:
        """Where a view may stand, of the log as it is."""
        self._ends.update(group[-1].hash for group in self._groups())

    def _check_identities(self) -> None:
        """No id is charged twice while it counts: told from the entries alone."""
        charged: dict[tuple[str, str], datetime] = {}
        for entry in self.world.entries():
            if entry.kind == "usage":
                assert entry.event is not None
                before = charged.get((entry.account, entry.event.id))
                assert before is None or entry.appended_at - before > IDENTITY_LIFE, (
                    f"{entry.event.id} was charged twice"
                )
                charged[entry.account, entry.event.id] = entry.appended_at

    def _check_view(self, replay: PartitionReplay) -> None:
        book, view = replay.book, self.view
        assert view.stored_accounts == {
            account: encode(state) for account, state in book.accounts.items() if state is not None
        }
        assert view.due_ms == {account: milliseconds(at) for account, at in book.due.all().items()}
        since = window_of(book.head.clock) - 1
        remembered = {
            identity: record for identity, record in book.identities.items() if record is not None
        }
        kept = {
            identity: encode(record)
            for identity, record in remembered.items()
            if window_of(record.first_appended_at) >= since
        }
        assert _found(view.identities) == kept


def _found(windows: Mapping[int, Mapping[bytes, bytes]]) -> dict[bytes, bytes]:
    """What a look-up finds: of an id that has come again after it expired, what is remembered
    last.
    """
    return {
        identity: found for window in sorted(windows) for identity, found in windows[window].items()
    }
