"""Scores the sound of a bundle for generated clips, whose events are known exactly, beside controls that must fail.

``clips`` reads what is true, ``systems`` make a wave for each clip, ``score`` measures one wave (with ``judge`` for the kind
of what is hit and ``pitch``) and pools clips, ``report`` writes. ``av_align`` is for real videos, whose events are not known.
"""
