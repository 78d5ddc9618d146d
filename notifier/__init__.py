"""Notification and taxpayer communication service of a city tax administration."""

__version__ = "0.2.0"
