"""Training data, from a list of clips to the batches of a step.

lists.py     train.jsonl -> Listing of Entry
raw.py       Listing -> RawSource: clips decoded each time they are read
prepare.py   Listing -> a folder of prepared clips, which prepared.py reads: PreparedSource
loader.py    either source -> Loader.steps(): for every step, the micro-batches of this process
"""
