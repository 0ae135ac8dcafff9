"""The trainer worker: runs the journalled operations of training runs on one base model."""
