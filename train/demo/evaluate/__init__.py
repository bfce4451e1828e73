"""What a bundle's sound is worth: scored as waves, against events known exactly, beside controls that must fail.

The way of the figures: ``clips`` reads what is true, ``systems`` give a wave for each clip, ``score`` measures one wave
(with the ``judge`` of kinds, ``pitch`` of what is struck and ``hum`` of what turns) and pools clips, ``report`` writes.
``av_align`` is for real videos, of which no events are known.
"""
