"""Who decides: constrained PPO, multiplier, curriculum, baselines and their evaluation."""
