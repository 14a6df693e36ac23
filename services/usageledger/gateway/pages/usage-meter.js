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
  .then((response) => response.text())
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
const CHARGES_A_PAGE = 8;
const CHART_HEIGHT = 176;
const REFETCH_EVERY_MS = 3_000;
const SILENCE_MAX_MS = 45_000; // The gateway says something every 15 s.
const BACK_OFF_MS = [500, 1_000, 2_000, 5_000, 10_000, 20_000, 30_000];
const LINE_MAX = 1_000_000;
const SVG = new Set(["svg", "path", "g", "rect", "line", "text"]);

/** Make an element. Children that are texts become text nodes: nothing that the gateway says is ever read as markup. */
function element(tag, properties = {}, ...children) {
  const [name, ...classes] = tag.split(".");
  const made = SVG.has(name) ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  if (classes.length) made.setAttribute("class", classes.join(" "));
  for (const [key, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") made.addEventListener(key, value);
    else if (key.startsWith("--")) made.style.setProperty(key, value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

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

/** The events of a stream, as {type, data, id}. Throws when nothing has been said for too long, or a line never ends. */
async function* eventsOf(body, signal) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let event = { type: "message", data: [], id: undefined };
  try {
    for (;;) {
      let timer;
      const silence = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error("silence")), SILENCE_MAX_MS); });
      const { value, done } = await Promise.race([reader.read(), silence]).finally(() => clearTimeout(timer));
      if (done || signal.aborted) return;
      // A carriage return at the end may be the first half of a line's end.
      const lines = (rest + value).split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      if (rest.length > LINE_MAX) throw new Error("a line without an end");
      for (const line of lines) {
        if (line === "") {
          if (event.data.length) yield { ...event, data: event.data.join("\n") };
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

const pause = (ms, signal) => new Promise((resolve) => {
  const wake = () => { clearTimeout(timer); window.removeEventListener("online", wake); resolve(); };
  const timer = setTimeout(wake, ms);
  window.addEventListener("online", wake, { once: true });
  signal.addEventListener("abort", wake, { once: true });
});

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
  #nodes = {};
  #observer = null;
  #opened = [];

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [LOOKS];
    this.#build(root);
  }

  get account() { return this.getAttribute("account"); }
  set account(name) { this.setAttribute("account", name); }
  get src() { return (this.getAttribute("src") ?? new URL(import.meta.url).origin).replace(/\/+$/, ""); }
  set src(origin) { this.setAttribute("src", origin); }
  get lang() { return this.getAttribute("lang") ?? this.closest("[lang]")?.getAttribute("lang") ?? navigator.language; }
  set lang(lang) { this.setAttribute("lang", lang); }
  get token() { return this.#token; }
  set token(token) { this.#token = token; this.#restart(); }
  get tokenProvider() { return this.#provider; }
  set tokenProvider(provider) { this.#provider = provider; this.#restart(); }
  get texts() { return this.#texts; }
  set texts(texts) { this.#texts = texts ?? {}; this.#renderAll(); }

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
        if (error instanceof Refused && error.status < 500 && error.status !== 429) return;
        await pause(BACK_OFF_MS[Math.min(failures, BACK_OFF_MS.length - 1)], signal);
      }
    }
  }

  /** The meter with its features and days, the newest charges, the past periods. Charges that were shown stay. */
  async #fetchHistory(signal) {
    this.#fetchedAt = performance.now();
    const path = `/v1/accounts/${encodeURIComponent(this.account)}`;
    const asked = this.hasAttribute("compact") ? [] : [`${path}/charges?limit=${CHARGES_A_PAGE}`, `${path}/periods`];
    const rest = Promise.allSettled(asked.map((what) => this.#json(what, signal)));
    const meter = await this.#json(`${path}/meter`, signal);
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
    // While the history is behind, it is asked again: the figures are right before it is.
    if (meter.history_as_of !== null && meter.history_as_of !== undefined) this.#refetch(signal);
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
    const wait = Math.max(300, this.#fetchedAt + REFETCH_EVERY_MS - performance.now());
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
        const response = await this.#ask(`/v1/accounts/${encodeURIComponent(this.account)}/stream`, signal, headers);
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
    const byFeature = figures.by_feature;
    const features = byFeature && before.features?.map((feature) => ({ ...feature, credits: byFeature[feature.id] ?? feature.credits }));
    this.#take({ ...before, ...figures, features: features ?? before.features });
    if (hasMoved || before.plan?.id !== figures.plan?.id || before.blocked !== figures.blocked) this.#refetch(signal);
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

  async #ask(path, signal, headers = {}) {
    for (let attempt = 0; ; attempt += 1) {
      const token = await this.#currentToken(attempt > 0);
      signal.throwIfAborted();
      const sent = { ...headers, Authorization: `Bearer ${token}` };
      const response = await fetch(this.src + path, { headers: sent, signal, credentials: "omit", cache: "no-store" });
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
      this.#tokenAsked ??= Promise.resolve(this.#provider(this.account)).finally(() => { this.#tokenAsked = null; });
      this.#token = await this.#tokenAsked;
    }
    return this.#token;
  }

  async #showMore() {
    const signal = this.#run?.signal;
    const button = this.#nodes.more;
    button.disabled = true;
    try {
      const path = `/v1/accounts/${encodeURIComponent(this.account)}/charges?limit=${CHARGES_A_PAGE}&cursor=${encodeURIComponent(this.#cursor)}`;
      const page = await this.#json(path, signal);
      const first = this.#charges.length;
      this.#charges = [...this.#charges, ...page.items];
      this.#cursor = page.next_cursor;
      this.#renderCharges();
      this.#nodes.charges.children[first]?.focus();
    } catch (error) {
      if (!signal?.aborted) this.#setStatus("lost");
    } finally {
      button.disabled = false;
    }
  }

  async #showMorePast() {
    try {
      const path = `/v1/accounts/${encodeURIComponent(this.account)}/periods?cursor=${encodeURIComponent(this.#pastCursor)}`;
      const page = await this.#json(path, this.#run.signal);
      this.#past = [...this.#past, ...page.items];
      this.#pastCursor = page.next_cursor;
      this.#renderPast();
    } catch {
      this.#setStatus("lost");
    }
  }

  // ——— Words, numbers, times ———

  /** A text by its name, with what it speaks of filled in; one that counts takes the form that the language has for `n`. */
  #text(name, values = {}) {
    const lang = this.lang;
    const found = this.#texts[name] ?? TEXTS[lang]?.[name] ?? TEXTS[lang.split("-")[0]]?.[name] ?? TEXTS.en[name];
    if (found === undefined) return undefined;
    const form = typeof found === "string" ? found : (found[new Intl.PluralRules(lang).select(Number(values.count ?? values.n))] ?? found.other);
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
    return new Intl.NumberFormat(this.lang, { maximumFractionDigits: 6, ...options }).format(decimal);
  }

  #counted(name, decimal) {
    return this.#text(name, { n: this.#number(decimal), count: decimal });
  }

  #unit(quantity, unit) {
    return unit ? this.#counted(`unit_${unit}`, quantity) ?? `${this.#number(quantity)} ${unit}` : this.#number(quantity);
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

  #date(time) { return this.#times({ day: "numeric", month: "long" }).format(new Date(time)); }
  #moment(time) { return this.#times({ day: "numeric", month: "short", hour: "numeric", minute: "2-digit" }).format(new Date(time)); }
  #localDate(time) { return new Intl.DateTimeFormat("en-CA", { timeZone: this.#times().resolvedOptions().timeZone }).format(time); }

  /** The ledger's time: while history is brought in, it is not the browser's. */
  #now() { return Date.parse(this.#meter.at) + performance.now() - this.#receivedAt; }

  /** "in 8 days", "tomorrow", "today", by the calendar of the account's time zone. */
  #until(time) {
    const days = (Date.parse(this.#localDate(new Date(time))) - Date.parse(this.#localDate(new Date(this.#now())))) / 86_400_000;
    return new Intl.RelativeTimeFormat(this.lang, { numeric: "auto" }).format(Math.max(0, Math.round(days)), "day");
  }

  // ——— What is shown ———

  #build(root) {
    const nodes = this.#nodes;
    const make = (name, tag, properties, ...children) => (nodes[name] = element(tag, properties, ...children));
    const rows = (count, made) => Array.from({ length: count }, made);
    const waiting = (tag) => () => element(tag, {}, element("span.wait", {}, "…"));
    const card = (name, tag, ...children) => element(tag, { "aria-labelledby": name, part: "card" }, ...children);

    const overview = card("title", "section.card",
      element("div.head", {}, element("div", {}, make("title", "h2", { id: "title" }), make("plan", "span.plan.wait", {}, "Plan")), make("status", "span.note.status", { "data-status": "connecting" })),
      make("period", "p.period", {}, make("periodText", "span.wait", {}, "1 January – 1 February")),
      element("p.figure", {}, make("available", "strong.wait", {}, "000"), make("what", "span.what.wait", {}, "credits available"), make("total", "span.total.wait", {}, "000 credits")),
      make("bar", "div.bar", { role: "meter", "aria-valuemin": 0, "aria-valuemax": 0, "aria-valuenow": 0, part: "bar" }, make("barUsed", "i.used", { "data-none": true }), make("barHeld", "i.held", { "data-none": true })),
      make("marks", "div.marks", { "aria-hidden": "true" }),
      element("dl.legend", {}, ...["used", "held", "left"].map((name) => element(`div.${name}`, {}, make(`${name}Name`, "dt"), make(`${name}Value`, "dd.wait", {}, "000")))),
      make("notice", "div.notice", { part: "notice" }, element("svg", { viewBox: "0 0 20 20", "aria-hidden": "true" }, make("icon", "path", { d: ICONS.fresh })), element("div", {}, make("noticeTitle", "b.wait", {}, "What is to be expected")), make("noticeText", "p", {}, element("span.wait", {}, "What else there is to say about it")), make("action", "div.action", { hidden: true })),
    );
    const days = card("daysTitle", "section.card",
      element("div.head", {}, make("daysTitle", "h3", { id: "daysTitle" }), make("daysNote", "span.note")),
      make("readout", "p.readout"),
      make("chart", "div.chart"),
      element("details.tabled", {}, make("tableTitle", "summary"), make("table", "div.scroll", { tabindex: 0, role: "region", "aria-labelledby": "daysTitle" })),
    );
    const renewal = card("renewalTitle", "section.card", element("div.head", {}, make("renewalTitle", "h3", { id: "renewalTitle" })), make("renewal", "dl.facts", {}, rows(5, () => element("div", {}, element("dt.wait", {}, "Something"), element("dd.wait", {}, "000")))));
    const features = card("featuresTitle", "section.card",
      element("div.head", {}, make("featuresTitle", "h3", { id: "featuresTitle" })),
      make("features", "ul.rows.features", {}, rows(FEATURES_SHOWN, waiting("li.row"))),
      make("allFeatures", "button.plain", { type: "button", hidden: true, click: () => { this.#allFeatures = !this.#allFeatures; this.#renderFeatures(); } }),
    );
    const past = card("pastTitle", "section.card", element("div.head", {}, make("pastTitle", "h3", { id: "pastTitle" })), make("past", "ul.rows.past", {}, rows(PAST_SHOWN, waiting("li.row"))), make("morePast", "button.plain", { type: "button", hidden: true, click: () => this.#showMorePast() }));
    const charges = card("chargesTitle", "section.card.activity",
      element("div.head", {}, make("chargesTitle", "h3", { id: "chargesTitle" }), make("chargesNote", "span.note")),
      make("charges", "ul.rows.charges", {}, rows(4, waiting("li.charge"))),
      make("more", "button.plain", { type: "button", hidden: true, click: () => this.#showMore() }),
    );
    make("history", "div.stack", {}, element("div.columns.first", {}, days, renewal), element("div.columns", {}, features, past), charges);
    root.append(make("root", "div.root", { "data-state": "loading" }, overview, nodes.history, make("said", "p.said", { role: "status" })));
  }

  #renderAll() {
    if (!this.isConnected || !this.#hasWords) return;
    const nodes = this.#nodes;
    nodes.root.lang = this.lang;
    nodes.history.hidden = this.hasAttribute("compact");
    for (const [node, name] of [["title", "title"], ["daysTitle", "by_day"], ["tableTitle", "as_table"], ["featuresTitle", "by_feature"], ["renewalTitle", "renewal"], ["pastTitle", "past"], ["chargesTitle", "charges"], ["more", "more"], ["morePast", "more"], ["usedName", "used"], ["heldName", "held"], ["leftName", "left"]]) {
      nodes[node].textContent = this.#text(name);
    }
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
    if (this.#problem instanceof Refused && this.#problem.status < 500 && this.#problem.status !== 429) return "refused";
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
    const old = this.#meter?.as_of ?? (this.#status === "lost" && this.#meter ? new Date(this.#now0()).toISOString() : null);
    const asOf = old === null || old === undefined ? null : this.#text("as_of", { time: this.#times({ hour: "numeric", minute: "2-digit" }).format(new Date(old)) });
    status.dataset.status = this.#status === "live" && asOf ? "old" : this.#status;
    const told = this.#status === "live" && asOf ? [asOf] : [this.#text(this.#status), this.#status === "lost" ? asOf : null];
    status.textContent = told.filter(Boolean).join(" · ");
  }

  /** When the figures that are shown came. */
  #now0() { return Date.parse(this.#meter.at); }

  #renderWaiting() {
    if (this.#problem === null) return;
    const isRefused = this.#state === "refused";
    this.#nodes.noticeTitle.classList.remove("wait");
    this.#nodes.noticeTitle.textContent = this.#text(isRefused ? "refused" : "unreachable");
    this.#nodes.noticeText.textContent = isRefused ? this.#problem.message : this.#text("unreachable_more");
    this.#nodes.icon.setAttribute("d", ICONS.near);
  }

  #renderFigures() {
    const [nodes, meter] = [this.#nodes, this.#meter];
    const used = micro(meter.used);
    const held = micro(meter.held ?? "0");
    const whole = used + micro(meter.remaining);
    const free = micro(meter.available);
    nodes.plan.textContent = meter.plan.name;
    nodes.periodText.textContent = meter.period.end === null || meter.period.end === undefined
      ? this.#text("once")
      : this.#text("renews", { range: this.#times({ day: "numeric", month: "short" }).formatRange(new Date(meter.period.start), new Date(meter.period.end)), when: this.#until(meter.period.end) });
    this.#count(nodes.available, Math.max(0, free), "floor");
    nodes.what.textContent = micro(meter.remaining) < 0 ? this.#text("over", { credits: this.#number(-micro(meter.remaining) / 1e6) }) : this.#text("available");
    const named = { allotment: this.#number(meter.allotment), plan: meter.plan.name, granted: this.#number(meter.granted) };
    nodes.total.textContent = this.#text(micro(meter.granted) > 0 ? "total_granted" : "total", named);
    this.#count(nodes.usedValue, used, "ceil");
    this.#count(nodes.heldValue, held, "ceil");
    this.#count(nodes.leftValue, Math.max(0, free), "floor");
    for (const [node, part] of [[nodes.barUsed, whole > 0 ? used : 1], [nodes.barHeld, Math.min(held, Math.max(0, whole - used))]]) {
      node.style.setProperty("--share", share(part, whole > 0 ? whole : 1));
      node.toggleAttribute("data-none", part <= 0);
    }
    nodes.bar.setAttribute("aria-valuemax", Math.max(whole, used) / 1e6);
    nodes.bar.setAttribute("aria-valuenow", used / 1e6);
    const spoken = { used: this.#number(meter.used), total: this.#number(whole / 1e6), held: this.#number(meter.held ?? "0"), left: this.#number(Math.max(0, free) / 1e6) };
    nodes.bar.setAttribute("aria-valuetext", this.#text("meter_text", spoken));
    keyed(nodes.marks, meter.thresholds ?? [], (threshold) => threshold, (threshold) => element("i", { "--share": Number(threshold), "data-name": this.#number(threshold, { style: "percent" }) }));
  }

  /** Move a figure to its new value, in half a second, or at once where somebody has asked for calm. */
  #count(node, value, roundingMode) {
    const fraction = value % 1e6 === 0 ? 0 : 2;
    const write = (at) => { node.textContent = this.#number(at / 1e6, { maximumFractionDigits: fraction, roundingMode }); };
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
    const [nodes, meter] = [this.#nodes, this.#meter];
    const [title, text, offer] = this.#noticed();
    nodes.icon.setAttribute("d", ICONS[this.#state]);
    nodes.noticeTitle.classList.remove("wait");
    nodes.noticeTitle.textContent = title;
    nodes.noticeText.textContent = text;
    nodes.action.hidden = !offer;
    const url = this.getAttribute("upgrade-url");
    const key = offer ? JSON.stringify([offer, url, this.lang, meter.account]) : "";
    if (nodes.action.dataset.offer === key) return;
    nodes.action.dataset.offer = key;
    if (!offer) return nodes.action.replaceChildren();
    const href = url?.replaceAll("{plan}", encodeURIComponent(offer.plan)).replaceAll("{account}", encodeURIComponent(meter.account));
    const take = (event) => { if (!this.#offerTaken(offer)) event.preventDefault(); };
    const made = href === undefined ? element("button.button", { type: "button", part: "upgrade", click: take }) : element("a.button", { href, part: "upgrade", click: take });
    made.append(this.#text("upgrade", { name: offer.name }));
    nodes.action.replaceChildren(made);
  }

  /** What there is to say now: a title, a sentence or two, and the offer that would help. */
  #noticed() {
    const meter = this.#meter;
    const { blocked } = meter;
    if (this.#state === "refused") return [this.#text("refused"), this.#problem.message, null];
    if (this.#state === "suspended") {
      return [this.#text("suspended"), this.#text(`suspended_${blocked.suspension}`) ?? this.#text("suspended_more"), null];
    }
    const offer = blocked ? blocked.upgrade ?? null : meter.upgrade ?? null;
    const offered = offer && this.#text("offer", { name: offer.name, allotment: this.#number(offer.allotment), price: this.#price(offer.price_cents) });
    if (this.#state === "blocked") {
      const resets = blocked.resets_at ?? meter.period.end;
      const told = [
        blocked.since ? this.#text("blocked_since", { time: this.#moment(blocked.since) }) : this.#text("blocked_more"),
        resets ? this.#text("resets", { date: this.#date(resets) }) : null,
        offered,
      ];
      return [this.#text(`blocked_${blocked.reason}`) ?? this.#text("blocked"), told.filter(Boolean).join(" "), offer];
    }
    const [pace, more] = this.#paced();
    if (this.#state !== "near") return [pace, more, null];
    // Rounded down: what is not yet all is never said to be all.
    const used = this.#number(meter.share_used, { style: "percent", maximumFractionDigits: 0, roundingMode: "floor" });
    return [this.#text("near", { share: used }), [meter.pace ? `${pace}.` : null, offered].filter(Boolean).join(" "), offer];
  }

  #paced() {
    const { pace, period } = this.#meter;
    if (!pace) return [this.#text("no_pace"), this.#text("no_pace_more")];
    const average = this.#text("pace_more", { credits: this.#number(pace.credits_per_day, { maximumFractionDigits: 1 }) });
    const more = [average, period.end && this.#text("resets", { date: this.#date(period.end) })].filter(Boolean).join(" ");
    if (pace.used_up_at) return [this.#text("pace_used_up", { date: this.#date(pace.used_up_at) }), more];
    if (!period.end || pace.at_period_end === null) return [this.#text("no_pace"), more];
    const left = this.#number(pace.at_period_end, { maximumFractionDigits: 0, roundingMode: "floor" });
    return [this.#text("pace_left", { credits: left, date: this.#date(period.end) }), more];
  }

  /** Tell the page that an offer was taken. False: the page sees to it, and the link is not followed. */
  #offerTaken(offer) {
    const detail = { account: this.#meter.account, plan: offer.plan, name: offer.name, price_cents: offer.price_cents };
    return this.dispatchEvent(new CustomEvent("usage-meter:upgrade", { detail, bubbles: true, composed: true, cancelable: true }));
  }

  /** Say what has changed to those who do not see it: a threshold, a block, the end of one. Not every tick, and nothing at the start. */
  #announce() {
    const before = this.#announced;
    const now = this.#state;
    this.#announced = now;
    if (before === null || before === now || now === "refused") return;
    const isStopped = ["blocked", "suspended"];
    const credits = this.#number(this.#meter.available);
    const used = this.#number(this.#meter.share_used, { style: "percent", maximumFractionDigits: 0, roundingMode: "floor" });
    if (isStopped.includes(now)) this.#nodes.said.textContent = this.#text(`said_${now}`);
    else if (isStopped.includes(before)) this.#nodes.said.textContent = this.#text("said_freed", { credits });
    else if (now === "near") this.#nodes.said.textContent = this.#text("said_near", { share: used });
  }

  /** Every day of the period: those that have been, with their credits, and those to come. */
  #days() {
    const { days, period } = this.#meter;
    const known = (days ?? []).map((day) => ({ ...day, isOver: true }));
    const last = period.end ? this.#localDate(new Date(Date.parse(period.end) - 1)) : null;
    let next = known.at(-1)?.date ?? this.#localDate(new Date(this.#now()));
    while (last && known.length < 62 && next < last) {
      next = new Date(Date.parse(next) + 86_400_000).toISOString().slice(0, 10);
      known.push({ date: next, credits: "0", features: {}, isOver: false });
    }
    return known;
  }

  #drawChart() {
    const [nodes, meter] = [this.#nodes, this.#meter];
    const width = nodes.chart.clientWidth;
    if (!meter || !width) return;
    const days = this.#days();
    const today = this.#localDate(new Date(this.#now()));
    const most = Math.max(0, ...days.map((day) => Number(day.credits))) || 10;
    const power = 10 ** Math.floor(Math.log10(most));
    const top = [1, 2, 4, 5, 10].map((step) => step * power).find((step) => step >= most);
    const [left, floor] = [10 + 7 * this.#number(top).length, CHART_HEIGHT - 22];
    const slot = (width - left) / days.length;
    const height = (credits) => (Number(credits) / top) * (floor - 8);
    const grid = [0, 0.5, 1].map((part) => element("g", { "aria-hidden": "true" },
      element("line", { x1: left, x2: width, y1: floor - height(top * part), y2: floor - height(top * part) }),
      element("text", { x: left - 8, y: floor - height(top * part) + 4, "text-anchor": "end" }, this.#number(top * part))));
    const average = meter.pace && Number(meter.pace.credits_per_day) <= top ? floor - height(meter.pace.credits_per_day) : null;
    const every = Math.ceil(46 / slot);
    const focused = this.shadowRoot.activeElement?.dataset?.date;
    this.#day ??= today;
    const columns = days.map((day, index) => this.#column(day, { x: left + index * slot, slot, floor, tall: height(day.credits), isToday: day.date === today, isNamed: index % every === 0 && index + 1 < days.length + every / 2, isFirst: index === 0 || day.date.endsWith("-01") }));
    const shown = columns.find((column) => column.dataset.date === this.#day) ?? columns.findLast((column) => column.hasAttribute("tabindex"));
    shown?.setAttribute("tabindex", "0");
    const svg = element("svg", { viewBox: `0 0 ${width} ${CHART_HEIGHT}`, role: "group", "aria-label": this.#text("by_day_keys"), keydown: (event) => this.#walk(event), mouseleave: () => this.#readOut(null) },
      grid, columns, average !== null && element("line.average", { x1: left, x2: width, y1: average, y2: average, "aria-hidden": "true" }));
    nodes.chart.replaceChildren(svg);
    if (focused) columns.find((column) => column.dataset.date === focused)?.focus();
    else this.#readOut(null);
    nodes.daysNote.textContent = meter.history_as_of ? this.#text("history_as_of", { time: this.#moment(meter.history_as_of) }) : "";
    this.#renderTable(days);
  }

  #column(day, { x, slot, floor, tall, isToday, isNamed, isFirst }) {
    const wide = Math.min(slot * 0.66, 30);
    const drawn = Number(day.credits) > 0 ? Math.max(2, tall) : 0;
    const name = this.#dayName(day.date, isFirst ? { day: "numeric", month: "short" } : { day: "numeric" });
    return element("g", day.isOver ? { "data-date": day.date, tabindex: -1, role: "img", "aria-label": this.#dayText(day), mouseenter: () => this.#readOut(day), focus: () => { this.#day = day.date; this.#readOut(day); }, blur: () => this.#readOut(null) } : { "aria-hidden": "true" },
      element("rect.column", { x, y: 0, width: slot, height: floor, rx: 4 }),
      drawn > 0 && element("path.value", { d: roundedBar(x + (slot - wide) / 2, floor, wide, drawn) }),
      isNamed && element(isToday ? "text.now" : "text", { x: x + slot / 2, y: floor + 17, "text-anchor": isFirst && x < 60 ? "start" : "middle", dx: isFirst && x < 60 ? -slot / 2 : 0 }, name));
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
    const { pace } = this.#meter;
    const average = pace ? this.#text("average", { credits: this.#counted("credits", String(Math.round(Number(pace.credits_per_day) * 10) / 10)) }) : "";
    if (!day) return this.#nodes.readout.replaceChildren(average);
    const features = this.#featuresOf(day).map(([name, credits]) => `${name} ${this.#number(credits)}`).join(", ");
    this.#nodes.readout.replaceChildren(element("b", {}, this.#dayText(day, false)), features && ` · ${features}`);
  }

  #dayName(date, options) { return new Intl.DateTimeFormat(this.lang, { timeZone: "UTC", ...options }).format(new Date(`${date}T00:00:00Z`)); }

  #dayText(day, isWhole = true) {
    const told = this.#text("day", { date: this.#dayName(day.date, { day: "numeric", month: "long" }), credits: this.#counted("credits", day.credits) });
    const features = isWhole ? this.#featuresOf(day).map(([name, credits]) => `${name} ${this.#number(credits)}`) : [];
    return [told, ...features].join(", ");
  }

  #featuresOf(day) {
    const names = new Map((this.#meter.features ?? []).map((feature) => [feature.id, feature.name]));
    const found = Object.entries(day.features ?? {}).map(([id, credits]) => [names.get(id) ?? id, credits]);
    return found.sort(([, one], [, other]) => Number(other) - Number(one));
  }

  #renderTable(days) {
    const head = element("thead", {}, element("tr", {}, element("th", { scope: "col" }, this.#text("date")), element("th", { scope: "col" }, this.#text("used"))));
    const lines = days.filter((day) => day.isOver).reverse().map((day) => element("tr", {}, element("th", { scope: "row" }, this.#dayName(day.date, { day: "numeric", month: "long" })), element("td", {}, this.#number(day.credits))));
    this.#nodes.table.replaceChildren(element("table", {}, head, element("tbody", {}, lines)));
  }

  #renderRenewal() {
    const meter = this.#meter;
    const { renewal } = meter;
    const facts = !renewal ? [] : [
      [this.#text("renewal_on"), this.#times({ day: "numeric", month: "long", year: "numeric" }).format(new Date(renewal.at))],
      [this.#text("renewal_plan"), renewal.plan_name],
      [this.#text("renewal_allotment"), this.#number(renewal.allotment)],
      [this.#text("renewal_lapses"), this.#number(renewal.lapses)],
    ];
    if (renewal && micro(renewal.granted_left ?? "0") > 0) facts.push([this.#text("renewal_kept"), this.#number(renewal.granted_left)]);
    const grants = (meter.grants ?? []).slice(0, 3).map((grant) => {
      const values = { left: this.#number(grant.left), credits: this.#number(grant.credits), date: grant.expires_at && this.#date(grant.expires_at) };
      return [this.#text("grant", { date: this.#times({ day: "numeric", month: "short" }).format(new Date(grant.granted_at)) }), element("small", {}, this.#text(grant.expires_at ? "grant_expires" : "grant_left", values))];
    });
    const lines = [...facts, ...grants].map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, value)));
    const told = !renewal && element("div", {}, element("dt", {}, this.#text("no_renewal", { plan: meter.plan.name, allotment: this.#number(meter.allotment) })));
    this.#nodes.renewal.replaceChildren(...[told, ...lines].filter(Boolean));
  }

  #renderFeatures() {
    const nodes = this.#nodes;
    const features = [...(this.#meter.features ?? [])].filter((feature) => feature.uses > 0 || micro(feature.credits) !== 0);
    features.sort((one, other) => micro(other.credits) - micro(one.credits));
    const most = Math.max(0, ...features.map((feature) => micro(feature.credits)));
    const shown = this.#allFeatures ? features : features.slice(0, FEATURES_SHOWN);
    nodes.allFeatures.hidden = features.length <= FEATURES_SHOWN;
    nodes.allFeatures.textContent = this.#allFeatures ? this.#text("fewer") : this.#text("all", { n: this.#number(features.length) });
    if (!features.length) return this.#showEmpty(nodes.features, this.#historyAway || !this.#meter.features ? "history_away" : "nothing_used");
    const make = () => element("li", {}, element("details", {}, element("summary.row", {}, element("span.name"), element("span.small", { "aria-hidden": "true" }, element("i")), element("span.amount")), element("ul.models")));
    keyed(nodes.features, shown, (feature) => feature.id, make, (node, feature) => {
      node.querySelector(".name").textContent = feature.name;
      node.querySelector(".small i").style.setProperty("--share", share(micro(feature.credits), most));
      node.querySelector(".amount").textContent = this.#number(feature.credits);
      node.querySelector(".models").replaceChildren(...(feature.models ?? []).map((model) => element("li", {},
        element("div", {}, model.name ?? feature.name, " ", element("small", {}, `${this.#unit(model.quantity, model.unit)} · ${this.#counted("uses", model.uses)}`)),
        element("span", {}, this.#number(model.credits)))));
    });
  }

  #renderPast() {
    const nodes = this.#nodes;
    nodes.morePast.hidden = !this.#pastCursor;
    if (this.#past === null) return this.#historyAway && this.#showEmpty(nodes.past, "history_away");
    if (!this.#past.length) return this.#showEmpty(nodes.past, "no_past");
    const range = this.#times({ day: "numeric", month: "short" });
    const make = (period) => {
      const whole = micro(period.allotment) + micro(period.granted ?? "0");
      return element("li.row", {},
        element("span.name", {}, period.end ? range.formatRange(new Date(period.start), new Date(period.end)) : range.format(new Date(period.start)), element("small", {}, period.plan_name)),
        element("span.small", { "aria-hidden": "true" }, element("i", { "--share": share(micro(period.used), whole) })),
        element("span.amount", {}, this.#text("of", { used: this.#number(period.used), total: this.#number(whole / 1e6) })));
    };
    keyed(nodes.past, this.#past, (period) => `${period.number}/${this.lang}`, make);
  }

  #renderCharges() {
    const nodes = this.#nodes;
    nodes.more.hidden = !this.#cursor;
    nodes.chargesNote.textContent = nodes.daysNote.textContent;
    if (this.#charges === null) return this.#historyAway && this.#showEmpty(nodes.charges, "history_away");
    if (!this.#charges.length) return this.#showEmpty(nodes.charges, "no_charges");
    keyed(nodes.charges, this.#charges, (charge) => `${charge.entry}/${this.lang}`, (charge) => this.#charge(charge));
  }

  #charge(charge) {
    const used = [charge.feature_name ?? charge.feature, charge.model_name ?? charge.model].filter(Boolean).join(" · ");
    const title = charge.kind === "usage" ? used : [this.#text(`kind_${charge.kind}`) ?? charge.kind, used].filter(Boolean).join(": ");
    const sign = { usage: "−", grant_expired: "−", grant: "+", void: "+" }[charge.kind];
    const credits = String(charge.credits ?? "0").replace(/^-/, "");
    const amount = sign && micro(credits) ? `${sign}${this.#number(credits)}` : sign ? "0" : "";
    const time = charge.occurred_at ?? charge.appended_at;
    return element("li.charge", { tabindex: -1 },
      element("time", { datetime: time }, this.#moment(time)),
      element("span.name", {}, title, charge.is_late && element("span.tag", {}, this.#text("late"))),
      element("span.amount", { "data-sign": micro(credits) ? sign : null }, amount),
      element("p", {}, this.#explained(charge, credits)),
      element("span.right", {}, charge.remaining_after ? this.#text("remaining_after", { credits: this.#number(charge.remaining_after) }) : ""));
  }

  /** Why it came to this many credits. The gateway explains in English; where the words of another language are there, they are used. */
  #explained(charge, credits) {
    const lang = this.lang.split("-")[0];
    const own = this.#texts[`explain_${charge.kind}`] ?? TEXTS[this.lang]?.[`explain_${charge.kind}`] ?? TEXTS[lang]?.[`explain_${charge.kind}`];
    if (own === undefined || (charge.kind === "usage" && !charge.rate)) return charge.explanation ?? "";
    const values = { credits: this.#counted("credits", credits), amount: charge.quantity && this.#unit(charge.quantity, charge.unit), rate: charge.rate && this.#counted("credits", charge.rate.credits) };
    return this.#text(`explain_${charge.kind}`, values);
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

/** A bar whose upper corners are round. */
function roundedBar(x, floor, width, height) {
  const radius = Math.min(4, width / 2, height);
  return `M${x} ${floor}v${radius - height}q0 ${-radius} ${radius} ${-radius}h${width - 2 * radius}q${radius} 0 ${radius} ${radius}v${height - radius}z`;
}

if (!customElements.get("usage-meter")) customElements.define("usage-meter", UsageMeter);
export { UsageMeter };
