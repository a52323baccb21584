"""Whether a machine's GPUs are fit for work, judged from one reading by the thresholds of the alert rules.

``criteria.py`` is the table, ``judge.py`` applies it, ``render.py`` writes the result for people and for programs.
Nothing here changes anything: what follows from a verdict is for whoever asked.
"""
