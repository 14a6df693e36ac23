---------------------------- MODULE LimitsCases ----------------------------
(* The contents of the ledger in the cases of limits.cfg. *)
EXTENDS Limits

Entry(crossings) == [isValid |-> TRUE, crossings |-> crossings]
(* An entry of a superseded owner: it is not at the offset that it names. *)
Stale(crossings) == [isValid |-> FALSE, crossings |-> crossings]

MixedLedger == <<Entry(1), Stale(1), Entry(2), Entry(1)>>
=============================================================================
