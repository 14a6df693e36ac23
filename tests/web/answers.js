/** Answers of the gateway for the tests, in the shapes that openapi.json gives them. */

/** @type {Gateway.Meter} */
const METER = {
  account: "acct_4821",
  at: "2026-11-25T10:00:00Z",
  as_of: null,
  plan: { id: "max", name: "Max", price_cents: 2499, allotment: "500", renews: true },
  period: { number: 4, start: "2026-11-03T09:00:00Z", end: "2026-12-03T09:00:00Z" },
  allotment: "500",
  granted: "20",
  used: "300",
  held: "14",
  remaining: "220",
  available: "206",
  share_used: "0.5769",
  blocked: null,
  upgrade: null,
  holds: { open: 1, credits: "14" },
  by_feature: { genai_video: "300" },
  known: true,
  time_zone: "UTC",
  next_plan: null,
  thresholds: ["0.8"],
  grants: [],
  features: [{ id: "genai_video", name: "GenAI Video", credits: "300", uses: 9, models: [] }],
  days: [],
  pace: { days: "22", credits_per_day: "13.6", used_up_at: null, at_period_end: "97.5" },
  renewal: null,
  history_as_of: null,
};

/** @param {Partial<Gateway.Meter>} [changes] */
export const meter = (changes = {}) => ({ ...METER, ...changes });

/** @type {Gateway.UpgradeShown} */
export const SCALE = { plan: "scale", name: "Scale", price_cents: 6999, allotment: "1400" };

/**
 * @param {Partial<Gateway.Charge>} [changes]
 * @returns {Gateway.Charge}
 */
export const charge = (changes = {}) => ({
  entry: "3-1042",
  appended_at: "2026-11-25T10:00:00Z",
  occurred_at: "2026-11-25T09:59:58Z",
  kind: "usage",
  event: { source: "/render", id: "gen_1" },
  period: 4,
  feature: "genai_video",
  feature_name: "GenAI Video",
  model: "veo_3",
  model_name: "Veo 3",
  quantity: "1",
  unit: "generation",
  credits: "32",
  remaining_after: "220",
  is_late: false,
  plan: null,
  plan_name: null,
  explanation: "1 generation at 32 credits a generation",
  rate: { credits: "32", unit: "generation", per: "1", rounding: "up" },
  catalog_version: "2026-11",
  reason: null,
  ...changes,
});
