"""The reinforcement-learning core: pure functions over numpy arrays, each with its source."""
