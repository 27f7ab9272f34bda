"""Accounts of people and applications: users, sessions, tokens, one-time links. It knows no web framework."""
