------------------------------- MODULE Limits -------------------------------
(* From one partition of the ledger to the same partition of limit.events, by
   consumers that store nothing: the last limit event says where to go on.
   Several may work at once, because a group that moves a partition cannot
   know that the previous consumer has stopped.                             *)
EXTENDS Naturals, Sequences, TLC

CONSTANTS
  Consumers,
  Ledger,     \* the future contents of the log: a sequence of [isValid, crossings]
  FaultsMax,  \* lost answers and deaths
  TakeMax,    \* records translated at once
  Without     \* checks that are taken out, to see that a promise then breaks

Checks == {"the last event", "its place within an entry", "the named offset",
           "batches without holes", "readers drop repeats", "resume again"}
ASSUME Without \subseteq Checks
With(check) == check \notin Without

VARIABLES
  written,    \* the number of ledger records that are written so far
  events,     \* limit.events: the places of the announced crossings, in the order of the log
  consumers,  \* the memory of each consumer
  late,       \* a batch that may still arrive, although its sender no longer waits
  committed,  \* the group's offset, as a client that commits by itself moves it
  faults
vars == <<written, events, consumers, late, committed, faults>>

----------------------------------------------------------------------------
(* A place is an entry's offset and which of its crossings: <<4, 1>>.       *)

Last(s) == s[Len(s)]
Min(a, b) == IF a < b THEN a ELSE b
NoPlace == <<0, 0>>
IsBeyond(p, q) == p[1] > q[1] \/ (p[1] = q[1] /\ p[2] > q[2])

PlacesAt(n, onlyValid) ==
  IF onlyValid => Ledger[n].isValid THEN [i \in 1..Ledger[n].crossings |-> <<n, i>>] ELSE <<>>
RECURSIVE Places(_, _, _)
Places(from, to, onlyValid) ==
  IF from > to THEN <<>> ELSE PlacesAt(from, onlyValid) \o Places(from + 1, to, onlyValid)
Crossings == Places(1, written, TRUE)

(* What a reader sees of limit.events: it drops each event that is not beyond
   the last place that it has seen.                                         *)
RECURSIVE SeenOf(_, _)
SeenOf(some, n) ==
  IF n = 0 THEN <<>>
  ELSE LET before == SeenOf(some, n - 1) IN
       IF With("readers drop repeats") /\ before # <<>> /\ ~IsBeyond(some[n], Last(before))
       THEN before
       ELSE Append(before, some[n])
Seen == SeenOf(events, Len(events))

----------------------------------------------------------------------------
Asleep == [pc |-> "asleep", next |-> 0, last |-> NoPlace, batch |-> <<>>, upto |-> 0]
Become(c, memory) == consumers' = [consumers EXCEPT ![c] = memory]

(* Look for the last limit event, and go on after it. *)
Resume(c) ==
  LET last == IF events = <<>> \/ ~With("the last event") THEN NoPlace ELSE Last(events)
      first == IF ~With("the last event") THEN committed + 1
               ELSE IF last = NoPlace THEN 1
               ELSE IF With("its place within an entry") THEN last[1] ELSE last[1] + 1
  IN /\ consumers[c].pc = "asleep"
     /\ Become(c, [Asleep EXCEPT !.pc = "reading", !.next = first, !.last = last])
     /\ UNCHANGED <<written, events, late, committed, faults>>

(* Translate some records. The crossings beyond the last event, in the same
   entry, are still to be announced.                                        *)
Take(c) ==
  LET me == consumers[c]
      upto == Min(me.next + TakeMax, written + 1)
      IsNew(place) == IsBeyond(place, me.last)
      batch == SelectSeq(Places(me.next, upto - 1, With("the named offset")), IsNew)
  IN /\ me.pc = "reading" /\ me.next <= written
     /\ Become(c, IF batch = <<>> THEN [me EXCEPT !.next = upto]
                  ELSE [me EXCEPT !.pc = "appending", !.batch = batch, !.upto = upto])
     /\ committed' = IF With("the last event") THEN committed ELSE upto - 1
     /\ UNCHANGED <<written, events, late, faults>>

Announce(c) ==
  LET me == consumers[c] IN
  /\ me.pc = "appending"
  /\ events' = events \o me.batch
  /\ Become(c, [me EXCEPT !.pc = "reading", !.next = me.upto, !.batch = <<>>, !.upto = 0])
  /\ UNCHANGED <<written, late, committed, faults>>

(* The consumer is killed, or an answer does not come in time. None, some or
   all of its batch is in the log, and the rest may still arrive. Kafka
   promises more: a batch is there whole or not at all.                     *)
GiveUp(c) ==
  LET me == consumers[c] IN
  /\ faults < FaultsMax /\ faults' = faults + 1
  /\ me.pc # "asleep"
  /\ \E n \in 0..Len(me.batch) :
       /\ events' = events \o SubSeq(me.batch, 1, n)
       /\ late' = IF late = <<>> THEN SubSeq(me.batch, n + 1, Len(me.batch)) ELSE late
  /\ Become(c, IF With("resume again") THEN Asleep ELSE [Asleep EXCEPT !.pc = "stopped"])
  /\ UNCHANGED <<written, committed>>

ArriveLate ==
  /\ late # <<>>
  /\ \/ events' = Append(events, Head(late))
     \/ ~With("batches without holes") /\ events' = events
  /\ late' = Tail(late)
  /\ UNCHANGED <<written, consumers, committed, faults>>

Write ==
  /\ written < Len(Ledger) /\ written' = written + 1
  /\ UNCHANGED <<events, consumers, late, committed, faults>>

Init ==
  /\ written = 0 /\ events = <<>> /\ late = <<>> /\ committed = 0 /\ faults = 0
  /\ consumers = [c \in Consumers |-> Asleep]
Step(c) == Resume(c) \/ Take(c) \/ Announce(c)
Next == Write \/ ArriveLate \/ \E c \in Consumers : Step(c) \/ GiveUp(c)
Spec == Init /\ [][Next]_vars

(* At least one consumer, the one that the group chose, does not stop. *)
FairSpec == Spec /\ WF_vars(Write) /\ \E c \in Consumers : WF_vars(Step(c))

----------------------------------------------------------------------------
EachCrossingIsSeenOnceAndInOrder ==
  Len(Seen) <= Len(Crossings) /\ Seen = SubSeq(Crossings, 1, Len(Seen))
EachCrossingIsAnnounced == <>[](Seen = Crossings)

Symmetry == Permutations(Consumers)
=============================================================================
