"""The Faust app that owns ledger partitions: claims, decides, appends, commits."""
