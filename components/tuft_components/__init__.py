"""Packaged steps of a reinforcement-learning pipeline: start_run, rollout, feedback, update, evaluate.

Importing this package, or any step, needs neither torch nor kfp.
"""
