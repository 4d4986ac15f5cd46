"""See and steer background work on Redis: records, frames, charts, pages, actions, HTTP API."""

__version__ = "0.1.0"
