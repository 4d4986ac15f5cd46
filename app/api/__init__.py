"""The HTTP API: one module per noun, put together by ``application``."""
