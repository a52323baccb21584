"""Draws the dashboards for the documentation."""
