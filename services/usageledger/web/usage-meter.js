/**
 * <usage-meter>: what an account has used of its AI credits, live. No build step, no framework.
 *
 *   <script type="module" src="https://GATEWAY/usage-meter.js"></script>
 *   <usage-meter account="acct_4821" upgrade-url="/billing?plan={plan}"></usage-meter>
 *   <script type="module">
 *     const meter = document.querySelector("usage-meter");
 *     meter.tokenProvider = async () => (await fetch("/meter-token")).text();
 *   </script>
 *
 * Attributes:
 * - `account`;
 * - `src`: the gateway's origin, which is the script's own by default;
 * - `token`: an account token;
 * - `lang`: en, de, or a language that `UsageMeter.addTexts` has added;
 * - `theme`: light or dark, the system's by default;
 * - `compact`: the first card alone;
 * - `upgrade-url`: where the offer leads, with {plan} and {account} filled in;
 * - `currency` of the prices, USD by default.
 *
 * Properties: `tokenProvider`, an async function that returns a token. It is called at the start
 * and whenever a token has ended. `texts` are the words of this one meter.
 * Event: `usage-meter:upgrade`, cancelable, when somebody accepts an offer. Its detail has account,
 * plan, name and price_cents.
 * Looks: `--usage-meter-accent`, `-text`, `-muted`, `-surface`, `-border`, `-track`, `-warning`,
 * `-danger`, `-radius`, `-font`.
 *
 * The gateway's answers enter the page as text, never as markup. A token travels in a header, never
 * in a URL.
 */

import { Account } from "./usage-meter-account.js";
import { element } from "./usage-meter-elements.js";
import { Format } from "./usage-meter-format.js";
import { History } from "./usage-meter-history.js";
import { announcementOf, Overview } from "./usage-meter-overview.js";
import { Connection, TokenSource } from "./usage-meter-stream.js";
import { addTexts, areTextsHere, fetchTexts } from "./usage-meter-texts.js";
// Other modules import these two. Named here, they are fetched together with the rest.
import "./usage-meter-chart.js";
import "./usage-meter.en.js";

/** @typedef {import("./usage-meter-texts.js").Texts} Texts */
/** @typedef {import("./usage-meter-account.js").State} State */

const LOOKS_FILES = ["usage-meter.css", "usage-meter-history.css"];
const PLACEHOLDER_LOOKS = `
  :host { display: block; min-height: 680px }
  :host([compact]) { min-height: 260px }
  .root { visibility: hidden }
`;
const PLAIN_LOOKS = ":host { display: block }";
/** @type {readonly ("token" | "tokenProvider" | "texts")[]} */
const EARLY_PROPERTIES = ["token", "tokenProvider", "texts"];
const RESTARTING = new Set(["account", "src", "compact"]);

// The looks are files beside this one: a page whose policy forbids styles in markup lets a script
// adopt them. Until they are here, the element takes about as much room as it will.
const looks = new CSSStyleSheet();
looks.replaceSync(PLACEHOLDER_LOOKS);
Promise.all(LOOKS_FILES.map(fetchLooks)).then(
  (files) => looks.replace(files.join("\n")),
  () => looks.replace(PLAIN_LOOKS),
);

/** @param {string} file */
async function fetchLooks(file) {
  const response = await fetch(new URL(file, import.meta.url), { credentials: "omit" });
  if (!response.ok) throw new Error(`${file}: ${response.status}`);
  return response.text();
}

export class UsageMeter extends HTMLElement {
  static observedAttributes = [
    "account",
    "src",
    "token",
    "lang",
    "compact",
    "upgrade-url",
    "currency",
  ];

  /**
   * Add the words of a language, or replace some of them. English stands in for what is missing.
   * @param {string} lang
   * @param {Texts} texts
   */
  static addTexts(lang, texts) {
    addTexts(lang, texts);
    for (const meter of UsageMeter.#connected) meter.#render();
  }

  /** @type {Set<UsageMeter>} */
  static #connected = new Set();

  #tokens = new TokenSource();
  /** @type {Texts} */
  #texts = {};
  /**
   * Ends the requests and the stream of the account that is shown.
   * @type {AbortController | null}
   */
  #run = null;
  /** @type {Account | null} */
  #account = null;
  /** @type {State | null} */
  #announcedState = null;
  #format = new Format({ lang: "en" });
  /** Nodes with one text each, and the text's name. @type {[HTMLElement, string][]} */
  #labels = [];
  #overview;
  #history;
  #announcement = element("p.said", { role: "status" });
  #root;
  /** @type {ResizeObserver | null} */
  #observer = null;
  /** What was opened for printing. @type {HTMLDetailsElement[]} */
  #opened = [];

  constructor() {
    super();
    const label = (/** @type {HTMLElement} */ node, /** @type {string} */ name) => {
      this.#labels.push([node, name]);
    };
    this.#overview = new Overview(label, (offer, event) => this.#upgrade(offer, event));
    this.#history = new History(label, this.#format);
    this.#root = element(
      "div.root",
      { "data-state": "loading" },
      this.#overview.card,
      this.#history.cards,
      this.#announcement,
    );
    const shadow = this.attachShadow({ mode: "open" });
    shadow.adoptedStyleSheets = [looks];
    shadow.append(this.#root);
  }

  get account() {
    return this.getAttribute("account");
  }
  set account(name) {
    this.setAttribute("account", String(name));
  }
  get src() {
    const origin = this.getAttribute("src") ?? new URL(import.meta.url).origin;
    return origin.replace(/\/+$/, "");
  }
  set src(origin) {
    this.setAttribute("src", origin);
  }
  get lang() {
    const lang = this.getAttribute("lang") ?? this.closest("[lang]")?.getAttribute("lang");
    return lang ?? navigator.language;
  }
  set lang(lang) {
    this.setAttribute("lang", lang);
  }
  get token() {
    return this.#tokens.token;
  }
  set token(token) {
    this.#tokens.token = token;
    this.#restart();
  }
  get tokenProvider() {
    return this.#tokens.provider;
  }
  set tokenProvider(provider) {
    this.#tokens.provider = provider;
    this.#restart();
  }
  get texts() {
    return this.#texts;
  }
  set texts(texts) {
    this.#texts = texts ?? {};
    this.#render();
  }

  connectedCallback() {
    for (const name of EARLY_PROPERTIES) adoptEarlyProperty(this, name);
    UsageMeter.#connected.add(this);
    this.#observer = new ResizeObserver(() => this.#history.drawChart());
    this.#observer.observe(this.#history.chart.chart);
    window.addEventListener("beforeprint", this.#openDetails);
    window.addEventListener("afterprint", this.#closeDetails);
    this.#fetchTexts();
    this.#restart();
  }

  disconnectedCallback() {
    UsageMeter.#connected.delete(this);
    this.#observer?.disconnect();
    window.removeEventListener("beforeprint", this.#openDetails);
    window.removeEventListener("afterprint", this.#closeDetails);
    this.#run?.abort();
    this.#run = null;
  }

  /**
   * @param {string} name
   * @param {string | null} before
   * @param {string | null} now
   */
  attributeChangedCallback(name, before, now) {
    if (before === now) return;
    if (name === "token") this.token = now;
    else if (RESTARTING.has(name)) this.#restart();
    if (name === "lang") this.#fetchTexts();
    else this.#render();
  }

  /** Begin anew: once, however many attributes change at a time. */
  #restart() {
    this.#run?.abort();
    if (!this.isConnected) return;
    const run = new AbortController();
    this.#run = run;
    queueMicrotask(() => {
      const name = this.account;
      if (run.signal.aborted || !name || !this.#tokens.isSet) return;
      const connection = new Connection(this.src, name, this.#tokens, run.signal);
      this.#account = new Account(connection, {
        hasHistory: !this.hasAttribute("compact"),
        onChange: () => this.#render(),
        onStatus: () => this.#overview.renderStatus(this.#account, this.#format),
      });
      this.#announcedState = null;
      this.#render();
      this.#account.start();
    });
  }

  /** Fetch the words of the element's language. Until they are here, no other language shows. */
  async #fetchTexts() {
    await fetchTexts(this.lang);
    this.#render();
  }

  #render() {
    if (!this.isConnected || !areTextsHere(this.lang)) return;
    const account = this.#account;
    const meter = account?.meter ?? null;
    const state = account?.state ?? "loading";
    const format = new Format({
      lang: this.lang,
      texts: this.#texts,
      timeZone: meter?.time_zone,
      currency: this.getAttribute("currency") ?? undefined,
    });
    this.#format = format;
    this.#root.lang = this.lang;
    this.#root.dataset.state = state;
    this.#root.setAttribute("aria-busy", String(state === "loading"));
    for (const [node, name] of this.#labels) node.textContent = format.text(name);
    const isCompact = this.hasAttribute("compact");
    this.#history.cards.hidden = isCompact;
    this.#overview.renderLabels(format);
    this.#overview.renderStatus(account, format);
    if (account === null || meter === null) {
      this.#overview.renderWaiting(account, format);
      return;
    }
    this.#overview.renderFigures(meter, format, account.nowMs);
    this.#overview.renderNotice(account, meter, format, this.getAttribute("upgrade-url"));
    this.#announce(state, meter);
    if (!isCompact) this.#history.render(account, meter, format);
  }

  /**
   * @param {State} state
   * @param {Gateway.Meter} meter
   */
  #announce(state, meter) {
    const text = announcementOf(this.#announcedState, state, meter, this.#format);
    if (text !== null) this.#announcement.textContent = text;
    this.#announcedState = state;
  }

  /**
   * Tell the page that somebody accepts an offer. The page may keep the link from being followed.
   * @param {Gateway.UpgradeShown} offer
   * @param {Event} event
   */
  #upgrade({ plan, name, price_cents }, event) {
    const { account } = this;
    const init = { detail: { account, plan, name, price_cents }, bubbles: true, composed: true };
    const upgrade = new CustomEvent("usage-meter:upgrade", { ...init, cancelable: true });
    if (!this.dispatchEvent(upgrade)) event.preventDefault();
  }

  // Paper shows what is folded away on the screen.
  #openDetails = () => {
    /** @type {NodeListOf<HTMLDetailsElement>} */
    const closed = this.#root.querySelectorAll("details:not([open]):not(.tabled)");
    this.#opened = [...closed];
    for (const details of this.#opened) details.open = true;
  };

  #closeDetails = () => {
    for (const details of this.#opened) details.open = false;
  };
}

/**
 * A property that was set before this class was defined lies on the element itself, where it hides
 * the class's accessor. Set it once more, through the accessor.
 * @param {UsageMeter} meter
 * @param {"token" | "tokenProvider" | "texts"} name
 */
function adoptEarlyProperty(meter, name) {
  if (!Object.hasOwn(meter, name)) return;
  const value = meter[name];
  delete (/** @type {Partial<UsageMeter>} */ (meter)[name]);
  Object.assign(meter, { [name]: value });
}

if (!customElements.get("usage-meter")) customElements.define("usage-meter", UsageMeter);
