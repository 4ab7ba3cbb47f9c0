"""Scores of forecasts, promises and policies against what was measured."""
