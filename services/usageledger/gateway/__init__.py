"""The gateway: checks, holds, reports, limit events and the usage meter over HTTP."""
