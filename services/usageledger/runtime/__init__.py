"""The needs of every service process: settings, telemetry, signals, back-off, ending tasks."""
