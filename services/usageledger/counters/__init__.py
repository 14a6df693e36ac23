"""The views in Redis: key names, scripts, reading, and holds. (Users read "counters".)"""
