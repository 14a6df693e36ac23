------------------------------- MODULE Ledger -------------------------------
(* One partition of the ledger: the log is the truth, Redis holds a view of
   it, and workers come and go. README.md beside this file says which action
   is which function of the code, and what each bound is.

   Reading TLA+ for the first time: a state is one value for each VARIABLE.
   Each action below says when it can happen and what each variable is after
   it (x' is x in the next state). TLC goes through every state that any
   order of actions can reach, and looks at every INVARIANT in each of them.
   A worker that is frozen, for a second or for ever, is one that takes no
   step; so every freeze at every place is among these orders.             *)
EXTENDS Naturals, Sequences, TLC

CONSTANTS
  Workers,        \* the workers that can own the partition
  Usage, Account, \* the two input topics: sequences of [id, time, entries]
  Dues,           \* the times at which the account is due: <<the end of its period 1, ...>>
  Adopted0,       \* catalog versions that were adopted before this log begins
  Catalogs,       \* catalog versions that are ever published, Adopted0 included
  LastTime,       \* the clock goes from 0 to here
  IsImport,       \* the ledger is in import: the merge is strict, the wall clock does not count
  FaultsMax,      \* rollbacks, lost answers, deaths and moves of the partition, all together
  ChunkMax,       \* inputs decided in one chunk
  InFlightMax,    \* chunks that are decided and not yet committed
  ReadMax,        \* records that a catch-up reads at a time
  Without         \* checks that are taken out, to see that a promise then breaks

Checks == {"the gap", "the named offset", "the head at look-up", "the head at commit",
           "append before commit", "the overlay", "one batch an input", "batches in order",
           "whole inputs folded", "due dates folded", "adopted versions only",
           "the other input", "both ends asked", "the idle verifier", "claim again"}
ASSUME Without \subseteq Checks /\ InFlightMax \in 1..2
With(check) == check \notin Without

VARIABLES
  log,       \* ledger.entries: all appended records in the order of their offsets (from 1 on)
  view,      \* Redis: the offset that it folds next, and the entries that it has folded
  workers,   \* the memory of each worker
  late,      \* record batches that may still arrive, although their sender no longer waits
  assigned,  \* the worker to which the group gives the partition
  faults,    \* the number of faults so far
  now,       \* the wall clock; an input is in its topic from its time on
  published  \* catalog versions that are in the catalog topic
vars == <<log, view, workers, late, assigned, faults, now, published>>

----------------------------------------------------------------------------
(* Records. An entry names its cause in `asked`: <<"usage", 2>> is the second
   record of the usage topic, <<"due", 1>> the end of period 1. `at` is the
   offset that it expects to have; `place` is the offset that Kafka gave it.
   The entries that one input makes are numbered: `part` of `parts`.
   `follows` stands for the previous entry's hash.                          *)

Range(s) == {s[i] : i \in DOMAIN s}
Last(s) == s[Len(s)]
Max(a, b) == IF a > b THEN a ELSE b
Min(a, b) == IF a < b THEN a ELSE b

ClaimRecord(place) == [asked |-> <<"claim", 0>>, at |-> 0, place |-> place]

(* The reader's rule: an entry is valid if it is at the offset it names. *)
IsValid(r) == r.asked[1] # "claim" /\ (With("the named offset") => r.at = r.place)
ValidIn(records) == SelectSeq(records, IsValid)
Valid == ValidIn(log)
ValidBefore(n) == ValidIn(SubSeq(log, 1, n - 1))
Group(entries, n) == \* those that the same input made as the n-th
  LET IsSame(e) == e.asked = entries[n].asked IN SelectSeq(entries, IsSame)

(* The facts that a fold of entries has. *)
InputsOf(topic) == IF topic = "usage" THEN Usage ELSE Account
Topics == {"usage", "account"}
IsInput(e) == e.asked[1] \in Topics
Input(e) == InputsOf(e.asked[1])[e.asked[2]]
Count(entries, topic) == LET IsOf(e) == e.asked[1] = topic IN
  LET found == SelectSeq(entries, IsOf) IN IF found = <<>> THEN 0 ELSE Last(found).asked[2]
NextOf(entries, topic) == Count(entries, topic) + 1
Renewals(entries) == Count(entries, "due")
Adopted(entries) == Max(Adopted0, Count(entries, "catalog"))
Charged(entries) == {Input(e).id : e \in {f \in Range(entries) : IsInput(f) /\ f.charges}}
Asked(entries) == {Input(e).id : e \in {f \in Range(entries) : IsInput(f)}}
TimeOf(e) == IF e.asked[1] = "due" THEN Dues[e.asked[2]] ELSE Input(e).time
Dated(entries) == LET IsDated(e) == e.asked[1] # "catalog" IN SelectSeq(entries, IsDated)
Times(entries) == {TimeOf(e) : e \in Range(Dated(entries))}
Clock(entries) ==
  IF Times(entries) = {} THEN 0
  ELSE CHOOSE t \in Times(entries) : \A u \in Times(entries) : u <= t

----------------------------------------------------------------------------
(* A worker's memory. `position` is the state that it believes the view to
   have. Comparing it with the view stands for comparing (offset, hash),
   because a hash stands for all entries up to it. Its book is the fold up to
   its position, and the chunks in flight.                                  *)

Empty == [next |-> 1, chain |-> <<>>]
Forgotten == [pc |-> "out", claim |-> 0, position |-> Empty, read |-> 0,
              chunks |-> <<>>, arrived |-> 0, inPlace |-> TRUE, due |-> 0]

Flat(chunks) ==
  IF chunks = <<>> THEN <<>> ELSE IF Len(chunks) = 1 THEN chunks[1] ELSE chunks[1] \o chunks[2]
InFlight(w) == Flat(workers[w].chunks)
Book(w) == workers[w].position.chain \o InFlight(w)
NextOffset(w) == workers[w].position.next + Len(InFlight(w))

Become(w, memory) == workers' = [workers EXCEPT ![w] = memory]
Forget(w) == Become(w, Forgotten)
Superseded(w) ==
  Become(w, IF With("claim again") THEN Forgotten ELSE [Forgotten EXCEPT !.pc = "stopped"])
OnlyMemoryChanges == UNCHANGED <<log, view, late, assigned, faults, now, published>>

Claim(w) ==
  /\ workers[w].pc = "out"
  /\ log' = Append(log, ClaimRecord(Len(log) + 1))
  /\ Become(w, [Forgotten EXCEPT !.pc = "claimed", !.claim = Len(log')])
  /\ UNCHANGED <<view, late, assigned, faults, now, published>>

ReadHead(w) ==
  LET me == workers[w] IN
  /\ me.pc = "claimed"
  /\ IF view.next > me.claim + 1
     THEN Superseded(w)
     ELSE Become(w, [me EXCEPT !.pc = "catching up", !.position = view, !.read = view.next,
                               !.due = IF With("due dates folded") THEN 0
                                       ELSE Renewals(view.chain)])
  /\ OnlyMemoryChanges

(* Reads some records, folds the inputs whose end it has seen, and commits,
   until everything up to the claim is folded.                              *)
CatchUp(w) ==
  LET me == workers[w]
      end == me.claim + 1
      read == Min(me.read + ReadMax, end)
      unfolded == ValidIn(SubSeq(log, me.position.next, read - 1))
      stop == IF read < end /\ unfolded # <<>> /\ With("whole inputs folded")
              THEN Group(unfolded, Len(unfolded))[1].place ELSE read
      folded == [next |-> stop,
                 chain |-> view.chain \o ValidIn(SubSeq(log, me.position.next, stop - 1))]
      after == IF read = end THEN [me EXCEPT !.pc = "running", !.claim = 0, !.read = 0]
               ELSE [me EXCEPT !.read = read]
  IN /\ me.pc = "catching up"
     /\ IF stop = me.position.next
        THEN Become(w, after) /\ UNCHANGED view
        ELSE IF view = me.position
             THEN view' = folded /\ Become(w, [after EXCEPT !.position = folded])
             ELSE Forget(w) /\ UNCHANGED view
     /\ UNCHANGED <<log, late, assigned, faults, now, published>>

----------------------------------------------------------------------------
(* Deciding. A worker asks the view for state that it has not in memory. The
   view answers only if its head is the one that the worker believes in. State
   on its way to the view is in memory and counts first.                    *)

Drafts(asked, parts, charges, by) ==
  [i \in 1..parts |->
    [asked |-> asked, part |-> i, parts |-> parts, charges |-> charges, by |-> by]]

Sealed(w, drafts) ==
  LET book == Book(w)
      previous == IF book = <<>> THEN 0 ELSE Last(book).at
      version == IF With("adopted versions only") THEN Adopted(book) ELSE published
  IN [i \in DOMAIN drafts |->
       [asked |-> drafts[i].asked, part |-> drafts[i].part, parts |-> drafts[i].parts,
        charges |-> drafts[i].charges, by |-> drafts[i].by, version |-> version,
        at |-> NextOffset(w) + i - 1, place |-> NextOffset(w) + i - 1,
        follows |-> IF i = 1 THEN previous ELSE NextOffset(w) + i - 2]]

Put(w, drafts) == Become(w, [workers[w] EXCEPT !.chunks = Append(@, Sealed(w, drafts))])

CanDecide(w) == workers[w].pc = "running" /\ Len(workers[w].chunks) < InFlightMax
HasCatalog(w) == (IF With("adopted versions only") THEN Adopted(Book(w)) ELSE published) > 0
InMemory(w) == IF With("the overlay") THEN InFlight(w) ELSE <<>>
LookUpFails(w) == With("the head at look-up") /\ view # workers[w].position
KnownCharged(w) == Charged(view.chain) \cup Charged(InMemory(w))

RECURSIVE DraftsOf(_, _, _, _)
DraftsOf(topic, n, last, charged) ==
  IF n > last THEN <<>>
  ELSE LET input == InputsOf(topic)[n]
           isNew == input.id \notin charged
       IN Drafts(<<topic, n>>, IF isNew THEN input.entries ELSE 1, isNew, "input")
          \o DraftsOf(topic, n + 1, last, charged \cup {input.id})

IsThere(topic, n) == n <= Len(InputsOf(topic)) /\ InputsOf(topic)[n].time <= now
Other(topic) == IF topic = "usage" THEN "account" ELSE "usage"

(* The merge. Live, either topic may come next: the worker waits a second for
   the other one, which may be slow. In import, a record waits if the other
   topic's next record comes before it.                                     *)
MayTake(w, topic, last) ==
  LET other == Other(topic)
      next == NextOf(Book(w), other)
      time == InputsOf(topic)[last].time
  IN (IsImport /\ With("the other input") /\ IsThere(other, next)) =>
       IF topic = "account" THEN time <= InputsOf(other)[next].time
       ELSE time < InputsOf(other)[next].time

DueListed(w) == IF With("due dates folded") THEN Renewals(Book(w)) + 1 ELSE workers[w].due + 1
IsDueBy(w, time) == DueListed(w) <= Len(Dues) /\ Dues[DueListed(w)] <= Max(Clock(Book(w)), time)

DecideRecords(w) ==
  /\ CanDecide(w) /\ HasCatalog(w)
  /\ \E topic \in Topics, n \in 1..ChunkMax :
       LET first == NextOf(Book(w), topic)
           last == first + n - 1
           ids == {InputsOf(topic)[i].id : i \in first..last}
       IN /\ IsThere(topic, last)
          /\ MayTake(w, topic, last)
          /\ ~IsDueBy(w, InputsOf(topic)[last].time)
          /\ IF LookUpFails(w) /\ ~(ids \subseteq Asked(InMemory(w)))
             THEN Forget(w)
             ELSE Put(w, DraftsOf(topic, first, last, KnownCharged(w)))
  /\ OnlyMemoryChanges

(* A due account is renewed by the next record's time, or by the wall clock.
   For the latter, both inputs must be read to their ends, which the worker
   asks for at that moment.                                                 *)
DueByRecord(w) ==
  \E topic \in Topics : LET n == NextOf(Book(w), topic) IN
    IsThere(topic, n) /\ MayTake(w, topic, n) /\ IsDueBy(w, InputsOf(topic)[n].time)
DueByClock(w) ==
  /\ ~IsImport /\ DueListed(w) <= Len(Dues) /\ Dues[DueListed(w)] < now
  /\ With("both ends asked") => \A topic \in Topics : ~IsThere(topic, NextOf(Book(w), topic))

DecideDue(w) ==
  LET k == DueListed(w) IN
  /\ CanDecide(w) /\ HasCatalog(w)
  /\ \E by \in {"record", "clock"} :
       /\ IF by = "record" THEN DueByRecord(w) ELSE DueByClock(w)
       /\ IF LookUpFails(w) /\ \A e \in Range(InMemory(w)) : e.asked[1] = "catalog"
          THEN Forget(w)
          ELSE LET renewal == Sealed(w, Drafts(<<"due", k>>, 1, FALSE, by)) IN
               Become(w, [workers[w] EXCEPT !.chunks = Append(@, renewal),
                                            !.due = IF With("due dates folded") THEN 0 ELSE k])
  /\ OnlyMemoryChanges

Adopt(w) ==
  /\ CanDecide(w)
  /\ Adopted(Book(w)) < published
  /\ Put(w, Drafts(<<"catalog", Adopted(Book(w)) + 1>>, 1, FALSE, "input"))
  /\ OnlyMemoryChanges

----------------------------------------------------------------------------
(* Appending and committing. A chunk is sent as record batches in order, each
   with the whole of one input (or more). Then their offsets are checked.   *)

Batch(entries, from) ==
  IF With("one batch an input") THEN Group(SubSeq(entries, from, Len(entries)), 1)
  ELSE <<entries[from]>>
Appended(batch) == log \o [i \in DOMAIN batch |-> [batch[i] EXCEPT !.place = Len(log) + i]]
HasArrived(me) == me.chunks # <<>> /\ me.arrived = Len(me.chunks[1])

Arrive(w) ==
  LET me == workers[w] IN
  /\ me.chunks # <<>> /\ me.arrived < Len(me.chunks[1])
  /\ LET batch == Batch(me.chunks[1], me.arrived + 1) IN
       /\ log' = Appended(batch)
       /\ Become(w, [me EXCEPT !.arrived = @ + Len(batch),
                               !.inPlace = @ /\ batch[1].at = Len(log) + 1])
  /\ UNCHANGED <<view, late, assigned, faults, now, published>>

Commit(w) ==
  LET me == workers[w] IN
  /\ me.chunks # <<>> /\ (With("append before commit") => HasArrived(me))
  /\ LET next == me.position.next + Len(me.chunks[1]) IN
     IF With("the gap") /\ ~me.inPlace
     THEN Superseded(w) /\ UNCHANGED view
     ELSE IF With("the head at commit") /\ view # me.position
          THEN Forget(w) /\ UNCHANGED view
          ELSE LET chain == me.position.chain \o me.chunks[1] IN
               /\ view' = [next |-> next, chain |-> view.chain \o me.chunks[1]]
               /\ Become(w, [me EXCEPT !.position = [next |-> next, chain |-> chain],
                                       !.chunks = Tail(@), !.arrived = 0])
  /\ UNCHANGED <<log, late, assigned, faults, now, published>>

(* About once a second a worker compares the head, because Redis may fall
   back while nothing flows.                                                *)
Verify(w) ==
  /\ With("the idle verifier")
  /\ workers[w].pc = "running" /\ view # workers[w].position
  /\ Forget(w)
  /\ OnlyMemoryChanges

----------------------------------------------------------------------------
(* The faults, and the events outside.                                      *)

Fault == faults < FaultsMax /\ faults' = faults + 1

(* The worker is killed, or an answer does not come in time. Its memory is
   lost. Batches that it has sent may still arrive, or never.               *)
GiveUp(w) ==
  /\ Fault
  /\ workers[w].pc \in {"claimed", "catching up", "running"}
  /\ late' = IF late = <<>> /\ workers[w].chunks # <<>>
             THEN SubSeq(workers[w].chunks[1], workers[w].arrived + 1, Len(workers[w].chunks[1]))
             ELSE late
  /\ Forget(w)
  /\ UNCHANGED <<log, view, assigned, now, published>>

ArriveLate ==
  /\ late # <<>>
  /\ LET batch == Batch(late, 1) IN
       /\ late' = SubSeq(late, Len(batch) + 1, Len(late))
       /\ log' = Appended(batch) \/ (~With("batches in order") /\ log' = log)
  /\ UNCHANGED <<view, workers, assigned, faults, now, published>>

(* Redis fails over or is emptied, and has the state of some earlier time. A
   view always ends after a claim or after an input.                        *)
CanStandAt(n) ==
  \/ n = 1
  \/ log[n - 1].asked[1] = "claim"
  \/ IsValid(log[n - 1]) /\ log[n - 1].part = log[n - 1].parts
FallBack ==
  /\ Fault
  /\ \E n \in {m \in 1..(view.next - 1) : CanStandAt(m)} :
       view' = [next |-> n, chain |-> ValidBefore(n)]
  /\ UNCHANGED <<log, workers, late, assigned, now, published>>

(* The group gives the partition to another worker. The previous one may not
   know that yet, or may be frozen: it goes on from where it was.           *)
Move ==
  /\ Fault
  /\ assigned' \in Workers \ {assigned}
  /\ UNCHANGED <<log, view, workers, late, now, published>>

Tick ==
  /\ now < LastTime /\ now' = now + 1
  /\ UNCHANGED <<log, view, workers, late, assigned, faults, published>>
Publish ==
  /\ published < Catalogs /\ published' = published + 1
  /\ UNCHANGED <<log, view, workers, late, assigned, faults, now>>

Init ==
  /\ log = <<>> /\ view = Empty /\ late = <<>> /\ faults = 0 /\ now = 0 /\ published = Adopted0
  /\ workers = [w \in Workers |-> Forgotten]
  /\ assigned \in Workers

Step(w) ==
  \/ (assigned = w /\ Claim(w)) \/ ReadHead(w) \/ CatchUp(w)
  \/ DecideRecords(w) \/ DecideDue(w) \/ Adopt(w) \/ Arrive(w) \/ Commit(w) \/ Verify(w)
Next == Tick \/ Publish \/ FallBack \/ Move \/ ArriveLate \/ \E w \in Workers : Step(w) \/ GiveUp(w)
Spec == Init /\ [][Next]_vars

(* Time passes, catalogs are published, and the worker that has the partition
   does not stop for ever. Nothing is required of the other workers.        *)
Fairness == WF_vars(Tick) /\ WF_vars(Publish) /\ \A w \in Workers : WF_vars(assigned = w /\ Step(w))
FairSpec == Spec /\ Fairness

----------------------------------------------------------------------------
(* The promises that are true in every state.                               *)

Firsts(entries) == LET IsFirst(e) == e.part = 1 IN SelectSeq(entries, IsFirst)
Of(entries, topic) == LET IsOf(e) == e.asked[1] = topic IN SelectSeq(Firsts(entries), IsOf)
IsNumbered(entries) == \A i \in DOMAIN entries : entries[i].asked[2] = i

ViewIsAFold == view.chain = ValidBefore(view.next)
ViewIsNotAheadOfTheLog == view.next <= Len(log) + 1
ViewStandsBetweenInputs == view.chain = <<>> \/ Last(view.chain).part = Last(view.chain).parts

(* Each input has its entries once, in the order of its topic, and none is
   left out: inputs = charges + duplicates.                                 *)
EachInputIsDecidedOnce == \A topic \in Topics : IsNumbered(Of(Valid, topic))
InputsAreWhole ==
  LET v == Valid IN
  \A i \in DOMAIN v : v[i].part < v[i].parts =>
    i < Len(v) /\ v[i + 1].asked = v[i].asked /\ v[i + 1].part = v[i].part + 1

(* Only the first input of an identity charges it.                          *)
EachIdentityIsChargedOnce ==
  LET v == Firsts(Valid) IN
  \A i \in DOMAIN v : IsInput(v[i]) =>
    (v[i].charges <=> ~\E j \in 1..(i - 1) : IsInput(v[j]) /\ Input(v[j]).id = Input(v[i]).id)

EachPeriodIsRenewedOnce == IsNumbered(Of(Valid, "due"))
TheChainIsUnbroken ==
  LET v == Valid IN \A i \in DOMAIN v : v[i].follows = IF i = 1 THEN 0 ELSE v[i - 1].at
EntriesNameAnAdoptedVersion ==
  LET v == Valid IN \A i \in DOMAIN v :
    /\ v[i].version = Adopted(SubSeq(v, 1, i - 1))
    /\ v[i].asked[1] # "catalog" => v[i].version > 0
VersionsAreAdoptedOnce ==
  LET v == Of(Valid, "catalog") IN \A i \in DOMAIN v : v[i].asked[2] = Adopted0 + i

(* In import, entries are in the order of time, account before usage.       *)
ImportsInOrder ==
  IsImport => LET v == Dated(Valid) IN \A i \in 1..(Len(v) - 1) :
    /\ TimeOf(v[i]) <= TimeOf(v[i + 1])
    /\ (v[i].asked[1] = "usage" /\ v[i + 1].asked[1] = "account") => TimeOf(v[i]) < TimeOf(v[i + 1])

(* Live, a renewal that no record caused comes after all records that were
   appended before it was due.                                              *)
ClockRenewsLast ==
  LET v == Dated(Valid) IN
  \A i \in DOMAIN v : v[i].by = "clock" => \A j \in (i + 1)..Len(v) : TimeOf(v[j]) >= TimeOf(v[i])

----------------------------------------------------------------------------
(* The promises that come true in the end, if faults end.                   *)

AllIsDecided ==
  LET v == Valid IN
  /\ \A topic \in Topics : Len(Of(v, topic)) = Len(InputsOf(topic))
  /\ Renewals(v) = Len(Dues)
  /\ Adopted(v) = Catalogs
EverythingIsDecided == <>[]AllIsDecided
TheViewCatchesUp == <>[](view.chain = Valid)

Symmetry == Permutations(Workers)
=============================================================================
