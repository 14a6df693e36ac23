"""One run: start, break, mend, wait until quiet, prove, report."""

from __future__ import annotations

import shutil
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.chaos.faults import Lanes, Record, Suffered, do
from tests.chaos.probe import Followed, Probe
from tests.chaos.proof import (
    Finding,
    Log,
    a_grown_topic_is_noticed,
    missing_ids,
    no_finished_generation_keeps_its_hold,
    prove,
    read_log,
)
from tests.chaos.report import write_report
from tests.chaos.schedule import KINDS, MEAN_GAP_S, one_of_each, schedule
from tests.chaos.stage import PREFIX, Stage, StoreKind
from usageledger.operations.idleness import wait_until_idle
from usageledger.operations.lags import LedgerLags, lag_reader
from usageledger.operations.waiting import is_true_within

RATE = 60.0
FLOWING_TIMEOUT_S = 240.0
WARM_UP_S = 5.0
FINISH_TIMEOUT_S = 150.0
IDLE_TIMEOUT_S = 180.0
REACHED_TIMEOUT_S = 90.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The options of a run."""

    faults: int
    seed: int
    store: StoreKind
    rate: float = RATE
    alone: bool = False
    report: Path | None = None
    directory: Path | None = None

    @property
    def command(self) -> str:
        """The command that repeats this run's schedule."""
        more = ("" if self.rate == RATE else f" --rate {self.rate:g}") + (
            " --alone" if self.alone else " --no-alone"
        )
        return (
            f"make chaos FAULTS={self.faults} SEED={self.seed} STORE={self.store} "
            f"ARGS='{more.strip()}'"
        )


@dataclass(slots=True)
class Outcome:
    """The result of a run."""

    options: Options
    began: float = 0.0
    broke_from: float = 0.0
    broke_until: float = 0.0
    suffered: list[Suffered] = field(default_factory=list)
    alone: list[tuple[Suffered, float]] = field(default_factory=list)
    """Faults that were injected alone, with the slowest event's time because of each, in seconds.
    """
    followed: list[Followed] = field(default_factory=list)
    ended: dict[str, list[int]] = field(default_factory=dict)
    log: Log = field(default_factory=Log)
    findings: list[Finding] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def is_proved(self) -> bool:
        """Whether everything was checked and nothing is wrong."""
        return (
            bool(self.findings)
            and not self.problems
            and not any(finding.wrong for finding in self.findings)
        )


def store_of(seed: int) -> StoreKind:
    """The store that a seed selects, if the options name none."""
    return "cluster" if seed % 2 else "sentinel"


def run(options: Options) -> Outcome:
    """Do a whole run. Print its progress, and the verdict at the end.

    The logs are kept if something is wrong.
    """
    directory = options.directory or Path(tempfile.mkdtemp(prefix="usageledger-chaos-"))
    outcome = Outcome(options, began=time.time())
    print(
        f"chaos: {options.faults} faults, seed {options.seed}, store: {options.store}; "
        f"repeat with: {options.command}",
        flush=True,
    )
    stage = Stage(directory, seed=options.seed, store=options.store, rate=options.rate)
    try:
        _break_and_prove(stage, options, outcome)
    except BaseException as error:
        outcome.problems.append(f"the run did not reach its end: {error!r}")
        raise
    finally:
        stage.stop()
        print(verdict(outcome), flush=True)
        if options.report is not None:
            print(f"the report: {write_report(outcome, options.report)}", flush=True)
        if outcome.is_proved and options.directory is None:
            shutil.rmtree(directory, ignore_errors=True)
        else:
            print(f"data and logs: {directory}", flush=True)
    return outcome


def _break_and_prove(stage: Stage, options: Options, outcome: Outcome) -> None:
    def say(what: str) -> None:
        print(f"{time.time() - outcome.began:8.1f} s  {what}", flush=True)

    stage.start(say)
    probe = Probe(stage, stage.directory / "probe-spool")
    probe.start()
    try:
        if not probe.wait_flowing(time.time(), FLOWING_TIMEOUT_S):
            raise TimeoutError("events did not begin to flow")
        time.sleep(WARM_UP_S)
        outcome.broke_from = time.time()
        record = Record(say, outcome.suffered)
        if options.alone:
            _one_by_one(stage, options, probe, record, outcome)
        say("faults begin, all lanes at once")
        Lanes(stage, record, schedule(options.seed, options.faults)).run(
            60.0 + 6 * MEAN_GAP_S * options.faults
        )
        outcome.broke_until = time.time()
        say("mending everything")
        stage.mend()
        if not probe.wait_flowing(time.time(), FLOWING_TIMEOUT_S):
            outcome.problems.append(
                f"events did not flow again within {FLOWING_TIMEOUT_S:.0f} s after everything was "
                "mended"
            )
        say("events flow; ending the load")
        _wind_down(stage, probe, outcome)
    finally:
        probe.close()
        outcome.followed = probe.followed()
        outcome.ended = {actor.name: actor.ended for actor in stage.actors if actor.ended}
    say("proving")
    outcome.findings = [
        *prove(stage, outcome.log),
        *outcome.findings,
        a_grown_topic_is_noticed(stage),
    ]
    if any(use.in_ledger is None for use in outcome.followed):
        outcome.problems.append(
            f"{sum(use.in_ledger is None for use in outcome.followed)} uses of the canaries did "
            "not reach the ledger"
        )


def _one_by_one(
    stage: Stage, options: Options, probe: Probe, record: Record, outcome: Outcome
) -> None:
    """Inject each kind of fault alone, and wait after each until events flow as before."""
    for planned in one_of_each(options.seed):
        began = time.time()
        do(stage, planned, record)
        if not probe.wait_flowing(time.time(), FLOWING_TIMEOUT_S):
            outcome.problems.append(
                f"events did not flow again within {FLOWING_TIMEOUT_S:.0f} s after: {planned.kind}"
            )
        time.sleep(1.0)
        slowest = max(
            (_delay(use) for use in probe.followed() if began <= use.sent <= time.time() - 1.0),
            default=0.0,
        )
        outcome.alone.append((record.suffered[-1], slowest))
        record.say(f"    alone: the slowest event took {slowest:.1f} s")


def _delay(use: Followed) -> float:
    return (use.in_ledger or time.time()) - use.sent


def _wind_down(stage: Stage, probe: Probe, outcome: Outcome) -> None:
    """End the load, wait until everything is decided and announced, and read the log."""
    owing = stage.of_role("worker", "http_worker", "billing")
    stage.end([*owing, *stage.of_role("stranger")])
    outcome.problems += stage.finish(owing, FINISH_TIMEOUT_S)
    if not probe.end(30.0):
        outcome.problems.append("the canaries' uses could not all be sent")
    _wait_idle(stage, outcome)
    # Accounts fall due all the time, so the ledger grows until the processors have ended.
    stage.end(stage.of_role("processor"))
    _wait_idle(stage, outcome, "limits")
    outcome.log = read_log(stage)
    if not is_true_within(
        lambda: not any(missing_ids(stage, outcome.log).values()), REACHED_TIMEOUT_S, every_s=0.5
    ):
        outcome.problems.append(
            f"subscribers were not notified of everything within {REACHED_TIMEOUT_S:.0f} s"
        )
    # A subscriber writes its blocked accounts about once a second: wait for twice that.
    time.sleep(2.5)
    outcome.findings.append(no_finished_generation_keeps_its_hold(stage))
    stage.end(stage.of_role("limits", "listener", "gateway"))


def _wait_idle(stage: Stage, outcome: Outcome, what: str = "") -> None:
    with lag_reader(stage.kafka, stage.store.url, PREFIX) as reader:

        def look() -> LedgerLags:
            lags = reader.look()
            return LedgerLags(tuple(lag for lag in lags.lags if what in ("", lag.what)), lags.ends)

        lags = wait_until_idle(look, IDLE_TIMEOUT_S)
    if not lags.is_idle:
        outcome.problems.append(
            f"not quiet after {IDLE_TIMEOUT_S:.0f} s: {'; '.join(map(str, lags.waiting[:4]))}"
        )


def verdict(outcome: Outcome) -> str:
    """The verdict with its numbers, as it is printed."""
    lines = [
        "",
        *(f"  {finding}" for finding in outcome.findings),
        *(f"  FAIL {problem}" for problem in outcome.problems),
    ]
    lines += _recoveries(outcome)
    kinds = Counter(sealed.entry.kind for sealed in outcome.log.all_entries())
    delays = sorted(_delay(use) for use in outcome.followed)
    if delays:
        lines.append(
            f"  canaries: {len(delays):,} uses, recorded to decided: median "
            f"{statistics.median(delays):.2f} s, "
            f"99 % within {delays[int(len(delays) * 0.99)]:.1f} s, all within "
            f"{delays[-1]:.1f} s"
        )
    if outcome.ended:
        lines.append(
            "  ended by themselves and were started again: "
            f"{', '.join(f'{name} {codes}' for name, codes in outcome.ended.items())}"
        )
    failed = sum(bool(fault.problem) for fault in outcome.suffered)
    done = len(outcome.suffered) - failed
    lost, doubled = (
        (len(outcome.findings[n].wrong) for n in (0, 3)) if outcome.findings else (-1, -1)
    )
    inputs = sum(
        end
        for (topic, _), end in outcome.log.ends.items()
        if topic.endswith(("usage.events.v1", "account.events.v1"))
    )
    lines.append(
        f"{'PROVED' if outcome.is_proved else 'NOT PROVED'}: {done:,} faults survived ({failed} "
        "failed) in "
        f"{(outcome.broke_until - outcome.broke_from) / 60:.1f} min; {inputs:,} inputs, "
        f"{kinds['usage']:,} charged, "
        f"{kinds['duplicate']:,} duplicates, {kinds['refusal']:,} refused; {lost} lost, {doubled} "
        "charged twice; "
        f"{outcome.log.claims:,} claims; repeat with: {outcome.options.command}"
    )
    return "\n".join(lines)


def _recoveries(outcome: Outcome) -> list[str]:
    lines = []
    for fault, slowest in sorted(outcome.alone, key=lambda item: -item[1]):
        goal_s = KINDS[fault.kind].within_s
        missed = "" if slowest <= goal_s else f", beyond the goal of {goal_s:.0f} s"
        lasted_s = fault.ended - fault.began
        lines.append(
            f"  alone: {fault.kind} ({fault.target}, {lasted_s:.1f} s): slowest event "
            f"{slowest:.1f} s{missed}"
        )
    return lines
