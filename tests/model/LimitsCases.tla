---------------------------- MODULE LimitsCases ----------------------------
(* What lies in the ledger in the cases of limits.cfg. *)
EXTENDS Limits

Entry(crossings) == [isValid |-> TRUE, crossings |-> crossings]
Stale(crossings) == [isValid |-> FALSE, crossings |-> crossings]  \* of an owner that was superseded: not where it says

MixedLedger == <<Entry(1), Stale(1), Entry(2), Entry(1)>>
=============================================================================
