/** The cards below the overview: days, renewal, features, past periods, and each charge. */

import { DayChart } from "./usage-meter-chart.js";
import { element, find, updateList } from "./usage-meter-elements.js";
import { LONG, SHORT, microOf, shareOf } from "./usage-meter-format.js";

/** @typedef {import("./usage-meter-format.js").Format} Format */
/** @typedef {import("./usage-meter-account.js").Account} Account */

const FEATURES_SHOWN = 5;
const PERIODS_EXPECTED = 5;
const CHARGES_EXPECTED = 4;
const GRANTS_SHOWN = 3;
const FACTS_EXPECTED = 5;
/** @type {Partial<Record<Gateway.Charge["kind"], string>>} */
const SIGNS = { usage: "−", grant_expired: "−", grant: "+", void: "+" };

/** Its nodes, built once. While they load, placeholders have the size of what will be there. */
export class History {
  chart;
  cards;
  #renewal = element("dl.facts", {}, Array.from({ length: FACTS_EXPECTED }, placeholderFact));
  #features = element("ul.rows.features", {}, placeholders("li.row", FEATURES_SHOWN));
  #periods = element("ul.rows.past", {}, placeholders("li.row", PERIODS_EXPECTED));
  #charges = element("ul.rows.charges", {}, placeholders("li.charge", CHARGES_EXPECTED));
  #chargesNote = element("span.note");
  #toggleFeatures;
  #morePeriods;
  #moreCharges;
  #areAllFeaturesShown = false;
  /** @type {Account | null} */
  #account = null;
  /** @type {Format} */
  #format;

  /**
   * @param {import("./usage-meter-overview.js").Label} label
   * @param {Format} format
   */
  constructor(label, format) {
    this.#format = format;
    this.chart = new DayChart(format);
    this.#toggleFeatures = quietButton(() => this.#toggleAllFeatures());
    this.#morePeriods = quietButton(() => this.#showMorePeriods());
    this.#moreCharges = quietButton(() => this.#showMoreCharges());
    label(this.#morePeriods, "more");
    label(this.#moreCharges, "more");
    this.cards = this.#buildCards(label);
  }

  /** @param {import("./usage-meter-overview.js").Label} label */
  #buildCards(label) {
    /** @param {string} tag @param {string} name @param {...(Node | null)} children */
    const card = (tag, name, note = /** @type {Node | null} */ (null), ...children) => {
      const heading = element("h3", { id: name });
      label(heading, name);
      const head = element("div.head", {}, heading, note);
      return element(tag, { "aria-labelledby": name, part: "card" }, head, children);
    };
    const asTable = element("summary");
    label(asTable, "as_table");
    const { note, readout, chart, table } = this.chart;
    const tabled = element("details.tabled", {}, asTable, table);
    const days = card("section.card", "by_day", note, readout, chart, tabled);
    const renewal = card("section.card", "renewal", null, this.#renewal);
    const features = card("section.card", "by_feature", null, this.#features, this.#toggleFeatures);
    const periods = card("section.card", "past", null, this.#periods, this.#morePeriods);
    const charges = card(
      "section.card.activity",
      "charges",
      this.#chargesNote,
      this.#charges,
      this.#moreCharges,
    );
    return element(
      "div.stack",
      {},
      element("div.columns.first", {}, days, renewal),
      element("div.columns", {}, features, periods),
      charges,
    );
  }

  /**
   * @param {Account} account
   * @param {Gateway.Meter} meter
   * @param {Format} format
   */
  render(account, meter, format) {
    if (account !== this.#account) this.chart.reset();
    this.#account = account;
    this.#format = format;
    this.drawChart();
    this.#chargesNote.textContent = this.chart.note.textContent;
    this.#renewal.replaceChildren(...this.#renewalFacts(meter));
    this.#renderFeatures();
    this.#renderPeriods();
    this.#renderCharges();
  }

  /** Draw the days anew: they, or the width, have changed. */
  drawChart() {
    const account = this.#account;
    if (account?.meter) this.chart.draw(account.meter, this.#format, account.nowMs);
  }

  /** @param {Gateway.Meter} meter */
  #renewalFacts({ renewal, grants, plan, allotment }) {
    const format = this.#format;
    const facts = [];
    if (renewal) {
      const date = format.date(renewal.at, { ...LONG, year: "numeric" });
      facts.push(
        fact(format.text("renewal_on"), date),
        fact(format.text("renewal_plan"), renewal.plan_name),
        fact(format.text("renewal_allotment"), format.number(renewal.allotment)),
        fact(format.text("renewal_lapses"), format.number(renewal.lapses)),
      );
      if (microOf(renewal.granted_left) > 0) {
        facts.push(fact(format.text("renewal_kept"), format.number(renewal.granted_left)));
      }
    } else {
      const values = { plan: plan.name, allotment: format.number(allotment) };
      facts.push(fact(format.text("no_renewal", values)));
    }
    for (const grant of (grants ?? []).slice(0, GRANTS_SHOWN)) {
      const name = format.text("grant", { date: format.date(grant.granted_at, SHORT) });
      facts.push(fact(name, element("small", {}, this.#grantText(grant))));
    }
    return facts;
  }

  /** @param {Gateway.GrantShown} grant */
  #grantText({ left, credits, expires_at: expiresAt }) {
    const format = this.#format;
    const values = { left: format.number(left), credits: format.number(credits) };
    if (!expiresAt) return format.text("grant_left", values);
    return format.text("grant_expires", { ...values, date: format.date(expiresAt, SHORT) });
  }

  #renderFeatures() {
    const format = this.#format;
    const features = (this.#account?.meter?.features ?? [])
      .filter((feature) => feature.uses > 0 || microOf(feature.credits) !== 0)
      .sort((one, other) => microOf(other.credits) - microOf(one.credits));
    this.#toggleFeatures.hidden = features.length <= FEATURES_SHOWN;
    this.#toggleFeatures.textContent = this.#areAllFeaturesShown
      ? format.text("fewer")
      : format.text("all", { n: format.number(features.length) });
    const [first] = features;
    if (!first) {
      this.#showEmpty(
        this.#features,
        this.#account?.isHistoryAway ? "history_away" : "nothing_used",
      );
      return;
    }
    const most = microOf(first.credits);
    updateList(
      this.#features,
      this.#areAllFeaturesShown ? features : features.slice(0, FEATURES_SHOWN),
      ({ id }) => id,
      buildFeature,
      (node, feature) => this.#updateFeature(node, feature, most),
    );
  }

  /**
   * @param {HTMLElement} node
   * @param {Gateway.FeatureUse} feature
   * @param {number} most Micro-credits of the most expensive feature.
   */
  #updateFeature(node, feature, most) {
    const share = shareOf(microOf(feature.credits), most);
    find(node, ".name").textContent = feature.name;
    find(node, ".small i").style.setProperty("--share", String(share));
    find(node, ".amount").textContent = this.#format.number(feature.credits);
    const models = (feature.models ?? []).map((model) => this.#buildModel(model, feature));
    find(node, ".models").replaceChildren(...models);
  }

  /**
   * @param {Gateway.ModelUse} model
   * @param {Gateway.FeatureUse} feature
   */
  #buildModel({ name, quantity, unit, uses, credits }, feature) {
    const format = this.#format;
    const use = `${format.quantity(quantity, unit)} · ${format.counted("uses", uses)}`;
    return element(
      "li",
      {},
      element("div", {}, name ?? feature.name, " ", element("small", {}, use)),
      element("span", {}, format.number(credits)),
    );
  }

  #toggleAllFeatures() {
    this.#areAllFeaturesShown = !this.#areAllFeaturesShown;
    this.#renderFeatures();
  }

  #renderPeriods() {
    const account = this.#account;
    this.#morePeriods.hidden = !account?.periodsCursor;
    if (!account?.periods) {
      if (account?.isHistoryAway) this.#showEmpty(this.#periods, "history_away");
      return;
    }
    // An account that subscribes at once leaves a Free period of no length behind.
    const ended = account.periods.filter(({ start, end }) => start !== end);
    if (!ended.length) {
      this.#showEmpty(this.#periods, "no_past");
      return;
    }
    updateList(
      this.#periods,
      ended,
      ({ number }) => `${number}/${this.#format.lang}`,
      (period) => this.#buildPeriod(period),
    );
  }

  /** @param {Gateway.PeriodListed} period */
  #buildPeriod(period) {
    const format = this.#format;
    const total = microOf(period.allotment) + microOf(period.granted);
    const values = { used: format.number(period.used), total: format.micro(total) };
    return element(
      "li.row",
      {},
      element("span.name", {}, format.range(period), element("small", {}, period.plan_name)),
      smallBar(shareOf(microOf(period.used), total)),
      element("span.amount", {}, format.text("of", values)),
    );
  }

  #showMorePeriods() {
    return this.#whileDisabled(this.#morePeriods, async (account) => {
      await account.fetchMorePeriods();
      this.#renderPeriods();
    });
  }

  #renderCharges() {
    const account = this.#account;
    this.#moreCharges.hidden = !account?.chargesCursor;
    if (!account?.charges) {
      if (account?.isHistoryAway) this.#showEmpty(this.#charges, "history_away");
    } else if (!account.charges.length) {
      this.#showEmpty(this.#charges, "no_charges");
    } else {
      updateList(
        this.#charges,
        account.charges,
        ({ entry }) => `${entry}/${this.#format.lang}`,
        (charge) => this.#buildCharge(charge),
      );
    }
  }

  /** @param {Gateway.Charge} charge */
  #buildCharge(charge) {
    const format = this.#format;
    const sign = SIGNS[charge.kind];
    const credits = charge.credits.replace(/^-/, "");
    const isSome = microOf(credits) > 0;
    const amount = sign && `${isSome ? sign : ""}${format.number(credits)}`;
    const time = charge.occurred_at ?? charge.appended_at;
    const left = charge.remaining_after && format.number(charge.remaining_after);
    return element(
      "li.charge",
      { tabindex: -1 },
      element("time", { datetime: time }, format.moment(time)),
      element(
        "span.name",
        {},
        chargeTitle(charge, format),
        charge.is_late && element("span.tag", {}, format.text("late")),
      ),
      element("span.amount", { "data-sign": isSome && sign }, amount),
      element("p", {}, chargeReason(charge, format)),
      element("span.right", {}, left && format.text("remaining_after", { credits: left })),
    );
  }

  #showMoreCharges() {
    return this.#whileDisabled(this.#moreCharges, async (account) => {
      const count = account.charges?.length ?? 0;
      await account.fetchMoreCharges();
      this.#renderCharges();
      const added = /** @type {HTMLElement | undefined} */ (this.#charges.children[count]);
      added?.focus();
    });
  }

  /**
   * @param {HTMLButtonElement} button
   * @param {(account: Account) => Promise<void>} act
   */
  async #whileDisabled(button, act) {
    if (!this.#account) return;
    button.disabled = true;
    await act(this.#account);
    button.disabled = false;
  }

  /**
   * @param {HTMLElement} list
   * @param {string} name The name of the text that says why.
   */
  #showEmpty(list, name) {
    list.replaceChildren(element("li.empty", {}, this.#format.text(name)));
  }
}

/**
 * The title of a charge: feature and model, or the change of the account.
 * @param {Gateway.Charge} charge
 * @param {Format} format
 */
export function chargeTitle(charge, format) {
  const used = [charge.feature_name ?? charge.feature, charge.model_name ?? charge.model];
  const use = used.filter(Boolean).join(" · ");
  if (charge.kind === "usage") return use;
  const kind = format.findText(`kind_${charge.kind}`) ?? charge.kind;
  return [kind, use].filter(Boolean).join(": ");
}

/**
 * Why a charge has this many credits. The gateway explains in English; a language that has words of
 * its own for it uses those.
 * @param {Gateway.Charge} charge
 * @param {Format} format
 */
export function chargeReason(charge, format) {
  const { kind, rate, quantity, unit, plan_name: plan } = charge;
  const name = rate && rate.per !== "1" ? "explain_usage_per" : `explain_${kind}`;
  const reason = format.findText(name, {
    credits: format.counted("credits", charge.credits.replace(/^-/, "")),
    amount: quantity && format.quantity(quantity, unit),
    rate: rate && format.counted("credits", rate.credits),
    per: rate && format.quantity(rate.per, rate.unit),
    plan: plan ?? "–",
  });
  return reason === undefined || (kind === "usage" && !rate) ? (charge.explanation ?? "") : reason;
}

const buildFeature = () =>
  element(
    "li",
    {},
    element(
      "details",
      {},
      element("summary.row", {}, element("span.name"), smallBar(0), element("span.amount")),
      element("ul.models"),
    ),
  );

/** @param {number} share */
const smallBar = (share) =>
  element("span.small", { "aria-hidden": "true" }, element("i", { "--share": share }));

/**
 * @param {string} name
 * @param {string | Node} [value]
 */
const fact = (name, value) =>
  element("div", {}, element("dt", {}, name), value && element("dd", {}, value));

/** @param {() => unknown} act */
const quietButton = (act) =>
  element("button.plain", { type: "button", hidden: true, click: () => void act() });

function placeholderFact() {
  return element("div", {}, element("dt.wait", {}, "Something"), element("dd.wait", {}, "000"));
}

/** @param {string} tag @param {number} count */
function placeholders(tag, count) {
  return Array.from({ length: count }, () => element(tag, {}, element("span.wait", {}, "…")));
}
