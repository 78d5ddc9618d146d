"""Private servers of our own, so that a fresh machine needs nothing: PostgreSQL and Valkey from wheels, and an SMTP catcher.

Real servers over loopback. The same code runs against any others: only URLs change.
"""
