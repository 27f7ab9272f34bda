"""People and applications: who they are, how they show it, and what they may do. It knows no web framework."""
