"""The Faust app that owns ledger partitions: it claims, decides, appends and commits.

A fetch is handed over five times before anything is decided::

    Faust         `transport.FetchConsumer` turns what aiokafka fetched into one event
      │ on_fetch
    worker        `worker._Worker` finds the partition's feed; a fetch of another's is dropped
      │ accept
    feed          `feed.PartitionFeed` checks epoch and serial: nothing stale, nothing missing
      │ put
    buffer        `inputs.InputBuffer` queues the records of both inputs; pauses when it is full
      │ pop
    merge         `merge.Merge` chooses what comes next: records, due accounts or a catalog
      │ next
    owner         `owner.PartitionOwner` decides, appends to the ledger and commits to the view
"""
