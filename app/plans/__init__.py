"""Plans: what is asked of a deployment as a value, and the commands that answer it, known before anything is sent."""
