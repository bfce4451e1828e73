"""A generated world to learn from: short videos of things that hit, ring and turn, with their sound and every event's time.

``scene`` draws what happens, ``render`` makes its frames, ``audio`` its sound, ``dataset`` writes them to files.
"""
