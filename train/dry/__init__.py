"""A recipe's sizes, steps and memory, without its data and weights."""
