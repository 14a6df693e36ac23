"""From records to sealed entries and back. Pure: no I/O, no clock."""
