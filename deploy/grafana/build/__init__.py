"""The generator of the Grafana dashboards: ``python -m build`` (in deploy/grafana) writes ../dashboards/*.json.

``promql`` has the selectors and legends, ``panels`` the kinds of panels, ``dashboard`` variables, links and the grid;
each dashboard is a module of its own. Standard library only: the files are read by a test that generates them again.
"""
