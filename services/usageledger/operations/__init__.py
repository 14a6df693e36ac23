"""The work behind the operator's commands and the console, once for both. It decides no credits."""
