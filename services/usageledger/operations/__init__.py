"""What the operator's commands and the console do, once for both. Nothing here decides credits."""
