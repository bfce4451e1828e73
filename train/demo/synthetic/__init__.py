"""A made-up world to learn from: short videos of things that hit, ring and turn, with their sound and every event's time.

The data's way: ``scene`` draws what happens, ``picture`` shows it, ``sound`` lets it be heard, ``dataset`` writes it.
"""
