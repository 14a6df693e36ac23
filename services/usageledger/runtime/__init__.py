"""What every service process needs: settings, telemetry, signals, back-off, ending tasks."""
