/** The geometry of the chart of days. */

import assert from "node:assert/strict";
import { test } from "node:test";

import {
  daysOf,
  labelSide,
  roundedBar,
  scaleTop,
} from "../../services/usageledger/web/usage-meter-chart.js";

/** @param {string} date */
const day = (date) => ({ date, credits: "1", features: {} });

test("the days to come follow those that were, up to the period's last", () => {
  const days = daysOf([day("2026-11-29"), day("2026-11-30")], "2026-11-30", "2026-12-02");
  assert.deepEqual(
    days.map(({ date, isOver }) => [date, isOver]),
    [
      ["2026-11-29", true],
      ["2026-11-30", true],
      ["2026-12-01", false],
      ["2026-12-02", false],
    ],
  );
});

test("a period without an end has no days to come", () => {
  assert.equal(daysOf([day("2026-11-30")], "2026-11-30", null).length, 1);
});

test("a period whose history has not been read begins after today", () => {
  const days = daysOf([], "2026-11-30", "2026-12-01");
  assert.deepEqual(
    days.map(({ date }) => date),
    ["2026-12-01"],
  );
});

test("a long period is cut at 62 columns", () => {
  assert.equal(daysOf([day("2026-01-01")], "2026-01-01", "2026-12-31").length, 62);
});

test("the scale ends at the next round number", () => {
  const tops = [0, 0.3, 1, 9, 36, 41, 500, 501].map(scaleTop);
  assert.deepEqual(
    tops.map((top) => Number(top.toPrecision(6))),
    [10, 0.4, 1, 10, 40, 50, 500, 1_000],
  );
});

test("a label at the chart's edge is written inwards", () => {
  assert.deepEqual(
    [0, 5, 9].map((index) => labelSide(index, 10, 20)),
    ["start", "middle", "end"],
  );
  assert.equal(labelSide(0, 10, 46), "middle");
});

test("a low bar has corners no larger than itself", () => {
  assert.equal(roundedBar(10, 100, 20, 2), "M10 100v0q0 -2 2 -2h16q2 0 2 2v0z");
  assert.match(roundedBar(10, 100, 20, 50), /^M10 100v-46q0 -4 4 -4h12/);
});
