/** How <usage-meter> writes numbers, credits, prices, dates and times in a language. */

import { findText } from "./usage-meter-texts.js";

const MICRO_DIGITS = 6;
const DAY_MS = 86_400_000;

/** @type {Intl.DateTimeFormatOptions} */
export const SHORT = { day: "numeric", month: "short" };
/** @type {Intl.DateTimeFormatOptions} */
export const LONG = { day: "numeric", month: "long" };
/** @type {Intl.DateTimeFormatOptions} */
export const CLOCK = { hour: "numeric", minute: "2-digit" };

/**
 * Credits as whole micro-credits (1 credit = 1,000,000). Exact: digits are joined, not multiplied,
 * and the gateway's largest amount is the largest integer that a number holds.
 * @param {string} credits A decimal of at most six places, as the gateway writes it.
 * @throws {RangeError} where the text is no such decimal.
 */
export function microOf(credits) {
  const [, sign, whole = "", fraction = ""] = /^(-?)(\d+)(?:\.(\d{1,6}))?$/.exec(credits) ?? [];
  if (!whole) throw new RangeError(`not an amount of credits: ${credits}`);
  const micro = Number(whole + fraction.padEnd(MICRO_DIGITS, "0"));
  return sign && micro ? -micro : micro;
}

/**
 * Whole micro-credits as a decimal of credits, without trailing zeros.
 * @param {number} micro
 */
export function creditsOf(micro) {
  const digits = String(Math.abs(micro)).padStart(MICRO_DIGITS + 1, "0");
  const fraction = digits.slice(-MICRO_DIGITS).replace(/0+$/, "");
  return `${micro < 0 ? "-" : ""}${digits.slice(0, -MICRO_DIGITS)}${fraction && `.${fraction}`}`;
}

/**
 * A part of a whole, from 0 to 1.
 * @param {number} part
 * @param {number} whole
 */
export const shareOf = (part, whole) => (whole > 0 ? Math.min(1, Math.max(0, part / whole)) : 0);

/** Writes for one meter: its language, its own words, its account's time zone, its currency. */
export class Format {
  #texts;
  #timeZone;
  #currency;

  /**
   * @param {object} options
   * @param {string} options.lang
   * @param {import("./usage-meter-texts.js").Texts} [options.texts] Words of this one meter.
   * @param {string} [options.timeZone] UTC where it is missing, or unknown to the browser.
   * @param {string} [options.currency]
   */
  constructor({ lang, texts = {}, timeZone = "UTC", currency = "USD" }) {
    this.lang = lang;
    this.#texts = texts;
    this.#timeZone = isTimeZone(timeZone) ? timeZone : "UTC";
    this.#currency = currency;
  }

  /**
   * A text by its name, which is there in English at least.
   * @param {string} name
   * @param {Record<string, unknown>} [values]
   */
  text(name, values) {
    return this.findText(name, values) ?? name;
  }

  /**
   * A text by its name, or undefined where no language has one.
   * @param {string} name
   * @param {Record<string, unknown>} [values]
   */
  findText(name, values) {
    return findText(this.lang, this.#texts, name, values);
  }

  /**
   * A decimal, grouped, with up to six places. Exact: a decimal is formatted from its digits.
   * @param {string | number} decimal
   * @param {Intl.NumberFormatOptions} [options]
   */
  number(decimal, options) {
    const written = /** @type {Intl.StringNumericLiteral} */ (String(decimal));
    const format = new Intl.NumberFormat(this.lang, { maximumFractionDigits: 6, ...options });
    return format.format(written).replace("-", "−");
  }

  /**
   * Whole micro-credits as a decimal of credits.
   * @param {number} micro
   * @param {Intl.NumberFormatOptions} [options]
   */
  micro(micro, options) {
    return this.number(creditsOf(micro), options);
  }

  /**
   * A number with its noun, in the plural form that the language has for it.
   * @param {string} noun The name of the text, such as `credits`.
   * @param {string | number} decimal
   */
  counted(noun, decimal) {
    return this.findCounted(noun, decimal) ?? this.number(decimal);
  }

  /**
   * @param {string} noun
   * @param {string | number} decimal
   */
  findCounted(noun, decimal) {
    return this.findText(noun, { n: this.number(decimal), count: decimal });
  }

  /**
   * A quantity with its unit. A unit without a word of its own is written as the catalog names it.
   * @param {string} quantity
   * @param {string | null | undefined} unit
   */
  quantity(quantity, unit) {
    if (!unit) return this.number(quantity);
    return this.findCounted(`unit_${unit}`, quantity) ?? `${this.number(quantity)} ${unit}`;
  }

  /**
   * A share as whole percents, rounded down: a share below 100 % is never written as 100 %.
   * @param {string | number} share
   */
  percent(share) {
    return this.number(share, {
      style: "percent",
      maximumFractionDigits: 0,
      roundingMode: "floor",
    });
  }

  /** @param {number} cents */
  price(cents) {
    return new Intl.NumberFormat(this.lang, {
      style: "currency",
      currency: this.#currency,
      trailingZeroDisplay: "stripIfInteger",
    }).format(cents / 100);
  }

  /**
   * A date in the account's time zone.
   * @param {string} time
   * @param {Intl.DateTimeFormatOptions} [options]
   */
  date(time, options = LONG) {
    return this.#dates(options).format(new Date(time));
  }

  /**
   * A date and a time of day.
   * @param {string} time
   */
  moment(time) {
    return this.date(time, { ...SHORT, ...CLOCK });
  }

  /**
   * A period's dates. A period without an end has its first date alone.
   * @param {{ start: string, end: string | null }} period
   */
  range({ start, end }) {
    if (end === null) return this.date(start, SHORT);
    return this.#dates(SHORT).formatRange(new Date(start), new Date(end));
  }

  /**
   * The calendar date of a time in the account's time zone, as YYYY-MM-DD.
   * @param {number} timeMs
   */
  localDate(timeMs) {
    return new Intl.DateTimeFormat("en-CA", { timeZone: this.#timeZone }).format(timeMs);
  }

  /**
   * The name of a calendar date.
   * @param {string} date YYYY-MM-DD
   * @param {Intl.DateTimeFormatOptions} [options]
   */
  dayName(date, options = LONG) {
    const format = new Intl.DateTimeFormat(this.lang, { timeZone: "UTC", ...options });
    return format.format(new Date(date));
  }

  /**
   * "in 8 days", "tomorrow" or "today", by the calendar of the account's time zone.
   * @param {string} time
   * @param {number} nowMs
   */
  daysUntil(time, nowMs) {
    const begin = Date.parse(this.localDate(nowMs));
    const days = (Date.parse(this.localDate(Date.parse(time))) - begin) / DAY_MS;
    const format = new Intl.RelativeTimeFormat(this.lang, { numeric: "auto" });
    return format.format(Math.max(0, Math.round(days)), "day");
  }

  /** @param {Intl.DateTimeFormatOptions} options */
  #dates(options) {
    return new Intl.DateTimeFormat(this.lang, { timeZone: this.#timeZone, ...options });
  }
}

/** @param {string} timeZone */
function isTimeZone(timeZone) {
  try {
    return Boolean(new Intl.DateTimeFormat("en", { timeZone }));
  } catch {
    return false;
  }
}
