"""From an officer's file to recipients.

Tables are read, columns found, rows checked, and everything is accounted for.
"""
