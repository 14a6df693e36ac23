"""usageledger: an event-sourced ledger of AI-generation credits."""
