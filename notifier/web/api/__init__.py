"""The API for other systems, under /api, described by its own OpenAPI document.

JSON in and out, every error as problem details.
"""
