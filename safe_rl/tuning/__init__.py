"""A study of settings: its space, its trials, who runs them, and what they found."""
