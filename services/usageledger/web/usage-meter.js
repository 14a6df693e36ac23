/**
 * <usage-meter>: what an account has used of its AI credits, live. No build step, no framework.
 *
 *   <script type="module" src="https://GATEWAY/usage-meter.js"></script>
 *   <usage-meter account="acct_4821" upgrade-url="/billing?plan={plan}"></usage-meter>
 *   <script type="module">
 *     document.querySelector("usage-meter").tokenProvider = async () => (await fetch("/meter-token")).text();
 *   </script>
 *
 * Attributes: `account`; `src`, the gateway's origin (the script's own by default); `token`, an account token; `lang` (en, de, and what
 * `UsageMeter.addTexts` brings); `theme` (light, dark; the system's by default); `compact`, the bar alone; `upgrade-url`, where the offer
 * leads, with {plan} and {account} filled in; `currency` of the prices (USD by default).
 * Properties: `tokenProvider`, an async function that is asked for a token at the start and whenever one has ended; `texts`, own words.
 * Event: `usage-meter:upgrade`, cancelable, when an offer is taken; its detail names account, plan, name, price_cents.
 * Looks: `--usage-meter-accent`, `-text`, `-muted`, `-surface`, `-border`, `-track`, `-warning`, `-danger`, `-radius`, `-font`.
 *
 * What the gateway says is put into the page as text, never as markup, and a token travels in a header, never in a URL.
 */

const TEXTS = {
  en: {
    title: "AI credits",
    renews: "{range} · renews {when}",
    once: "Given once, not renewed",
    live: "Live",
    connecting: "Connecting",
    lost: "Connection lost",
    as_of: "As of {time}",
    available: "credits available",
    over: "credits available · {credits} over",
    total: "{allotment} with {plan}",
    total_granted: "{allotment} with {plan} + {granted} granted",
    used: "Used",
    held: "Reserved",
    left: "Available",
    meter: "Credits used",
    meter_text: "{used} of {total} credits used, {held} reserved, {left} available",
    no_pace: "There is no pace to go by yet",
    no_pace_more: "A forecast appears once credits have been used for a while.",
    pace_used_up: "At this pace used up on {date}",
    pace_left: "About {credits} credits left on {date} at this pace",
    pace_more: "{credits} credits a day on average in this period.",
    near: "{share} of the credits are used",
    blocked: "All credits are used",
    blocked_grant_expired: "Granted credits have expired, and no others are left",
    blocked_plan_changed: "The plan’s credits are used",
    blocked_more: "New generations are stopped.",
    blocked_since: "New generations are stopped since {time}.",
    resets: "Credits renew on {date}.",
    offer: "{name} brings {allotment} credits for {price} a month.",
    upgrade: "Upgrade to {name}",
    suspended: "The account is suspended",
    suspended_payment_failed: "A payment has failed. Generations start again once it is made.",
    suspended_more: "New generations are stopped. Please contact support.",
    by_day: "Day by day",
    by_day_keys: "Credits by day. Arrow keys go from day to day.",
    day: "{date}: {credits}",
    average: "Average {credits} a day",
    as_table: "Show as a table",
    date: "Date",
    by_feature: "By feature",
    nothing_used: "Nothing used in this period yet",
    renewal: "Renewal",
    renewal_on: "Renews on",
    renewal_plan: "Plan",
    renewal_allotment: "New credits",
    renewal_lapses: "Lapse if not used",
    renewal_kept: "Granted, kept",
    no_renewal: "{plan}’s {allotment} credits are given once. They stay until they are used.",
    grant: "Granted on {date}",
    grant_left: "{left} of {credits} left",
    grant_expires: "{left} of {credits} left, until {date}",
    past: "Past periods",
    no_past: "No period has ended yet",
    of: "{used} of {total}",
    charges: "Recent activity",
    no_charges: "Nothing has happened yet",
    more: "Show more",
    all: "Show all {n}",
    fewer: "Show fewer",
    remaining_after: "{credits} left",
    late: "late",
    history_as_of: "Up to {time}",
    history_away: "Features, days and activity cannot be read at the moment.",
    unreachable: "The meter cannot be reached",
    unreachable_more: "Trying again. Nothing is lost meanwhile.",
    refused: "The meter cannot be shown",
    uses: { one: "{n} use", other: "{n} uses" },
    credits: { one: "{n} credit", other: "{n} credits" },
    unit_second: { one: "{n} second", other: "{n} seconds" },
    unit_generation: { one: "{n} generation", other: "{n} generations" },
    unit_message: { one: "{n} message", other: "{n} messages" },
    unit_action: { one: "{n} action", other: "{n} actions" },
    unit_edit: { one: "{n} edit", other: "{n} edits" },
    unit_change: { one: "{n} change", other: "{n} changes" },
    unit_creation: { one: "{n} creation", other: "{n} creations" },
    kind_void: "Given back",
    kind_grant: "Credits granted",
    kind_grant_expired: "Granted credits expired",
    kind_renewal: "Renewed",
    kind_plan_change: "Plan changed",
    kind_account_opened: "Account opened",
    kind_suspension: "Suspended",
    kind_resumption: "Resumed",
    said_near: "{share} of the credits are used.",
    said_blocked: "The account is blocked: all credits are used.",
    said_suspended: "The account is suspended.",
    said_freed: "The account is free again: {credits} credits are available.",
  },
};

// Languages whose words are files beside this one, fetched by who needs them.
const SHIPPED = ["de"];

// The looks are a file beside this one: a page whose policy forbids styles in markup lets a script adopt them. Until they are here, the
// element takes about as much room as it will.
const LOOKS = new CSSStyleSheet();
LOOKS.replaceSync(":host { display: block; min-height: 680px } :host([compact]) { min-height: 260px } .root { visibility: hidden }");
fetch(new URL("usage-meter.css", import.meta.url), { credentials: "omit" })
  .then((response) => (response.ok ? response.text() : Promise.reject(response)))
  .catch(() => ":host { display: block }") // Plain, but there.
  .then((looks) => LOOKS.replace(looks));

const ICONS = {
  fresh: "M3 14.5 8 9.5l3 3 6-6.5M13 6h4v4",
  near: "M10 3.2 17.6 16.4H2.4zM10 8.4v3.4M10 14v.1",
  blocked: "M10 2.8a7.2 7.2 0 1 0 0 14.4 7.2 7.2 0 0 0 0-14.4zM5 5l10 10",
  suspended: "M10 2.8a7.2 7.2 0 1 0 0 14.4 7.2 7.2 0 0 0 0-14.4zM8 7.4v5.2M12 7.4v5.2",
};
ICONS.loading = ICONS.fresh;
ICONS.refused = ICONS.near;

const FEATURES_SHOWN = 5;
const PAST_SHOWN = 5;
const GRANTS_SHOWN = 3;
const CHARGES_A_PAGE = 8;
const CHARGES_WAITED_FOR = 4;
const DAYS_MAX = 62;
const CHART_HEIGHT = 176;
const LABEL_WIDTH = 46;
const REFETCH_EVERY_MS = 3_000;
const SILENCE_MAX_MS = 45_000; // The gateway says something every 15 s.
const BACK_OFF_MS = [500, 1_000, 2_000, 5_000, 10_000, 20_000, 30_000];
const LINE_MAX = 1_000_000;
const HISTORY_WAIT_MAX_MS = 30_000;
const SVG = new Set(["svg", "path", "g", "rect", "line", "text"]);
const SHORT = { day: "numeric", month: "short" };
const LONG = { day: "numeric", month: "long" };
const CLOCK = { hour: "numeric", minute: "2-digit" };

/** Make an element. Children that are texts become text nodes: nothing that the gateway says is ever read as markup. */
function element(tag, properties = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const made = SVG.has(name) ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  if (classes.length) made.setAttribute("class", classes.join(" "));
  for (const [key, value] of Object.entries(properties)) {
    if (isNothing(value)) continue;
    if (typeof value === "function") made.addEventListener(key, value);
    else if (key.startsWith("--")) made.style.setProperty(key, value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => !isNothing(child)));
  return made;
}

const isNothing = (value) => value === null || value === undefined || value === false;

/** Bring a list's children in line with `items`, keeping the nodes of those that stay: what is open stays open, what has focus keeps it. */
function keyed(parent, items, keyOf, make, update) {
  const known = new Map([...parent.children].filter((node) => node.dataset.key).map((node) => [node.dataset.key, node]));
  const wanted = items.map((item) => {
    const key = String(keyOf(item));
    const node = known.get(key) ?? make(item);
    node.dataset.key = key;
    update?.(node, item);
    return node;
  });
  const kept = new Set(wanted);
  for (const node of [...parent.children]) if (!kept.has(node)) node.remove();
  wanted.forEach((node, index) => {
    if (parent.children[index] !== node) parent.insertBefore(node, parent.children[index] ?? null);
  });
}

/** Credits as whole micro-credits, to reckon with: sums of decimals in binary would not be exact. */
const micro = (credits) => Math.round(Number(credits) * 1e6);
const share = (part, whole) => (whole > 0 ? Math.min(1, Math.max(0, part / whole)) : 0);

/** The gateway has answered, and the answer is no. */
class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

/** Whether asking again would be answered the same. */
const isFinal = (error) => error instanceof Refused && error.status < 500 && error.status !== 429;

/** The events of a stream, as {type, data, id}. Throws when nothing has been said for too long, or a line never ends. */
async function* eventsOf(body, signal) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = { type: "message", data: [], id: undefined };
  try {
    for (;;) {
      let timer;
      const silence = new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error("silence")), SILENCE_MAX_MS);
      });
      const { value, done } = await Promise.race([reader.read(), silence]).finally(() => clearTimeout(timer));
      if (done || signal.aborted) return;
      // A carriage return at the end may be the first half of a line's end.
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      if (rest.length > LINE_MAX) throw new Error("a line without an end");
      for (const line of lines) {
        if (line === "") {
          // An id alone is an event too: where the stream goes on if it breaks before the next one.
          if (event.data.length || event.id) yield { ...event, data: event.data.join("\n") };
          event = { type: "message", data: [], id: undefined };
          continue;
        }
        const [, field, content] = /^([^:]*):? ?(.*)$/s.exec(line);
        if (field === "event") event.type = content;
        else if (field === "data") event.data.push(content);
        else if (field === "id") event.id = content;
      }
      yield null; // Something was heard.
    }
  } finally {
    reader.cancel().catch(() => undefined);
  }
}

/** When a token ends, by what it says itself, in milliseconds; never, where it does not say. */
function endOf(token) {
  try {
    return JSON.parse(atob(token.split(".")[1].replace(/-/g, "+").replace(/_/g, "/"))).exp * 1000 || Infinity;
  } catch {
    return Infinity;
  }
}

/** Wait a while: less, when the browser is back on the network, or nobody waits any more. */
function pause(ms, signal) {
  return new Promise((resolve) => {
    const wake = () => {
      clearTimeout(timer);
      window.removeEventListener("online", wake);
      signal.removeEventListener("abort", wake);
      resolve();
    };
    const timer = setTimeout(wake, ms);
    window.addEventListener("online", wake);
    signal.addEventListener("abort", wake);
  });
}

class UsageMeter extends HTMLElement {
  static observedAttributes = ["account", "src", "token", "lang", "compact", "upgrade-url", "currency"];

  /** Bring the words of a further language, or other words for one that is there. What is missing is said in English. */
  static addTexts(lang, texts) {
    TEXTS[lang] = { ...TEXTS[lang], ...texts };
    for (const meter of UsageMeter.#shown) meter.#renderAll();
  }

  static #shown = new Set();

  #hasWords = false;
  #token = null;
  #tokenAsked = null;
  #provider = null;
  #texts = {};
  #run = null;
  #meter = null;
  #receivedAt = 0;
  #charges = null;
  #cursor = null;
  #past = null;
  #pastCursor = null;
  #historyAway = false;
  #status = "connecting";
  #problem = null;
  #lastEventId = null;
  #state = "loading";
  #announced = null;
  #allFeatures = false;
  #day = null;
  #refetching = null;
  #fetchedAt = 0;
  #historyWaitMs = REFETCH_EVERY_MS;
  #nodes = {};
  #labels = [];
  #observer = null;
  #opened = [];

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [LOOKS];
    this.#build(root);
  }

  get #path() {
    return `/v1/accounts/${encodeURIComponent(this.account)}`;
  }
  get account() {
    return this.getAttribute("account");
  }
  set account(name) {
    this.setAttribute("account", name);
  }
  get src() {
    return (this.getAttribute("src") ?? new URL(import.meta.url).origin).replace(/\/+$/, "");
  }
  set src(origin) {
    this.setAttribute("src", origin);
  }
  get lang() {
    return this.getAttribute("lang") ?? this.closest("[lang]")?.getAttribute("lang") ?? navigator.language;
  }
  set lang(lang) {
    this.setAttribute("lang", lang);
  }
  get token() {
    return this.#token;
  }
  set token(token) {
    this.#token = token;
    this.#restart();
  }
  get tokenProvider() {
    return this.#provider;
  }
  set tokenProvider(provider) {
    this.#provider = provider;
    this.#restart();
  }
  get texts() {
    return this.#texts;
  }
  set texts(texts) {
    this.#texts = texts ?? {};
    this.#renderAll();
  }

  connectedCallback() {
    // Properties that were set before this class was known lie on the element itself and would hide ours.
    for (const name of ["token", "tokenProvider", "texts"]) {
      if (Object.hasOwn(this, name)) {
        const value = this[name];
        delete this[name];
        this[name] = value;
      }
    }
    UsageMeter.#shown.add(this);
    this.#observer = new ResizeObserver(() => this.#drawChart());
    this.#observer.observe(this.#nodes.chart);
    window.addEventListener("beforeprint", this.#open);
    window.addEventListener("afterprint", this.#close);
    this.#fetchWords();
    this.#restart();
  }

  disconnectedCallback() {
    UsageMeter.#shown.delete(this);
    this.#observer?.disconnect();
    window.removeEventListener("beforeprint", this.#open);
    window.removeEventListener("afterprint", this.#close);
    this.#run?.abort();
    this.#run = null;
  }

  attributeChangedCallback(name, before, now) {
    if (before === now) return;
    if (name === "token") this.token = now;
    else if (["account", "src", "compact"].includes(name)) this.#restart();
    if (name === "lang") this.#fetchWords();
    else this.#renderAll();
  }

  // ——— What is asked of the gateway ———

  /** Begin anew, once, however many attributes change at a time. */
  #restart() {
    this.#run?.abort();
    if (!this.isConnected) return;
    const run = new AbortController();
    this.#run = run;
    queueMicrotask(() => {
      if (run.signal.aborted || !this.account || !(this.#token || this.#provider)) return;
      this.#meter = this.#charges = this.#past = this.#cursor = this.#pastCursor = this.#problem = null;
      this.#lastEventId = this.#announced = this.#day = this.#refetching = null;
      this.#status = "connecting";
      this.#renderAll();
      this.#load(run.signal);
      this.#follow(run.signal);
    });
  }

  async #load(signal) {
    for (let failures = 0; !signal.aborted; failures += 1) {
      try {
        await this.#fetchHistory(signal);
        return;
      } catch (error) {
        if (signal.aborted) return;
        this.#problem = error;
        this.#renderAll();
        if (isFinal(error)) return;
        await pause(BACK_OFF_MS[Math.min(failures, BACK_OFF_MS.length - 1)], signal);
      }
    }
  }

  /** The meter with its features and days, the newest charges, the past periods. Charges that were shown stay. */
  async #fetchHistory(signal) {
    this.#fetchedAt = performance.now();
    const asked = this.hasAttribute("compact") ? [] : [`/charges?limit=${CHARGES_A_PAGE}`, "/periods"];
    const rest = Promise.allSettled(asked.map((what) => this.#json(what, signal)));
    const meter = await this.#json("/meter", signal);
    if (signal.aborted) return;
    this.#problem = null;
    this.#take(meter);
    const [charges, past] = await rest;
    if (signal.aborted) return;
    this.#historyAway = [charges, past].some((answer) => answer?.status === "rejected");
    if (charges?.value) this.#takeCharges(charges.value);
    if (past?.value && (this.#past?.[0]?.number !== past.value.items[0]?.number || this.#past === null)) {
      this.#past = past.value.items;
      this.#pastCursor = past.value.next_cursor;
    }
    this.#renderAll();
    // While the history is behind, it is asked again, ever more seldom: the figures are right before it is.
    const isBehind = this.#historyAway || !isNothing(meter.history_as_of);
    this.#historyWaitMs = isBehind ? Math.min(HISTORY_WAIT_MAX_MS, this.#historyWaitMs * 1.5) : REFETCH_EVERY_MS;
    if (isBehind) this.#refetch(signal);
  }

  #takeCharges(page) {
    const known = new Set(this.#charges?.map((charge) => charge.entry));
    const isContinued = page.items.some((charge) => known.has(charge.entry));
    if (isContinued) {
      this.#charges = [...page.items.filter((charge) => !known.has(charge.entry)), ...this.#charges];
    } else {
      this.#charges = page.items;
      this.#cursor = page.next_cursor;
    }
  }

  /** Ask for the history again, soon, and not more often than every few seconds. */
  #refetch(signal) {
    if (this.#refetching) return;
    const wait = Math.max(300, this.#fetchedAt + this.#historyWaitMs - performance.now());
    this.#refetching = pause(wait, signal).then(() => {
      this.#refetching = null;
      return signal.aborted ? undefined : this.#fetchHistory(signal).catch(() => undefined);
    });
  }

  /** Follow the account's stream for as long as the element is shown: every loss is answered by another attempt. */
  async #follow(signal) {
    let failures = 0;
    while (!signal.aborted) {
      try {
        const headers = { Accept: "text/event-stream" };
        if (this.#lastEventId) headers["Last-Event-ID"] = this.#lastEventId;
        const response = await this.#ask("/stream", signal, headers);
        if (failures > 0) this.#refetch(signal);
        for await (const event of eventsOf(response.body, signal)) {
          failures = 0;
          this.#setStatus("live");
          if (event) this.#hear(event, signal);
        }
        failures = this.#status === "live" ? 0 : failures + 1; // It ended in good order: the token or the gateway's turn was over.
      } catch (error) {
        if (signal.aborted) return;
        failures += 1;
        if (error instanceof Refused && [401, 403].includes(error.status)) {
          this.#problem = error;
          this.#setStatus("lost");
          this.#renderAll();
          return;
        }
        this.#setStatus("lost");
        this.#refetch(signal); // Where streams do not get through, asking does.
      }
      const wait = BACK_OFF_MS[Math.min(failures, BACK_OFF_MS.length - 1)];
      await pause(wait * (0.75 + Math.random() / 2), signal);
    }
  }

  #hear(event, signal) {
    if (event.id) this.#lastEventId = event.id;
    if (event.type !== "meter") return;
    const figures = JSON.parse(event.data);
    const before = this.#meter;
    if (!before || Date.parse(figures.at) < Date.parse(before.at)) return;
    const hasMoved = before.used !== figures.used || before.period?.number !== figures.period?.number || before.granted !== figures.granted;
    const features = before.features?.map((feature) => ({ ...feature, credits: figures.by_feature?.[feature.id] ?? feature.credits }));
    this.#take({ ...before, ...figures, features });
    if (hasMoved || before.plan?.id !== figures.plan?.id || !before.blocked !== !figures.blocked) this.#refetch(signal);
  }

  #take(meter) {
    const known = this.#meter;
    // An answer that was under way while the stream went on is older than what is shown: its figures are, its history is not.
    if (known && Date.parse(meter.at) < Date.parse(known.at)) {
      const { features, days, pace, renewal, grants, next_plan, history_as_of } = meter;
      this.#meter = { ...known, features, days, pace, renewal, grants, next_plan, history_as_of };
    } else {
      this.#meter = meter;
      this.#receivedAt = performance.now();
    }
    this.#renderAll();
  }

  async #json(path, signal) {
    return (await this.#ask(path, signal)).json();
  }

  /** Ask what stands under the account's path. Raises Refused. */
  async #ask(path, signal, headers = {}) {
    for (let attempt = 0; ; attempt += 1) {
      const token = await this.#currentToken(attempt > 0);
      signal.throwIfAborted();
      const sent = { ...headers, Authorization: `Bearer ${token}` };
      const response = await fetch(this.src + this.#path + path, { headers: sent, signal, credentials: "omit", cache: "no-store" });
      if (response.ok) return response;
      if (response.status === 401 && attempt === 0 && this.#provider) continue;
      const problem = await response.json().catch(() => ({}));
      throw new Refused(response.status, problem.detail ?? `${response.status}`);
    }
  }

  /** The token, or another where it has ended. Several who ask at once wait for one. */
  async #currentToken(isRefused) {
    const isOver = !this.#token || endOf(this.#token) - 5_000 < Date.now();
    if (this.#provider && (isOver || isRefused)) {
      this.#tokenAsked ??= Promise.resolve(this.#provider(this.account)).finally(() => {
        this.#tokenAsked = null;
      });
      this.#token = await this.#tokenAsked;
    }
    return this.#token;
  }

  async #showMore(event) {
    await this.#further(event, `/charges?limit=${CHARGES_A_PAGE}&cursor=`, this.#cursor, (page) => {
      const first = this.#charges.length;
      this.#charges = [...this.#charges, ...page.items];
      this.#cursor = page.next_cursor;
      this.#renderCharges();
      this.#nodes.charges.children[first]?.focus();
    });
  }

  async #showMorePast(event) {
    await this.#further(event, "/periods?cursor=", this.#pastCursor, (page) => {
      this.#past = [...this.#past, ...page.items];
      this.#pastCursor = page.next_cursor;
      this.#renderPast();
    });
  }

  async #further({ target }, path, cursor, take) {
    const { signal } = this.#run;
    target.disabled = true;
    try {
      take(await this.#json(path + encodeURIComponent(cursor), signal));
    } catch {
      if (!signal.aborted) this.#setStatus("lost");
    } finally {
      target.disabled = false;
    }
  }

  // ——— Words, numbers, times ———

  /** A text by its name, with what it speaks of filled in; one that counts takes the form that the language has for `n`. */
  #text(name, values = {}) {
    const lang = this.lang;
    const found = this.#texts[name] ?? TEXTS[lang]?.[name] ?? TEXTS[lang.split("-")[0]]?.[name] ?? TEXTS.en[name];
    if (found === undefined) return undefined;
    const form = typeof found === "string" ? found : (found[new Intl.PluralRules(lang).select(Number(values.count))] ?? found.other);
    return form.replace(/\{(\w+)\}/g, (whole, key) => values[key] ?? whole);
  }

  /** Fetch the words of the element's language, if they are not here. Until they are, nothing is said in another. */
  async #fetchWords() {
    const lang = this.lang.split("-")[0];
    this.#hasWords = lang in TEXTS || !SHIPPED.includes(lang);
    if (!this.#hasWords) {
      const { default: words } = await import(new URL(`usage-meter.${lang}.js`, import.meta.url)).catch(() => ({}));
      TEXTS[lang] = { ...words, ...TEXTS[lang] };
      this.#hasWords = true;
    }
    this.#renderAll();
  }

  #number(decimal, options = {}) {
    return new Intl.NumberFormat(this.lang, { maximumFractionDigits: 6, ...options }).format(decimal).replace("-", "−");
  }

  #counted(name, decimal) {
    return this.#text(name, { n: this.#number(decimal), count: decimal });
  }

  #unit(quantity, unit) {
    return unit ? (this.#counted(`unit_${unit}`, quantity) ?? `${this.#number(quantity)} ${unit}`) : this.#number(quantity);
  }

  #price(cents) {
    const options = { style: "currency", currency: this.getAttribute("currency") ?? "USD", trailingZeroDisplay: "stripIfInteger" };
    return new Intl.NumberFormat(this.lang, options).format(cents / 100);
  }

  #times(options) {
    try {
      return new Intl.DateTimeFormat(this.lang, { timeZone: this.#meter?.time_zone ?? "UTC", ...options });
    } catch {
      return new Intl.DateTimeFormat(this.lang, { timeZone: "UTC", ...options });
    }
  }

  #date(time, options = LONG) {
    return this.#times(options).format(new Date(time));
  }
  #moment(time) {
    return this.#date(time, { ...SHORT, ...CLOCK });
  }
  #localDate(time) {
    return new Intl.DateTimeFormat("en-CA", { timeZone: this.#times().resolvedOptions().timeZone }).format(time);
  }

  #range({ start, end }) {
    return isNothing(end) ? this.#date(start, SHORT) : this.#times(SHORT).formatRange(new Date(start), new Date(end));
  }

  /** The ledger's time: while history is brought in, it is not the browser's. */
  #now() {
    return Date.parse(this.#meter.at) + performance.now() - this.#receivedAt;
  }

  /** "in 8 days", "tomorrow", "today", by the calendar of the account's time zone. */
  #until(time) {
    const days = (Date.parse(this.#localDate(new Date(time))) - Date.parse(this.#localDate(new Date(this.#now())))) / 86_400_000;
    return new Intl.RelativeTimeFormat(this.lang, { numeric: "auto" }).format(Math.max(0, Math.round(days)), "day");
  }

  // ——— What is shown ———

  /** Build everything once. While it loads, placeholders of the same size stand where figures will. */
  #build(root) {
    const nodes = this.#nodes;
    const make = (name, tag, properties, ...children) => (nodes[name] = element(tag, properties, ...children));
    const label = (tag, text, properties) => {
      const made = element(tag, properties);
      this.#labels.push([made, text]);
      return made;
    };
    const waiting = (tag, count) => Array.from({ length: count }, () => element(tag, {}, element("span.wait", {}, "…")));
    const card = (tag, text, note, ...children) =>
      element(tag, { "aria-labelledby": text, part: "card" }, element("div.head", {}, label("h3", text, { id: text }), note), ...children);
    const button = (name, act) => make(name, "button.plain", { type: "button", hidden: true, click: act });

    const days = card(
      "section.card",
      "by_day",
      make("daysNote", "span.note"),
      make("readout", "p.readout"),
      make("chart", "div.chart"),
      element(
        "details.tabled",
        {},
        label("summary", "as_table"),
        make("table", "div.scroll", { tabindex: 0, role: "region", "aria-labelledby": "by_day" }),
      ),
    );
    const fact = () => element("div", {}, element("dt.wait", {}, "Something"), element("dd.wait", {}, "000"));
    const renewal = card("section.card", "renewal", null, make("renewal", "dl.facts", {}, Array.from({ length: 5 }, fact)));
    const features = card(
      "section.card",
      "by_feature",
      null,
      make("features", "ul.rows.features", {}, waiting("li.row", FEATURES_SHOWN)),
      button("allFeatures", () => {
        this.#allFeatures = !this.#allFeatures;
        this.#renderFeatures();
      }),
    );
    const past = card(
      "section.card",
      "past",
      null,
      make("past", "ul.rows.past", {}, waiting("li.row", PAST_SHOWN)),
      button("morePast", (event) => this.#showMorePast(event)),
    );
    const charges = card(
      "section.card.activity",
      "charges",
      make("chargesNote", "span.note"),
      make("charges", "ul.rows.charges", {}, waiting("li.charge", CHARGES_WAITED_FOR)),
      button("more", (event) => this.#showMore(event)),
    );
    this.#labels.push([nodes.more, "more"], [nodes.morePast, "more"]);
    make("history", "div.stack", {}, element("div.columns.first", {}, days, renewal), element("div.columns", {}, features, past), charges);
    const overview = this.#overview(make, label);
    root.append(make("root", "div.root", { "data-state": "loading" }, overview, nodes.history, make("said", "p.said", { role: "status" })));
  }

  #overview(make, label) {
    const legend = ["used", "held", "left"].map((name) => element(`div.${name}`, {}, label("dt", name), make(name, "dd.wait", {}, "000")));
    return element(
      "section.card",
      { "aria-labelledby": "title", part: "card" },
      element(
        "div.head",
        {},
        element("div", {}, label("h2", "title", { id: "title" }), make("plan", "span.plan.wait", {}, "Plan")),
        make("status", "span.note.status", { "data-status": "connecting" }),
      ),
      element("p.period", {}, make("period", "span.wait", {}, "1 January – 1 February")),
      element(
        "p.figure",
        {},
        make("available", "strong.wait", {}, "000"),
        make("what", "span.what.wait", {}, "credits available"),
        make("total", "span.total.wait", {}, "000 credits"),
      ),
      make(
        "bar",
        "div.bar",
        { role: "meter", "aria-valuemin": 0, "aria-valuemax": 0, "aria-valuenow": 0, part: "bar" },
        make("barUsed", "i.used", { "data-none": true }),
        make("barHeld", "i.held", { "data-none": true }),
      ),
      make("marks", "div.marks", { "aria-hidden": "true" }),
      element("dl.legend", {}, legend),
      element(
        "div.notice",
        { part: "notice" },
        element("svg", { viewBox: "0 0 20 20", "aria-hidden": "true" }, make("icon", "path", { d: ICONS.fresh })),
        make("noticeTitle", "b.wait", {}, "What is to be expected"),
        make("noticeText", "p", {}, element("span.wait", {}, "What else there is to say about it")),
        make("action", "div.action", { hidden: true }),
      ),
    );
  }

  #renderAll() {
    if (!this.isConnected || !this.#hasWords) return;
    const nodes = this.#nodes;
    nodes.root.lang = this.lang;
    nodes.history.hidden = this.hasAttribute("compact");
    for (const [node, text] of this.#labels) node.textContent = this.#text(text);
    nodes.bar.setAttribute("aria-label", this.#text("meter"));
    this.#state = this.#stateNow();
    nodes.root.dataset.state = this.#state;
    nodes.root.setAttribute("aria-busy", String(this.#state === "loading"));
    this.#renderStatus();
    if (this.#meter === null) return this.#renderWaiting();
    this.#renderFigures();
    this.#renderNotice();
    this.#announce();
    if (nodes.history.hidden) return;
    this.#drawChart();
    this.#renderRenewal();
    this.#renderFeatures();
    this.#renderPast();
    this.#renderCharges();
  }

  #stateNow() {
    const meter = this.#meter;
    if (isFinal(this.#problem)) return "refused";
    if (meter === null) return "loading";
    if (meter.blocked) return meter.blocked.suspension || meter.blocked.reason === "suspended" ? "suspended" : "blocked";
    return meter.thresholds?.some((threshold) => Number(meter.share_used) >= Number(threshold)) ? "near" : "fresh";
  }

  #setStatus(status) {
    if (this.#status === status) return;
    this.#status = status;
    this.#renderStatus();
  }

  #renderStatus() {
    const { status } = this.#nodes;
    const isLost = this.#status === "lost";
    const old = this.#meter?.as_of ?? (isLost ? this.#meter?.at : null);
    const asOf = old && this.#text("as_of", { time: this.#date(old, CLOCK) });
    const isOld = this.#status === "live" && asOf;
    status.dataset.status = isOld ? "old" : this.#status;
    status.textContent = isOld ? asOf : [this.#text(this.#status), isLost && asOf].filter(Boolean).join(" · ");
  }

  #renderWaiting() {
    if (this.#problem === null) return;
    const { icon, noticeTitle, noticeText } = this.#nodes;
    const isRefused = this.#state === "refused";
    icon.setAttribute("d", ICONS.near);
    noticeTitle.classList.remove("wait");
    noticeTitle.textContent = this.#text(isRefused ? "refused" : "unreachable");
    noticeText.textContent = isRefused ? this.#problem.message : this.#text("unreachable_more");
  }

  #renderFigures() {
    const [nodes, meter] = [this.#nodes, this.#meter];
    const [used, held, free] = [micro(meter.used), micro(meter.held ?? "0"), Math.max(0, micro(meter.available))];
    const remaining = micro(meter.remaining);
    const whole = used + remaining;
    const { plan, period } = meter;
    nodes.plan.textContent = plan.name;
    nodes.period.textContent = isNothing(period.end)
      ? this.#text("once")
      : this.#text("renews", { range: this.#range(period), when: this.#until(period.end) });
    nodes.what.textContent = remaining < 0 ? this.#text("over", { credits: this.#number(-remaining / 1e6) }) : this.#text("available");
    const from = { allotment: this.#number(meter.allotment), plan: plan.name, granted: this.#number(meter.granted) };
    nodes.total.textContent = this.#text(micro(meter.granted) > 0 ? "total_granted" : "total", from);
    // Rounded so that nobody is told of credits that are not there.
    this.#count(nodes.available, free, "floor");
    this.#count(nodes.left, free, "floor");
    this.#count(nodes.used, used, "ceil");
    this.#count(nodes.held, held, "ceil");
    for (const [node, part] of [
      [nodes.barUsed, whole > 0 ? used : 1],
      [nodes.barHeld, Math.min(held, Math.max(0, remaining))],
    ]) {
      node.style.setProperty("--share", share(part, whole > 0 ? whole : 1));
      node.toggleAttribute("data-none", part <= 0);
    }
    nodes.bar.setAttribute("aria-valuemax", Math.max(whole, used) / 1e6);
    nodes.bar.setAttribute("aria-valuenow", used / 1e6);
    const spoken = Object.entries({ used, total: whole, held, left: free }).map(([name, credits]) => [name, this.#number(credits / 1e6)]);
    nodes.bar.setAttribute("aria-valuetext", this.#text("meter_text", Object.fromEntries(spoken)));
    const mark = (threshold) => element("i", { "--share": Number(threshold), "data-name": this.#number(threshold, { style: "percent" }) });
    nodes.marks.replaceChildren(...(meter.thresholds ?? []).map(mark));
  }

  /** Move a figure to its new value, in half a second, or at once where somebody has asked for calm. */
  #count(node, value, roundingMode) {
    const fraction = value % 1e6 === 0 ? 0 : 2;
    const write = (at) => {
      node.textContent = this.#number(at / 1e6, { maximumFractionDigits: fraction, roundingMode });
    };
    const from = node.dataset.value === undefined ? value : Number(node.dataset.value);
    node.dataset.value = value;
    const isCalm = document.hidden || matchMedia("(prefers-reduced-motion: reduce)").matches;
    if (from === value || isCalm) return write(value);
    const began = performance.now();
    const step = (now) => {
      if (Number(node.dataset.value) !== value) return;
      const done = Math.min(1, Math.max(0, (now - began) / 500));
      write(done === 1 ? value : from + (value - from) * (1 - (1 - done) ** 3));
      if (done < 1) requestAnimationFrame(step);
    };
    requestAnimationFrame(step);
  }

  #renderNotice() {
    const { icon, noticeTitle, noticeText, action } = this.#nodes;
    const [title, text, offer] = this.#noticed();
    icon.setAttribute("d", ICONS[this.#state]);
    noticeTitle.classList.remove("wait");
    noticeTitle.textContent = title;
    noticeText.textContent = text;
    action.hidden = !offer;
    const [url, { account }] = [this.getAttribute("upgrade-url"), this.#meter];
    const key = offer ? JSON.stringify([offer, url, this.lang, account]) : "";
    if (action.dataset.offer === key) return; // The button stays, and its focus with it.
    action.dataset.offer = key;
    const href = url?.replaceAll("{plan}", encodeURIComponent(offer?.plan)).replaceAll("{account}", encodeURIComponent(account));
    const take = (event) => {
      const { plan, name, price_cents } = offer;
      const init = { detail: { account, plan, name, price_cents }, bubbles: true, composed: true, cancelable: true };
      if (!this.dispatchEvent(new CustomEvent("usage-meter:upgrade", init))) event.preventDefault();
    };
    const properties = href === undefined ? { type: "button" } : { href };
    const made =
      offer &&
      element(
        href === undefined ? "button.button" : "a.button",
        { ...properties, part: "upgrade", click: take },
        this.#text("upgrade", { name: offer.name }),
      );
    action.replaceChildren(...[made].filter(Boolean));
  }

  /** What there is to say now: a title, a sentence or two, and the offer that would help. */
  #noticed() {
    const { blocked, upgrade, period, share_used: used } = this.#meter;
    if (this.#state === "refused") return [this.#text("refused"), this.#problem.message, null];
    if (this.#state === "suspended") {
      return [this.#text("suspended"), this.#text(`suspended_${blocked.suspension}`) ?? this.#text("suspended_more"), null];
    }
    const offer = (blocked ? blocked.upgrade : upgrade) ?? null;
    const terms = offer && { name: offer.name, allotment: this.#number(offer.allotment), price: this.#price(offer.price_cents) };
    const offered = offer && this.#text("offer", terms);
    if (this.#state === "blocked") {
      const resets = blocked.resets_at ?? period.end;
      const told = [
        blocked.since ? this.#text("blocked_since", { time: this.#moment(blocked.since) }) : this.#text("blocked_more"),
        resets && this.#text("resets", { date: this.#date(resets) }),
        offered,
      ];
      return [this.#text(`blocked_${blocked.reason}`) ?? this.#text("blocked"), told.filter(Boolean).join(" "), offer];
    }
    const [pace, more] = this.#paced();
    if (this.#state !== "near") return [pace, more, null];
    const told = [this.#meter.pace && `${pace}.`, offered];
    return [this.#text("near", { share: this.#percent(used) }), told.filter(Boolean).join(" "), offer];
  }

  /** Rounded down: what is not yet all is never said to be all. */
  #percent(part) {
    return this.#number(part, { style: "percent", maximumFractionDigits: 0, roundingMode: "floor" });
  }

  #paced() {
    const { pace, period } = this.#meter;
    if (!pace) return [this.#text("no_pace"), this.#text("no_pace_more")];
    const average = this.#text("pace_more", { credits: this.#number(pace.credits_per_day, { maximumFractionDigits: 1 }) });
    const more = [average, period.end && this.#text("resets", { date: this.#date(period.end) })].filter(Boolean).join(" ");
    if (pace.used_up_at) return [this.#text("pace_used_up", { date: this.#date(pace.used_up_at) }), more];
    if (!period.end || isNothing(pace.at_period_end)) return [this.#text("no_pace"), more];
    const left = this.#number(pace.at_period_end, { maximumFractionDigits: 0, roundingMode: "floor" });
    return [this.#text("pace_left", { credits: left, date: this.#date(period.end) }), more];
  }

  /** Say what has changed to those who do not see it: a threshold, a block, the end of one. Not every tick, and nothing at the start. */
  #announce() {
    const [before, now, { said }] = [this.#announced, this.#state, this.#nodes];
    this.#announced = now;
    if (before === null || before === now || now === "refused") return;
    const isStopped = ["blocked", "suspended"];
    if (isStopped.includes(now)) said.textContent = this.#text(`said_${now}`);
    else if (isStopped.includes(before)) said.textContent = this.#text("said_freed", { credits: this.#number(this.#meter.available) });
    else if (now === "near") said.textContent = this.#text("said_near", { share: this.#percent(this.#meter.share_used) });
  }

  /** Every day of the period: those that have been, with their credits, and those to come. */
  #days() {
    const { days, period } = this.#meter;
    const known = (days ?? []).map((day) => ({ ...day, isOver: true }));
    const last = period.end ? this.#localDate(new Date(Date.parse(period.end) - 1)) : null;
    let next = known.at(-1)?.date ?? this.#localDate(new Date(this.#now()));
    while (last && known.length < DAYS_MAX && next < last) {
      next = new Date(Date.parse(next) + 86_400_000).toISOString().slice(0, 10);
      known.push({ date: next, credits: "0", features: {}, isOver: false });
    }
    return known;
  }

  #drawChart() {
    const [{ chart, daysNote, chargesNote }, meter, width] = [this.#nodes, this.#meter, this.#nodes.chart.clientWidth];
    if (!meter || !width) return;
    const days = this.#days();
    const today = this.#localDate(new Date(this.#now()));
    const most = Math.max(0, ...days.map((day) => Number(day.credits))) || 10;
    const power = 10 ** Math.floor(Math.log10(most));
    const top = [1, 2, 4, 5, 10].map((step) => step * power).find((step) => step >= most);
    const [left, floor] = [10 + 7 * this.#number(top).length, CHART_HEIGHT - 22];
    const slot = (width - left) / days.length;
    const at = (credits) => floor - (Number(credits) / top) * (floor - 8);
    const line = (name, credits) => element(name, { x1: left, x2: width, y1: at(credits), y2: at(credits) });
    const scale = [0, top / 2, top].map((credits) => [
      line("line", credits),
      element("text", { x: left - 8, y: at(credits) + 4, "text-anchor": "end" }, this.#number(credits)),
    ]);
    const average = meter.pace && Number(meter.pace.credits_per_day) <= top && line("line.average", meter.pace.credits_per_day);
    const every = Math.ceil(LABEL_WIDTH / slot);
    const columns = days.map((day, index) =>
      this.#column(day, {
        x: left + index * slot,
        slot,
        floor,
        tall: floor - at(day.credits),
        isToday: day.date === today,
        isNamed: index % every === 0,
        side: slot >= LABEL_WIDTH ? "middle" : index === 0 ? "start" : index === days.length - 1 ? "end" : "middle",
        // A month is named with the first label that lies in it.
        hasMonth: days[index - every]?.date.slice(0, 7) !== day.date.slice(0, 7),
      }),
    );
    const focused = this.shadowRoot.activeElement?.dataset.date;
    this.#day ??= today;
    const walked = columns.filter((column) => column.dataset.date);
    (walked.find((column) => column.dataset.date === this.#day) ?? walked.at(-1))?.setAttribute("tabindex", 0);
    chart.replaceChildren(
      element(
        "svg",
        {
          viewBox: `0 0 ${width} ${CHART_HEIGHT}`,
          role: "group",
          "aria-label": this.#text("by_day_keys"),
          keydown: (event) => this.#walk(event),
          mouseleave: () => this.#readOut(null),
        },
        element("g", { "aria-hidden": "true" }, scale.flat()),
        columns,
        element("g", { "aria-hidden": "true" }, average),
      ),
    );
    if (focused) walked.find((column) => column.dataset.date === focused)?.focus();
    else this.#readOut(null);
    daysNote.textContent = meter.history_as_of ? this.#text("history_as_of", { time: this.#moment(meter.history_as_of) }) : "";
    chargesNote.textContent = daysNote.textContent;
    this.#renderTable(days);
  }

  #column(day, { x, slot, floor, tall, isToday, isNamed, side, hasMonth }) {
    const wide = Math.min(slot * 0.66, 30);
    const name = this.#dayName(day.date, hasMonth ? SHORT : { day: "numeric" });
    const place = { x: x + { start: 0, middle: slot / 2, end: slot }[side], "text-anchor": side };
    const reached = day.isOver && {
      "data-date": day.date,
      tabindex: -1,
      role: "img",
      "aria-label": this.#dayText(day),
      mouseenter: () => this.#readOut(day),
      blur: () => this.#readOut(null),
      focus: () => {
        this.#day = day.date;
        this.#readOut(day);
      },
    };
    return element(
      "g",
      reached || { "aria-hidden": "true" },
      element("rect.column", { x, y: 0, width: slot, height: floor, rx: 4 }),
      Number(day.credits) > 0 && element("path.value", { d: roundedBar(x + (slot - wide) / 2, floor, wide, Math.max(2, tall)) }),
      isNamed && element(isToday ? "text.now" : "text", { ...place, y: floor + 17 }, name),
    );
  }

  #walk(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity }[event.key];
    if (step === undefined) return;
    event.preventDefault();
    const columns = [...this.#nodes.chart.querySelectorAll("[data-date]")];
    const at = columns.findIndex((column) => column.dataset.date === this.#day);
    const next = columns[Math.min(columns.length - 1, Math.max(0, at + step))];
    for (const column of columns) column.setAttribute("tabindex", column === next ? 0 : -1);
    next?.focus();
  }

  #readOut(day) {
    const { readout } = this.#nodes;
    if (day) {
      const [told, ...features] = this.#dayParts(day);
      return readout.replaceChildren(element("b", {}, told), features.length ? ` · ${features.join(", ")}` : "");
    }
    const { pace } = this.#meter;
    const credits = pace && String(Math.round(Number(pace.credits_per_day) * 10) / 10);
    readout.replaceChildren(pace ? this.#text("average", { credits: this.#counted("credits", credits) }) : "");
  }

  #dayName(date, options = LONG) {
    return new Intl.DateTimeFormat(this.lang, { timeZone: "UTC", ...options }).format(new Date(date));
  }
  #dayText(day) {
    return this.#dayParts(day).join(", ");
  }

  /** A day and its credits, then its features, what cost most first. */
  #dayParts(day) {
    const names = new Map((this.#meter.features ?? []).map((feature) => [feature.id, feature.name]));
    const features = Object.entries(day.features ?? {}).sort(([, one], [, other]) => Number(other) - Number(one));
    const told = this.#text("day", { date: this.#dayName(day.date), credits: this.#counted("credits", day.credits) });
    return [told, ...features.map(([id, credits]) => `${names.get(id) ?? id} ${this.#number(credits)}`)];
  }

  #renderTable(days) {
    const heads = ["date", "used"].map((text) => element("th", { scope: "col" }, this.#text(text)));
    const lines = days
      .filter((day) => day.isOver)
      .reverse()
      .map((day) =>
        element("tr", {}, element("th", { scope: "row" }, this.#dayName(day.date)), element("td", {}, this.#number(day.credits))),
      );
    this.#nodes.table.replaceChildren(element("table", {}, element("thead", {}, element("tr", {}, heads)), element("tbody", {}, lines)));
  }

  #renderRenewal() {
    const { renewal, grants, plan, allotment } = this.#meter;
    const lines = [];
    const say = (name, value) => lines.push(element("div", {}, element("dt", {}, name), value && element("dd", {}, value)));
    if (renewal) {
      say(this.#text("renewal_on"), this.#date(renewal.at, { ...LONG, year: "numeric" }));
      say(this.#text("renewal_plan"), renewal.plan_name);
      say(this.#text("renewal_allotment"), this.#number(renewal.allotment));
      say(this.#text("renewal_lapses"), this.#number(renewal.lapses));
      if (micro(renewal.granted_left) > 0) say(this.#text("renewal_kept"), this.#number(renewal.granted_left));
    } else {
      say(this.#text("no_renewal", { plan: plan.name, allotment: this.#number(allotment) }));
    }
    for (const { granted_at: at, expires_at: ends, left, credits } of (grants ?? []).slice(0, GRANTS_SHOWN)) {
      const values = { left: this.#number(left), credits: this.#number(credits), date: ends && this.#date(ends, SHORT) };
      const text = this.#text(ends ? "grant_expires" : "grant_left", values);
      say(this.#text("grant", { date: this.#date(at, SHORT) }), element("small", {}, text));
    }
    this.#nodes.renewal.replaceChildren(...lines);
  }

  #renderFeatures() {
    const { features: list, allFeatures } = this.#nodes;
    const features = (this.#meter.features ?? []).filter((feature) => feature.uses > 0 || micro(feature.credits) !== 0);
    features.sort((one, other) => micro(other.credits) - micro(one.credits));
    allFeatures.hidden = features.length <= FEATURES_SHOWN;
    allFeatures.textContent = this.#allFeatures ? this.#text("fewer") : this.#text("all", { n: this.#number(features.length) });
    if (!features.length) return this.#showEmpty(list, this.#historyAway ? "history_away" : "nothing_used");
    const make = () =>
      element(
        "li",
        {},
        element("details", {}, element("summary.row", {}, element("span.name"), smallBar(0), element("span.amount")), element("ul.models")),
      );
    keyed(
      list,
      this.#allFeatures ? features : features.slice(0, FEATURES_SHOWN),
      ({ id }) => id,
      make,
      (node, feature) => {
        node.querySelector(".name").textContent = feature.name;
        node.querySelector(".small i").style.setProperty("--share", share(micro(feature.credits), micro(features[0].credits)));
        node.querySelector(".amount").textContent = this.#number(feature.credits);
        node.querySelector(".models").replaceChildren(...(feature.models ?? []).map((model) => this.#model(model, feature)));
      },
    );
  }

  #model({ name, quantity, unit, uses, credits }, feature) {
    const small = element("small", {}, `${this.#unit(quantity, unit)} · ${this.#counted("uses", uses)}`);
    return element("li", {}, element("div", {}, name ?? feature.name, " ", small), element("span", {}, this.#number(credits)));
  }

  #renderPast() {
    const { past: list, morePast } = this.#nodes;
    morePast.hidden = !this.#pastCursor;
    if (this.#past === null) return this.#historyAway && this.#showEmpty(list, "history_away");
    // Who subscribes at once leaves a Free behind that never was.
    const ended = this.#past.filter(({ start, end }) => start !== end);
    if (!ended.length) return this.#showEmpty(list, "no_past");
    keyed(
      list,
      ended,
      ({ number }) => `${number}/${this.lang}`,
      (period) => {
        const whole = micro(period.allotment) + micro(period.granted);
        return element(
          "li.row",
          {},
          element("span.name", {}, this.#range(period), element("small", {}, period.plan_name)),
          smallBar(share(micro(period.used), whole)),
          element("span.amount", {}, this.#text("of", { used: this.#number(period.used), total: this.#number(whole / 1e6) })),
        );
      },
    );
  }

  #renderCharges() {
    const { charges: list, more } = this.#nodes;
    more.hidden = !this.#cursor;
    if (this.#charges === null) return this.#historyAway && this.#showEmpty(list, "history_away");
    if (!this.#charges.length) return this.#showEmpty(list, "no_charges");
    keyed(
      list,
      this.#charges,
      ({ entry }) => `${entry}/${this.lang}`,
      (charge) => this.#charge(charge),
    );
  }

  #charge(charge) {
    const used = [charge.feature_name ?? charge.feature, charge.model_name ?? charge.model].filter(Boolean).join(" · ");
    const title = charge.kind === "usage" ? used : [this.#text(`kind_${charge.kind}`) ?? charge.kind, used].filter(Boolean).join(": ");
    const sign = { usage: "−", grant_expired: "−", grant: "+", void: "+" }[charge.kind];
    const credits = String(charge.credits ?? "0").replace(/^-/, "");
    const isSome = micro(credits) > 0;
    const time = charge.occurred_at ?? charge.appended_at;
    const left = charge.remaining_after && this.#text("remaining_after", { credits: this.#number(charge.remaining_after) });
    return element(
      "li.charge",
      { tabindex: -1 },
      element("time", { datetime: time }, this.#moment(time)),
      element("span.name", {}, title, charge.is_late && element("span.tag", {}, this.#text("late"))),
      element("span.amount", { "data-sign": isSome && sign }, sign && `${isSome ? sign : ""}${this.#number(credits)}`),
      element("p", {}, this.#explained(charge, credits)),
      element("span.right", {}, left),
    );
  }

  /** Why it came to this many credits. The gateway explains in English; where the words of another language are there, they are used. */
  #explained(charge, credits) {
    const { kind, rate, quantity, unit, plan_name: plan } = charge;
    const isTold = this.#text(`explain_${kind}`) !== undefined && (kind !== "usage" || rate);
    if (!isTold) return charge.explanation ?? "";
    const name = rate && rate.per !== "1" ? "explain_usage_per" : `explain_${kind}`;
    return this.#text(name, {
      credits: this.#counted("credits", credits),
      amount: quantity && this.#unit(quantity, unit),
      rate: rate && this.#counted("credits", rate.credits),
      per: rate && this.#unit(rate.per, rate.unit),
      plan: plan ?? "–",
    });
  }

  #showEmpty(list, text) {
    list.replaceChildren(element("li.empty", {}, this.#text(text)));
  }

  // What is folded away on the screen is there on paper.
  #open = () => {
    this.#opened = [...this.shadowRoot.querySelectorAll("details:not([open]):not(.tabled)")];
    for (const details of this.#opened) details.open = true;
  };

  #close = () => {
    for (const details of this.#opened) details.open = false;
  };
}

const smallBar = (part) => element("span.small", { "aria-hidden": "true" }, element("i", { "--share": part }));

/** A bar whose upper corners are round. */
function roundedBar(x, floor, width, height) {
  const radius = Math.min(4, width / 2, height);
  const [side, top] = [height - radius, width - 2 * radius];
  return `M${x} ${floor}v${-side}q0 ${-radius} ${radius} ${-radius}h${top}q${radius} 0 ${radius} ${radius}v${side}z`;
}

if (!customElements.get("usage-meter")) customElements.define("usage-meter", UsageMeter);
export { UsageMeter, eventsOf };
