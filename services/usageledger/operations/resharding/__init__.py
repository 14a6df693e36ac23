"""``reshard``: fills a new ledger from an old one, with another number of partitions.

1. `history` reads what the old ledger decided: the inputs in its order, and the accounts that
   follow.
2. `deciding` runs the owners of the new ledger's partitions in this process.
3. `comparing` compares every account and every open hold of both ledgers.
4. `running` does all this in order, and `servers` does it in Kafka and Redis.
"""
