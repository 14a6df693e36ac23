// The gateway's answers. `make schemas` writes this file from schemas/openapi.json.

declare namespace Gateway {
  interface AccountList {
    items: AccountShown[];
    next_cursor: string | null;
    history_as_of: string | null;
  }

  interface AccountShown {
    account: string;
    plan: string;
    plan_name: string;
    used: string;
    remaining: string;
    blocked: boolean;
    last_used_at: string | null;
  }

  interface AccountToken {
    account: string;
    token: string;
    expires_at: string;
  }

  interface Blocked {
    account: string;
    since: string;
    reason: string;
    plan: string;
    remaining: string;
    upgrade: UpgradeShown | null;
    suspension: string | null;
    event_id: string;
  }

  interface BlockedList {
    items: Blocked[];
    next_cursor: string | null;
    from: FollowedFrom;
  }

  interface BlockedShown {
    reason: string;
    since: string | null;
    suspension: string | null;
    upgrade: UpgradeShown | null;
    resets_at: string | null;
  }

  interface CatalogFeature {
    id: string;
    name: string;
    section: string;
    rate: RateShown | null;
    models: CatalogModel[];
  }

  interface CatalogList {
    items: CatalogShown[];
    partitions: number | null;
  }

  interface CatalogModel {
    id: string;
    name: string;
    rate: RateShown;
  }

  interface CatalogPlan {
    id: string;
    name: string;
    price_cents: number;
    allotment: string;
    renews: boolean;
    thresholds: string[] | null;
  }

  interface CatalogShown {
    version: string;
    effective_from: string;
    is_in_force: boolean;
    adopted_by: number | null;
    plans: CatalogPlan[];
    features: CatalogFeature[];
    thresholds: string[];
    unknown_accounts: "free" | "refuse";
  }

  interface Charge {
    entry: string;
    appended_at: string;
    occurred_at: string | null;
    kind:
      | "usage"
      | "void"
      | "grant"
      | "grant_expired"
      | "renewal"
      | "plan_change"
      | "account_opened"
      | "suspension"
      | "resumption";
    event: EventShown | null;
    period: number | null;
    feature: string | null;
    feature_name: string | null;
    model: string | null;
    model_name: string | null;
    quantity: string | null;
    unit: string | null;
    credits: string;
    remaining_after: string | null;
    is_late: boolean;
    plan: string | null;
    plan_name: string | null;
    explanation: string;
    rate: RateShown | null;
    catalog_version: string | null;
    reason: string | null;
  }

  interface ChargePage {
    items: Charge[];
    next_cursor: string | null;
    history_as_of: string | null;
  }

  interface CheckShown {
    remaining: string;
    held: string;
    available: string;
    resets_at: string | null;
    as_of: string | null;
    account: string;
    allowed: boolean;
    reason: "insufficient_credits" | "suspended" | "unknown_account" | null;
    suspension: string | null;
    cost: string;
    upgrade: UpgradeShown | null;
  }

  interface DayShown {
    date: string;
    credits: string;
    features: Record<string, string>;
  }

  interface DeliveryList {
    items: DeliveryShown[];
    next_cursor: string | null;
  }

  interface DeliveryShown {
    id: string;
    event_id: string;
    type: string;
    account: string;
    state: "pending" | "delivered" | "dead";
    attempts: number;
    last_status: number | null;
    last_error: string | null;
    next_attempt_at: string | null;
    created_at: string;
  }

  interface EndpointChange {
    url?: string | null;
    types?: ("limit.threshold" | "limit.reached" | "limit.cleared")[] | null;
    accounts?: string[] | null;
    description?: string | null;
    enabled?: boolean | null;
  }

  interface EndpointList {
    items: EndpointShown[];
  }

  interface EndpointMade {
    id: string;
    secret: string;
  }

  interface EndpointShown {
    id: string;
    url: string;
    types: ("limit.threshold" | "limit.reached" | "limit.cleared")[];
    accounts: string[];
    description: string;
    created_at: string;
    state: "active" | "failing" | "disabled";
    disabled_because: string | null;
    pending: number;
    dead: number;
    secrets: number;
    last_success_at: string | null;
    last_failure: LastFailure | null;
  }

  interface EventShown {
    source: string;
    id: string;
  }

  interface FeatureUse {
    id: string;
    name: string;
    credits: string;
    uses: number;
    models: ModelUse[];
  }

  interface FollowedFrom {
    last_event_ids: Record<string, string>;
  }

  interface GrantShown {
    source: string;
    id: string;
    credits: string;
    left: string;
    granted_at: string;
    expires_at: string | null;
  }

  interface HoldAsked {
    feature: string;
    model?: string | null;
    quantity?: string | number;
    id: string;
    expires_in?: number;
  }

  interface HoldGiven {
    remaining: string;
    held: string;
    available: string;
    resets_at: string | null;
    as_of: string | null;
    account: string;
    id: string;
    state: "open" | "settled" | "released";
    feature: string;
    model: string | null;
    quantity: string;
    credits: string;
    expires_at: string | null;
  }

  interface HoldReleased {
    account: string;
    id: string;
    state: "settled" | "released" | "gone";
  }

  interface HoldShown {
    account: string;
    id: string;
    state: "open" | "settled" | "released";
    feature: string;
    model: string | null;
    quantity: string;
    credits: string;
    expires_at: string | null;
  }

  interface HoldsShown {
    open: number;
    credits: string;
  }

  interface InvalidField {
    pointer: string;
    detail: string;
  }

  interface Item {
    id: string | null;
    source: string | null;
    subject: string | null;
    result: "accepted" | "invalid" | "unavailable";
    topic?: string | null;
    partition?: number | null;
    offset?: number | null;
    code?: string | null;
    detail?: string | null;
    pointer?: string | null;
  }

  interface KeyList {
    items: KeyShown[];
    next_cursor: string | null;
  }

  interface KeyMade {
    id: string;
    key: string;
  }

  interface KeyShown {
    id: string;
    name: string;
    scopes: ("report" | "check" | "hold" | "read" | "admin")[];
    sources: string[];
    accounts: string[];
    events_per_second: number | null;
    created_at: string;
    revoked_at: string | null;
    secrets: SecretShown[];
  }

  interface LagReport {
    at: string;
    services: ServiceLag[];
    partitions: PartitionShown[];
  }

  interface LastFailure {
    at: string;
    detail: string;
  }

  interface Meter {
    account: string;
    at: string;
    as_of: string | null;
    plan: PlanShown;
    period: PeriodShown;
    allotment: string;
    granted: string;
    used: string;
    held: string;
    remaining: string;
    available: string;
    share_used: string;
    blocked: BlockedShown | null;
    upgrade: UpgradeShown | null;
    holds: HoldsShown;
    by_feature: Record<string, string>;
    known: boolean;
    time_zone: string;
    next_plan: PlanShown | null;
    thresholds: string[];
    grants: GrantShown[];
    features: FeatureUse[];
    days: DayShown[];
    pace: PaceShown | null;
    renewal: RenewalShown | null;
    history_as_of: string | null;
  }

  interface ModelUse {
    id: string | null;
    name: string | null;
    credits: string;
    quantity: string;
    unit: string | null;
    uses: number;
  }

  interface NewAccountToken {
    expires_in?: number;
    scopes?: ("check" | "hold" | "read")[];
  }

  interface NewEndpoint {
    url: string;
    types?: ("limit.threshold" | "limit.reached" | "limit.cleared")[];
    accounts?: string[];
    description?: string;
  }

  interface NewKey {
    name: string;
    scopes: ("report" | "check" | "hold" | "read" | "admin")[];
    sources?: string[];
    accounts?: string[];
    events_per_second?: number | null;
  }

  interface PaceShown {
    days: string;
    credits_per_day: string;
    used_up_at: string | null;
    at_period_end: string | null;
  }

  interface PartitionShown {
    partition: number;
    state: string;
    undecided: number;
    lag: Record<string, number>;
    detail: string;
    needs_somebody: boolean;
    worker: string | null;
  }

  interface PeriodListed {
    number: number;
    start: string;
    end: string | null;
    plan: string;
    plan_name: string;
    allotment: string;
    granted: string;
    used: string;
    by_feature: Record<string, string>;
  }

  interface PeriodPage {
    items: PeriodListed[];
    next_cursor: string | null;
    history_as_of: string | null;
  }

  interface PeriodShown {
    number: number;
    start: string;
    end: string | null;
  }

  interface PlanShown {
    id: string;
    name: string;
    price_cents: number;
    allotment: string;
    renews: boolean;
  }

  interface ProblemDetails {
    type: string;
    title: string;
    status: number;
    detail: string;
    code: string;
    errors?: InvalidField[] | null;
  }

  interface QuoteAsked {
    uses: UseAsked[];
  }

  interface QuoteShown {
    total: string;
    uses: QuotedUse[];
    fits: UpgradeShown[];
    catalog: string;
  }

  interface QuotedUse {
    feature: string;
    model: string | null;
    quantity: string;
    credits: string;
  }

  interface RateShown {
    credits: string;
    unit: string;
    per: string;
    rounding: "up" | "exact";
  }

  interface RefusalList {
    items: RefusalShown[];
    next_cursor: string | null;
    history_as_of: string | null;
  }

  interface RefusalShown {
    entry: string;
    account: string | null;
    reason: string;
    detail: string;
    appended_at: string;
    event: EventShown | null;
    feature: string | null;
    model: string | null;
    is_resolved: boolean;
    place: string;
    records?: number;
    reasons?: Record<string, number> | null;
  }

  interface RenewalShown {
    at: string;
    plan: string;
    plan_name: string;
    allotment: string;
    lapses: string;
    granted_left: string;
  }

  interface Report {
    items: Item[];
  }

  interface ResendReport {
    items: Resent[];
  }

  interface Resending {
    entries: string[];
  }

  interface Resent {
    entry: string;
    result: "sent" | "already_resolved" | "not_found" | "gone" | "not_sendable" | "unavailable";
    detail?: string | null;
  }

  interface Rotation {
    overlap_s?: number;
  }

  interface SecretRotation {
    overlap_s?: number;
  }

  interface SecretShown {
    created_at: string;
    expires_at: string | null;
  }

  interface ServiceLag {
    name: string;
    records: number;
  }

  interface UpgradeShown {
    plan: string;
    name: string;
    price_cents: number;
    allotment: string;
  }

  interface UseAsked {
    feature: string;
    model?: string | null;
    quantity?: string | number;
  }
}
