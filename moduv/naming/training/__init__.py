"""Trainings of naming: clips and crops as samples, and one file a network."""
