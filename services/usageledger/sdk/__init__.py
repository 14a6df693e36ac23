"""What runs in others' processes: reporting usage, asking before a use, hearing of limits, account
tokens.
"""
