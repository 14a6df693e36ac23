/** The days of a period as columns, as a table, and read out one by one. */

import { element } from "./usage-meter-elements.js";
import { SHORT } from "./usage-meter-format.js";

/** @typedef {import("./usage-meter-format.js").Format} Format */
/** @typedef {"start" | "middle" | "end"} Side */
/**
 * One day of the chart. `isOver` is false for the days to come, and true for today.
 * @typedef {Gateway.DayShown & { isOver: boolean }} Day
 */

const CHART_HEIGHT = 176;
const FLOOR = CHART_HEIGHT - 22;
const CEILING = 8;
const LABEL_WIDTH = 46;
const DAYS_MAX = 62;
const DAY_MS = 86_400_000;
const EMPTY_SCALE = 10;
const KEY_STEPS = new Map([
  ["ArrowLeft", -1],
  ["ArrowRight", 1],
  ["Home", -Infinity],
  ["End", Infinity],
]);

/**
 * Every day of a period: those that were, with their credits, and those to come.
 * @param {Gateway.DayShown[]} known
 * @param {string} today YYYY-MM-DD
 * @param {string | null} last The period's last day; null where it has no end.
 * @returns {Day[]}
 */
export function daysOf(known, today, last) {
  const days = known.map((day) => ({ ...day, isOver: true }));
  let date = days.at(-1)?.date ?? today;
  while (last !== null && days.length < DAYS_MAX && date < last) {
    date = new Date(Date.parse(date) + DAY_MS).toISOString().slice(0, 10);
    days.push({ date, credits: "0", features: {}, isOver: false });
  }
  return days;
}

/**
 * The top of the scale: the next 1, 2, 4 or 5 times a power of ten.
 * @param {number} most The highest column.
 */
export function scaleTop(most) {
  const highest = most > 0 ? most : EMPTY_SCALE;
  const power = 10 ** Math.floor(Math.log10(highest));
  return power * ([1, 2, 4, 5].find((step) => step * power >= highest) ?? 10);
}

/**
 * A bar with round upper corners, as the path of an SVG.
 * @param {number} x
 * @param {number} floor
 * @param {number} width
 * @param {number} height
 */
export function roundedBar(x, floor, width, height) {
  const radius = Math.min(4, width / 2, height);
  const [side, top] = [height - radius, width - 2 * radius];
  return (
    `M${x} ${floor}v${-side}q0 ${-radius} ${radius} ${-radius}` +
    `h${top}q${radius} 0 ${radius} ${radius}v${side}z`
  );
}

/**
 * On which side of its column's edge a label is written, so that it stays inside the chart.
 * @param {number} index
 * @param {number} count
 * @param {number} slot Width of a column with its gap.
 * @returns {Side}
 */
export function labelSide(index, count, slot) {
  if (slot >= LABEL_WIDTH) return "middle";
  if (index === 0) return "start";
  return index === count - 1 ? "end" : "middle";
}

/** The chart with its table and its line of text. It is drawn anew for each width. */
export class DayChart {
  note = element("span.note");
  readout = element("p.readout");
  chart = element("div.chart");
  table = element("div.scroll", { tabindex: 0, role: "region", "aria-labelledby": "by_day" });

  /** The day that the Tab key reaches. @type {string | null} */
  #reachableDay = null;
  /** @type {Gateway.Meter | null} */
  #meter = null;
  /** @type {Format} */
  #format;

  /** @param {Format} format */
  constructor(format) {
    this.#format = format;
  }

  /**
   * @param {Gateway.Meter} meter
   * @param {Format} format
   * @param {number} nowMs
   */
  draw(meter, format, nowMs) {
    const width = this.chart.clientWidth;
    if (!width) return;
    this.#meter = meter;
    this.#format = format;
    const { end } = meter.period;
    const today = format.localDate(nowMs);
    const days = daysOf(meter.days ?? [], today, end && format.localDate(Date.parse(end) - 1));
    const focusedDay = this.#focusedDay();
    this.#drawColumns(days, today, width);
    if (focusedDay) this.#column(focusedDay)?.focus();
    else this.#readOut(null);
    const { history_as_of: time } = meter;
    this.note.textContent = time ? format.text("history_as_of", { time: format.moment(time) }) : "";
    this.#renderTable(days);
  }

  /** Forget which day was chosen: another account is shown. */
  reset() {
    this.#reachableDay = null;
  }

  #focusedDay() {
    const root = this.chart.getRootNode();
    const active = root instanceof ShadowRoot ? root.activeElement : document.activeElement;
    return active instanceof SVGElement ? active.dataset.date : undefined;
  }

  /** @param {string} date */
  #column(date) {
    return this.#reachable().find((column) => column.dataset.date === date);
  }

  /** The columns that can have the focus. */
  #reachable() {
    const columns = this.chart.querySelectorAll("[data-date]");
    return /** @type {SVGElement[]} */ ([...columns]);
  }

  /**
   * @param {Day[]} days
   * @param {string} today
   * @param {number} width
   */
  #drawColumns(days, today, width) {
    const format = this.#format;
    const top = scaleTop(Math.max(0, ...days.map((day) => Number(day.credits))));
    const left = 10 + 7 * format.number(top).length;
    const slot = (width - left) / days.length;
    const labelEvery = Math.ceil(LABEL_WIDTH / slot);
    /** @param {number} credits */
    const heightOf = (credits) => (credits / top) * (FLOOR - CEILING);
    /** @param {string} name @param {number} credits */
    const line = (name, credits) => {
      const y = FLOOR - heightOf(credits);
      return element(name, { x1: left, x2: width, y1: y, y2: y });
    };
    const scale = [0, top / 2, top].map((credits) => [
      line("line", credits),
      element(
        "text",
        { x: left - 8, y: FLOOR - heightOf(credits) + 4, "text-anchor": "end" },
        format.number(credits),
      ),
    ]);
    const average = Number(this.#meter?.pace?.credits_per_day ?? Infinity);
    const columns = days.map((day, index) =>
      this.#drawColumn(day, {
        x: left + index * slot,
        slot,
        height: heightOf(Number(day.credits)),
        isToday: day.date === today,
        isLabelled: index % labelEvery === 0,
        side: labelSide(index, days.length, slot),
        // The first label in a month names the month.
        hasMonth: days[index - labelEvery]?.date.slice(0, 7) !== day.date.slice(0, 7),
      }),
    );
    const hidden = { "aria-hidden": "true" };
    this.chart.replaceChildren(
      element(
        "svg",
        {
          viewBox: `0 0 ${width} ${CHART_HEIGHT}`,
          role: "group",
          "aria-label": format.text("by_day_keys"),
          keydown: (/** @type {KeyboardEvent} */ event) => this.#walk(event),
          mouseleave: () => this.#readOut(null),
        },
        element("g", hidden, scale.flat()),
        columns,
        element("g", hidden, average <= top && line("line.average", average)),
      ),
    );
    this.#reachableDay ??= today;
    const reachable = this.#column(this.#reachableDay) ?? this.#reachable().at(-1);
    reachable?.setAttribute("tabindex", "0");
  }

  /**
   * @param {Day} day
   * @param {{ x: number, slot: number, height: number, isToday: boolean, isLabelled: boolean,
   *   side: Side, hasMonth: boolean }} layout
   */
  #drawColumn(day, { x, slot, height, isToday, isLabelled, side, hasMonth }) {
    const width = Math.min(slot * 0.66, 30);
    const anchor = { start: x, middle: x + slot / 2, end: x + slot }[side];
    return element(
      "g",
      day.isOver ? this.#columnProperties(day) : { "aria-hidden": "true" },
      element("rect.column", { x, y: 0, width: slot, height: FLOOR, rx: 4 }),
      Number(day.credits) > 0 &&
        element("path.value", {
          d: roundedBar(x + (slot - width) / 2, FLOOR, width, Math.max(2, height)),
        }),
      isLabelled &&
        element(
          isToday ? "text.now" : "text",
          { x: anchor, "text-anchor": side, y: FLOOR + 17 },
          this.#format.dayName(day.date, hasMonth ? SHORT : { day: "numeric" }),
        ),
    );
  }

  /** @param {Day} day */
  #columnProperties(day) {
    return {
      "data-date": day.date,
      tabindex: -1,
      role: "img",
      "aria-label": this.#dayTexts(day).join(", "),
      mouseenter: () => this.#readOut(day),
      blur: () => this.#readOut(null),
      focus: () => {
        this.#reachableDay = day.date;
        this.#readOut(day);
      },
    };
  }

  /** @param {KeyboardEvent} event */
  #walk(event) {
    const step = KEY_STEPS.get(event.key);
    if (step === undefined) return;
    event.preventDefault();
    const columns = this.#reachable();
    const index = columns.findIndex((column) => column.dataset.date === this.#reachableDay);
    const next = columns[Math.min(columns.length - 1, Math.max(0, index + step))];
    for (const column of columns) column.setAttribute("tabindex", column === next ? "0" : "-1");
    next?.focus();
  }

  /**
   * Write a day's credits above the chart, or the average where no day is chosen.
   * @param {Day | null} day
   */
  #readOut(day) {
    if (day) {
      const [text, ...features] = this.#dayTexts(day);
      this.readout.replaceChildren(element("b", {}, text));
      if (features.length) this.readout.append(` · ${features.join(", ")}`);
      return;
    }
    const pace = this.#meter?.pace;
    const credits = pace && String(Math.round(Number(pace.credits_per_day) * 10) / 10);
    this.readout.textContent = credits
      ? this.#format.text("average", { credits: this.#format.counted("credits", credits) })
      : "";
  }

  /**
   * A day with its credits, then its features, the most expensive first.
   * @param {Gateway.DayShown} day
   */
  #dayTexts(day) {
    const format = this.#format;
    const names = new Map(this.#meter?.features?.map((feature) => [feature.id, feature.name]));
    const features = Object.entries(day.features ?? {}).sort(
      ([, one], [, other]) => Number(other) - Number(one),
    );
    const credits = format.counted("credits", day.credits);
    return [
      format.text("day", { date: format.dayName(day.date), credits }),
      ...features.map(([id, used]) => `${names.get(id) ?? id} ${format.number(used)}`),
    ];
  }

  /** @param {Day[]} days */
  #renderTable(days) {
    const format = this.#format;
    const heads = ["date", "used"].map((name) =>
      element("th", { scope: "col" }, format.text(name)),
    );
    const rows = days
      .filter((day) => day.isOver)
      .reverse()
      .map((day) =>
        element(
          "tr",
          {},
          element("th", { scope: "row" }, format.dayName(day.date)),
          element("td", {}, format.number(day.credits)),
        ),
      );
    const head = element("thead", {}, element("tr", {}, heads));
    this.table.replaceChildren(element("table", {}, head, element("tbody", {}, rows)));
  }
}
