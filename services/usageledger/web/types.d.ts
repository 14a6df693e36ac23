// Types that JSDoc cannot say. Nothing here runs, and nothing here is served.

/** What `element("p.muted")` makes: the element that its tag's name stands for. */
type ElementOf<Tag extends string> = Tag extends `${infer Name}.${string}`
  ? ElementNamed<Name>
  : ElementNamed<Tag>;

type ElementNamed<Name extends string> = Name extends keyof HTMLElementTagNameMap
  ? HTMLElementTagNameMap[Name]
  : Name extends keyof SVGElementTagNameMap
    ? SVGElementTagNameMap[Name]
    : HTMLElement;

/** A listener of any event. As a method's, its parameter may be a narrower event. */
type Listener = { listen(event: Event): unknown }["listen"];

interface HTMLElementTagNameMap {
  "usage-meter": import("./usage-meter.js").UsageMeter;
}

declare namespace Gateway {
  /** What the stream's `meter` event has of the meter: the figures, without the history. */
  type LiveMeter = Omit<
    Meter,
    | "known"
    | "time_zone"
    | "next_plan"
    | "thresholds"
    | "grants"
    | "features"
    | "days"
    | "pace"
    | "renewal"
    | "history_as_of"
  >;
}

/**
 * What a view of the console is given. `one` is the name behind the view's own in the address
 * (`#/accounts/acct_4821`), or "". `signal` ends when another view is shown.
 */
interface Address {
  one: string;
  query: URLSearchParams;
  signal: AbortSignal;
}
