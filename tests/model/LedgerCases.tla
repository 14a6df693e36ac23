---------------------------- MODULE LedgerCases ----------------------------
(* The contents of the two input topics, and the times at which the account
   is due, in the cases that the *.cfg files beside this module choose from. *)
EXTENDS Ledger

One(id, time) == [id |-> id, time |-> time, entries |-> 1]
Two(id, time) == [id |-> id, time |-> time, entries |-> 2]
Nothing == <<>>

RepeatedUsage == <<Two("x", 0), One("x", 0), One("y", 0)>>
UsedTwice == <<One("x", 0), One("x", 0)>>
OneUse == <<One("x", 0)>>
UsageAround == <<One("x", 0), One("y", 2)>>
AccountAround == <<One("p", 1), One("q", 2)>>
OneAccountEvent == <<Two("p", 1)>>
FirstPeriodEnds == <<1>>
=============================================================================
