"""Shipped recipes (YAML) and prompt lists (text)."""
