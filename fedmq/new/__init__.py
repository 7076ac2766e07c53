"""A small project for a start: a task, settings for both roles, a README and a test that passes."""
