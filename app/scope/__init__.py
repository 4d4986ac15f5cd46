"""What a notebook holds in its hands: a deployment, its queries, its jobs, its live views."""
