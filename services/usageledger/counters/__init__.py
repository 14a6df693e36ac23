"""Redis: key names, the scripts, reads, holds."""
