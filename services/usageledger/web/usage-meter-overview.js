/** The first card of <usage-meter>: the figures, the bar, and a notice with the forecast. */

import { element, isNothing } from "./usage-meter-elements.js";
import { CLOCK, creditsOf, microOf, shareOf } from "./usage-meter-format.js";

/** @typedef {import("./usage-meter-format.js").Format} Format */
/** @typedef {import("./usage-meter-account.js").Account} Account */
/** @typedef {import("./usage-meter-account.js").State} State */
/** @typedef {{ title: string, text: string, offer: Gateway.UpgradeShown | null }} Notice */
/**
 * Gives an element the text of this name, in each language.
 * @typedef {(node: HTMLElement, name: string) => void} Label
 */

const COUNT_MS = 500;

const WARNING_ICON = "M10 3.2 17.6 16.4H2.4zM10 8.4v3.4M10 14v.1";
const GRAPH_ICON = "M3 14.5 8 9.5l3 3 6-6.5M13 6h4v4";
const CIRCLE = "M10 2.8a7.2 7.2 0 1 0 0 14.4 7.2 7.2 0 0 0 0-14.4z";
/** @type {Record<State, string>} */
const ICONS = {
  loading: GRAPH_ICON,
  fresh: GRAPH_ICON,
  near: WARNING_ICON,
  refused: WARNING_ICON,
  blocked: `${CIRCLE}M5 5l10 10`,
  suspended: `${CIRCLE}M8 7.4v5.2M12 7.4v5.2`,
};

/** Its nodes, built once. While it loads, placeholders have the size of what will be there. */
export class Overview {
  #nodes;
  #onUpgrade;

  /**
   * @param {Label} label
   * @param {(offer: Gateway.UpgradeShown, event: Event) => void} onUpgrade
   */
  constructor(label, onUpgrade) {
    this.#nodes = buildNodes(label);
    this.#onUpgrade = onUpgrade;
  }

  get card() {
    return this.#nodes.card;
  }

  /**
   * Write what does not depend on the account.
   * @param {Format} format
   */
  renderLabels(format) {
    this.#nodes.bar.setAttribute("aria-label", format.text("meter"));
  }

  /**
   * The connection's status, and how old the figures are where that matters.
   * @param {Account | null} account
   * @param {Format} format
   */
  renderStatus(account, format) {
    const { status: node } = this.#nodes;
    const status = account?.status ?? "connecting";
    const meter = account?.meter;
    const time = meter?.as_of ?? (status === "lost" ? meter?.at : null);
    const asOf = time ? format.text("as_of", { time: format.date(time, CLOCK) }) : null;
    const isOld = status === "live" && asOf !== null;
    node.dataset.status = isOld ? "old" : status;
    const shown = isOld ? [asOf] : [format.text(status), status === "lost" && asOf];
    node.textContent = shown.filter(Boolean).join(" · ");
  }

  /**
   * There is no meter yet: say why, if there is a reason.
   * @param {Account | null} account
   * @param {Format} format
   */
  renderWaiting(account, format) {
    if (!account?.problem) return;
    const { icon, noticeTitle, noticeText } = this.#nodes;
    const isRefused = account.state === "refused";
    icon.setAttribute("d", WARNING_ICON);
    noticeTitle.classList.remove("wait");
    noticeTitle.textContent = format.text(isRefused ? "refused" : "unreachable");
    noticeText.textContent = isRefused ? account.problem.message : format.text("unreachable_more");
  }

  /**
   * @param {Gateway.Meter} meter
   * @param {Format} format
   * @param {number} nowMs
   */
  renderFigures(meter, format, nowMs) {
    const nodes = this.#nodes;
    const { plan, period } = meter;
    const [used, held] = [microOf(meter.used), microOf(meter.held)];
    const [remaining, granted] = [microOf(meter.remaining), microOf(meter.granted)];
    const left = Math.max(0, microOf(meter.available));
    nodes.plan.textContent = plan.name;
    nodes.period.textContent =
      period.end === null
        ? format.text("once")
        : format.text("renews", {
            range: format.range(period),
            when: format.daysUntil(period.end, nowMs),
          });
    nodes.what.textContent =
      remaining < 0
        ? format.text("over", { credits: format.micro(-remaining) })
        : format.text("available");
    nodes.total.textContent = format.text(granted > 0 ? "total_granted" : "total", {
      allotment: format.number(meter.allotment),
      plan: plan.name,
      granted: format.number(meter.granted),
    });
    // Rounded so that nobody sees credits that are not there.
    countTo(nodes.available, left, "floor", format);
    countTo(nodes.left, left, "floor", format);
    countTo(nodes.used, used, "ceil", format);
    countTo(nodes.held, held, "ceil", format);
    this.#renderBar({ used, held, remaining, left }, format);
    const marks = (meter.thresholds ?? []).map((threshold) =>
      element("i", {
        "--share": Number(threshold),
        "data-name": format.number(threshold, { style: "percent" }),
      }),
    );
    nodes.marks.replaceChildren(...marks);
  }

  /**
   * @param {{ used: number, held: number, remaining: number, left: number }} micro
   * @param {Format} format
   */
  #renderBar({ used, held, remaining, left }, format) {
    const { bar, barUsed, barHeld } = this.#nodes;
    const total = used + remaining;
    // Where there is nothing to use, the bar is full.
    setBarShare(barUsed, total > 0 ? used : 1, Math.max(1, total));
    setBarShare(barHeld, Math.min(held, Math.max(0, remaining)), Math.max(1, total));
    bar.setAttribute("aria-valuemax", creditsOf(Math.max(total, used)));
    bar.setAttribute("aria-valuenow", creditsOf(used));
    const spoken = Object.entries({ used, total, held, left }).map(([name, micro]) => [
      name,
      format.micro(micro),
    ]);
    bar.setAttribute("aria-valuetext", format.text("meter_text", Object.fromEntries(spoken)));
  }

  /**
   * @param {Account} account
   * @param {Gateway.Meter} meter
   * @param {Format} format
   * @param {string | null} upgradeUrl
   */
  renderNotice(account, meter, format, upgradeUrl) {
    const { icon, noticeTitle, noticeText, action } = this.#nodes;
    const { title, text, offer } = noticeOf(account, meter, format);
    icon.setAttribute("d", ICONS[account.state]);
    noticeTitle.classList.remove("wait");
    noticeTitle.textContent = title;
    noticeText.textContent = text;
    action.hidden = !offer;
    const key = offer ? JSON.stringify([offer, upgradeUrl, format.lang, meter.account]) : "";
    if (action.dataset.offer === key) return; // The button stays, and its focus with it.
    action.dataset.offer = key;
    action.replaceChildren();
    if (!offer) return;
    const url = upgradeUrl
      ?.replaceAll("{plan}", encodeURIComponent(offer.plan))
      .replaceAll("{account}", encodeURIComponent(meter.account));
    const properties = {
      part: "upgrade",
      click: (/** @type {Event} */ event) => this.#onUpgrade(offer, event),
    };
    const name = format.text("upgrade", { name: offer.name });
    action.append(
      url === undefined
        ? element("button.button", { type: "button", ...properties }, name)
        : element("a.button", { href: url, ...properties }, name),
    );
  }
}

/** @param {Label} label */
function buildNodes(label) {
  /**
   * @template {HTMLElement} Labelled
   * @param {Labelled} node
   * @param {string} name
   */
  const labelled = (node, name) => {
    label(node, name);
    return node;
  };
  const plan = element("span.plan.wait", {}, "Plan");
  const status = element("span.note.status", { "data-status": "connecting" });
  const period = element("span.wait", {}, "1 January – 1 February");
  const available = element("strong.wait", {}, "000");
  const what = element("span.what.wait", {}, "credits available");
  const total = element("span.total.wait", {}, "000 credits");
  const barUsed = element("i.used", { "data-none": true });
  const barHeld = element("i.held", { "data-none": true });
  const bar = element(
    "div.bar",
    { role: "meter", "aria-valuemin": 0, "aria-valuemax": 0, "aria-valuenow": 0, part: "bar" },
    barUsed,
    barHeld,
  );
  const marks = element("div.marks", { "aria-hidden": "true" });
  const [used, held, left] = [figureNode(), figureNode(), figureNode()];
  const legend = Object.entries({ used, held, left }).map(([name, node]) =>
    element(`div.${name}`, {}, labelled(element("dt"), name), node),
  );
  const { notice, ...noticeNodes } = buildNotice();
  const card = element(
    "section.card",
    { "aria-labelledby": "title", part: "card" },
    element(
      "div.head",
      {},
      element("div", {}, labelled(element("h2", { id: "title" }), "title"), plan),
      status,
    ),
    element("p.period", {}, period),
    element("p.figure", {}, available, what, total),
    bar,
    marks,
    element("dl.legend", {}, legend),
    notice,
  );
  const figures = { available, what, total, used, held, left };
  return { card, plan, status, period, bar, barUsed, barHeld, marks, ...figures, ...noticeNodes };
}

function buildNotice() {
  const icon = element("path", { d: GRAPH_ICON });
  const noticeTitle = element("b.wait", {}, "What is to be expected");
  const noticeText = element(
    "p",
    {},
    element("span.wait", {}, "What else there is to say about it"),
  );
  const action = element("div.action", { hidden: true });
  const notice = element(
    "div.notice",
    { part: "notice" },
    element("svg", { viewBox: "0 0 20 20", "aria-hidden": "true" }, icon),
    noticeTitle,
    noticeText,
    action,
  );
  return { notice, icon, noticeTitle, noticeText, action };
}

const figureNode = () => element("dd.wait", {}, "000");

/**
 * @param {HTMLElement} node
 * @param {number} part
 * @param {number} whole
 */
function setBarShare(node, part, whole) {
  node.style.setProperty("--share", String(shareOf(part, whole)));
  node.toggleAttribute("data-none", part <= 0);
}

/**
 * Move a figure to its new value within half a second, or at once for a reader who wants no motion.
 * @param {HTMLElement} node
 * @param {number} micro
 * @param {"floor" | "ceil"} roundingMode
 * @param {Format} format
 */
function countTo(node, micro, roundingMode, format) {
  const maximumFractionDigits = micro % 1_000_000 === 0 ? 0 : 2;
  /** @param {number} at */
  const write = (at) => {
    node.textContent = format.micro(Math.round(at), { maximumFractionDigits, roundingMode });
  };
  const from = node.dataset.micro === undefined ? micro : Number(node.dataset.micro);
  node.dataset.micro = String(micro);
  const isCalm = document.hidden || matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (from === micro || isCalm) {
    write(micro);
    return;
  }
  const beganMs = performance.now();
  /** @param {number} nowMs */
  const step = (nowMs) => {
    if (node.dataset.micro !== String(micro)) return; // Another value has come since.
    const done = Math.min(1, Math.max(0, (nowMs - beganMs) / COUNT_MS));
    write(micro - (micro - from) * (1 - done) ** 3);
    if (done < 1) requestAnimationFrame(step);
  };
  requestAnimationFrame(step);
}

/**
 * The notice of a state: a title, a sentence or two, and the offer that would help.
 * @param {{ state: State, problem: Error | null }} account
 * @param {Gateway.Meter} meter
 * @param {Format} format
 * @returns {Notice}
 */
export function noticeOf({ state, problem }, meter, format) {
  const { blocked, upgrade, pace } = meter;
  if (state === "refused") {
    return { title: format.text("refused"), text: problem?.message ?? "", offer: null };
  }
  if (state === "suspended") {
    const reason = format.findText(`suspended_${blocked?.suspension}`);
    const text = reason ?? format.text("suspended_more");
    return { title: format.text("suspended"), text, offer: null };
  }
  const offer = (blocked ? blocked.upgrade : upgrade) ?? null;
  if (state === "blocked" && blocked) return blockedNotice(blocked, meter, offer, format);
  const { title, text } = paceNotice(meter, format);
  if (state !== "near") return { title, text, offer: null };
  return {
    title: format.text("near", { share: format.percent(meter.share_used) }),
    text: sentences([pace && `${title}.`, offer && offerText(offer, format)]),
    offer,
  };
}

/**
 * @param {Gateway.BlockedShown} blocked
 * @param {Gateway.Meter} meter
 * @param {Gateway.UpgradeShown | null} offer
 * @param {Format} format
 * @returns {Notice}
 */
function blockedNotice(blocked, meter, offer, format) {
  const { since, reason } = blocked;
  const resetsAt = blocked.resets_at ?? meter.period.end;
  return {
    title: format.findText(`blocked_${reason}`) ?? format.text("blocked"),
    text: sentences([
      since
        ? format.text("blocked_since", { time: format.moment(since) })
        : format.text("blocked_more"),
      resetsAt && format.text("resets", { date: format.date(resetsAt) }),
      offer && offerText(offer, format),
    ]),
    offer,
  };
}

/**
 * How long the credits last at the pace of this period.
 * @param {Gateway.Meter} meter
 * @param {Format} format
 */
function paceNotice({ pace, period }, format) {
  if (!pace) return { title: format.text("no_pace"), text: format.text("no_pace_more") };
  const credits = format.number(pace.credits_per_day, { maximumFractionDigits: 1 });
  const text = sentences([
    format.text("pace_more", { credits }),
    period.end && format.text("resets", { date: format.date(period.end) }),
  ]);
  if (pace.used_up_at) {
    return { title: format.text("pace_used_up", { date: format.date(pace.used_up_at) }), text };
  }
  if (!period.end || isNothing(pace.at_period_end)) return { title: format.text("no_pace"), text };
  const left = format.number(pace.at_period_end, {
    maximumFractionDigits: 0,
    roundingMode: "floor",
  });
  return {
    title: format.text("pace_left", { credits: left, date: format.date(period.end) }),
    text,
  };
}

/**
 * @param {Gateway.UpgradeShown} offer
 * @param {Format} format
 */
const offerText = (offer, format) =>
  format.text("offer", {
    name: offer.name,
    allotment: format.number(offer.allotment),
    price: format.price(offer.price_cents),
  });

/** @param {(string | null | false)[]} parts */
const sentences = (parts) => parts.filter(Boolean).join(" ");

/**
 * The text that a screen reader says of a change: a threshold, a block, the end of one. Null at the
 * start, and for changes of the figures alone.
 * @param {State | null} before Null: nothing was shown yet.
 * @param {State} now
 * @param {Gateway.Meter} meter
 * @param {Format} format
 */
export function announcementOf(before, now, meter, format) {
  if (before === null || before === now || now === "refused") return null;
  if (isStopped(now)) return format.text(`said_${now}`);
  if (isStopped(before)) {
    return format.text("said_freed", { credits: format.number(meter.available) });
  }
  if (now !== "near") return null;
  return format.text("said_near", { share: format.percent(meter.share_used) });
}

/** @param {State} state */
const isStopped = (state) => state === "blocked" || state === "suspended";
