"""Pages: pure layout over a snapshot. Each module is one noun of what a person sees."""
