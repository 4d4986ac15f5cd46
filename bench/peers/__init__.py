"""The peers: each run by path in its own environment, see install.sh."""
