"""The API for other systems, under /api: JSON in and out, every error as problem details, described by its own OpenAPI document."""
