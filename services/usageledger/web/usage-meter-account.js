/** A <usage-meter>'s account: its figures and history, fetched once, then updated by the stream. */

import { isNothing } from "./usage-meter-elements.js";
import { backOffMs, isFinal, isUnauthorized, pause } from "./usage-meter-stream.js";

/** @typedef {import("./usage-meter-stream.js").Connection} Connection */
/** @typedef {"loading" | "refused" | "fresh" | "near" | "blocked" | "suspended"} State */
/** @typedef {"connecting" | "live" | "lost"} Status */

const CHARGES_PER_PAGE = 8;
const REFETCH_WAIT_MIN_MS = 300;
const REFETCH_WAIT_MS = 3_000;
const REFETCH_WAIT_MAX_MS = 30_000;

/**
 * One account's figures and history. Each change calls `onChange` or, for the connection's status
 * alone, `onStatus`. An account that is no longer shown is dropped with its connection's signal.
 */
export class Account {
  /** @type {Gateway.Meter | null} */
  meter = null;
  /** @type {Gateway.Charge[] | null} Newest first; null until they were fetched. */
  charges = null;
  /** @type {string | null} */
  chargesCursor = null;
  /** @type {Gateway.PeriodListed[] | null} Newest first; null until they were fetched. */
  periods = null;
  /** @type {string | null} */
  periodsCursor = null;
  /** Whether charges or periods could not be read. */
  isHistoryAway = false;
  /** @type {Status} */
  status = "connecting";
  /** @type {Error | null} Why there is no meter. */
  problem = null;

  #connection;
  #hasHistory;
  #onChange;
  #onStatus;
  #receivedAtMs = 0;
  #fetchedAtMs = 0;
  #refetchWaitMs = REFETCH_WAIT_MS;
  #isRefetching = false;

  /**
   * @param {Pick<Connection, "json" | "follow" | "signal">} connection
   * @param {object} options
   * @param {boolean} options.hasHistory Whether charges and periods are fetched too.
   * @param {() => void} options.onChange
   * @param {() => void} options.onStatus
   */
  constructor(connection, { hasHistory, onChange, onStatus }) {
    this.#connection = connection;
    this.#hasHistory = hasHistory;
    this.#onChange = onChange;
    this.#onStatus = onStatus;
  }

  /** @returns {State} */
  get state() {
    if (isFinal(this.problem)) return "refused";
    if (this.meter === null) return "loading";
    const { blocked, thresholds, share_used: used } = this.meter;
    if (blocked) {
      return blocked.suspension || blocked.reason === "suspended" ? "suspended" : "blocked";
    }
    return thresholds?.some((threshold) => Number(used) >= Number(threshold)) ? "near" : "fresh";
  }

  /** The ledger's time. While older events are being imported, it is not the browser's time. */
  get nowMs() {
    if (this.meter === null) return Date.now();
    return Date.parse(this.meter.at) + performance.now() - this.#receivedAtMs;
  }

  /** Fetch what there is to show, and follow the stream, until the connection's signal ends. */
  start() {
    this.#load();
    this.#connection.follow({
      onReturn: () => this.#refetchSoon(),
      onEvent: (event) => this.#receive(event),
      onLoss: (error) => this.#lose(error),
    });
  }

  /** Fetch the next page of charges. */
  async fetchMoreCharges() {
    const cursor = encodeURIComponent(this.chargesCursor ?? "");
    /** @type {Gateway.ChargePage | null} */
    const page = await this.#page(`/charges?limit=${CHARGES_PER_PAGE}&cursor=${cursor}`);
    if (page === null) return;
    this.charges = [...(this.charges ?? []), ...page.items];
    this.chargesCursor = page.next_cursor;
  }

  /** Fetch the next page of past periods. */
  async fetchMorePeriods() {
    const cursor = encodeURIComponent(this.periodsCursor ?? "");
    /** @type {Gateway.PeriodPage | null} */
    const page = await this.#page(`/periods?cursor=${cursor}`);
    if (page === null) return;
    this.periods = [...(this.periods ?? []), ...page.items];
    this.periodsCursor = page.next_cursor;
  }

  /**
   * @template Page
   * @param {string} path
   * @returns {Promise<Page | null>} Null where it cannot be read: the status says so.
   */
  async #page(path) {
    try {
      return /** @type {Page} */ (await this.#connection.json(path));
    } catch {
      if (!this.#isOver) this.#setStatus("lost");
      return null;
    }
  }

  get #isOver() {
    return this.#connection.signal.aborted;
  }

  async #load() {
    for (let failures = 0; !this.#isOver; failures += 1) {
      try {
        await this.#fetch();
        return;
      } catch (error) {
        if (this.#isOver) return;
        this.problem = /** @type {Error} */ (error);
        this.#onChange();
        if (isFinal(error)) return;
        await pause(backOffMs(failures), this.#connection.signal);
      }
    }
  }

  /** Fetch the meter, the newest charges and the past periods. Charges that are shown stay. */
  async #fetch() {
    this.#fetchedAtMs = performance.now();
    const history = this.#fetchHistory();
    /** @type {Gateway.Meter} */
    const meter = await this.#connection.json("/meter");
    if (this.#isOver) return;
    this.problem = null;
    this.#setMeter(meter);
    const { charges, periods } = await history;
    if (this.#isOver) return;
    this.isHistoryAway = this.#hasHistory && (charges === null || periods === null);
    if (charges) this.#addCharges(charges);
    if (periods) this.#setPeriods(periods);
    this.#onChange();
    // While the history lags behind, it is fetched again, less and less often. The figures do not
    // wait for it.
    const isBehind = this.isHistoryAway || !isNothing(meter.history_as_of);
    this.#refetchWaitMs = isBehind
      ? Math.min(REFETCH_WAIT_MAX_MS, this.#refetchWaitMs * 1.5)
      : REFETCH_WAIT_MS;
    if (isBehind) this.#refetchSoon();
  }

  /** The newest charges and periods. Null for what could not be read, or is not wanted. */
  async #fetchHistory() {
    if (!this.#hasHistory) return { charges: null, periods: null };
    /** @type {Promise<Gateway.ChargePage>} */
    const charges = this.#connection.json(`/charges?limit=${CHARGES_PER_PAGE}`);
    /** @type {Promise<Gateway.PeriodPage>} */
    const periods = this.#connection.json("/periods");
    const orNull = () => null;
    const answers = await Promise.all([charges.catch(orNull), periods.catch(orNull)]);
    return { charges: answers[0], periods: answers[1] };
  }

  /** @param {Gateway.ChargePage} page The newest charges. */
  #addCharges(page) {
    const shown = this.charges ?? [];
    const known = new Set(shown.map((charge) => charge.entry));
    const added = page.items.filter((charge) => !known.has(charge.entry));
    if (added.length < page.items.length) {
      this.charges = [...added, ...shown];
    } else {
      // Nothing in common: there may be a gap, so the list begins anew.
      this.charges = page.items;
      this.chargesCursor = page.next_cursor;
    }
  }

  /** @param {Gateway.PeriodPage} page The newest periods. */
  #setPeriods(page) {
    if (this.periods !== null && this.periods[0]?.number === page.items[0]?.number) return;
    this.periods = page.items;
    this.periodsCursor = page.next_cursor;
  }

  /** @param {Gateway.Meter} meter */
  #setMeter(meter) {
    const known = this.meter;
    if (known && Date.parse(meter.at) < Date.parse(known.at)) {
      // The stream has moved on since this answer was asked for: its figures are older than the
      // ones shown, its history is not.
      const { features, days, pace, renewal, grants, next_plan, history_as_of } = meter;
      this.meter = { ...known, features, days, pace, renewal, grants, next_plan, history_as_of };
    } else {
      this.meter = meter;
      this.#receivedAtMs = performance.now();
    }
    this.#onChange();
  }

  /** @param {import("./usage-meter-stream.js").StreamEvent | null} event */
  #receive(event) {
    this.#setStatus("live");
    if (event?.type !== "meter") return;
    const before = this.meter;
    /** @type {Gateway.LiveMeter} */
    const figures = JSON.parse(event.data);
    if (!before || Date.parse(figures.at) < Date.parse(before.at)) return;
    const features = before.features?.map((feature) => ({
      ...feature,
      credits: figures.by_feature?.[feature.id] ?? feature.credits,
    }));
    this.#setMeter({ ...before, ...figures, features });
    if (hasHistoryChanged(before, figures)) this.#refetchSoon();
  }

  /** @param {unknown} error */
  #lose(error) {
    if (isUnauthorized(error)) {
      this.problem = /** @type {Error} */ (error);
      this.#setStatus("lost");
      this.#onChange();
      return;
    }
    this.#setStatus("lost");
    this.#refetchSoon(); // Where streams do not get through, requests may.
  }

  /** Fetch everything again, soon, and not more often than every few seconds. */
  async #refetchSoon() {
    if (this.#isRefetching) return;
    this.#isRefetching = true;
    const waitMs = this.#fetchedAtMs + this.#refetchWaitMs - performance.now();
    await pause(Math.max(REFETCH_WAIT_MIN_MS, waitMs), this.#connection.signal);
    this.#isRefetching = false;
    if (!this.#isOver) await this.#fetch().catch(() => undefined); // The stream retries.
  }

  /** @param {Status} status */
  #setStatus(status) {
    if (this.status === status) return;
    this.status = status;
    this.#onStatus();
  }
}

/**
 * Whether there is something new in charges, periods, days or renewal.
 * @param {Gateway.Meter} before
 * @param {Gateway.LiveMeter} now
 */
function hasHistoryChanged(before, now) {
  return (
    before.used !== now.used ||
    before.granted !== now.granted ||
    before.period?.number !== now.period?.number ||
    before.plan?.id !== now.plan?.id ||
    !before.blocked !== !now.blocked
  );
}
