"""What people are told: notices and alerts raised, metrics watched, messages delivered to channels."""
