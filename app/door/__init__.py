"""The door of the dashboard's server: what a request passes before a page or a route has it."""
