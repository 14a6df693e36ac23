"""What every service process needs: settings, telemetry, signals."""
