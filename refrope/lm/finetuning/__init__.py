"""Checkpoints that go on training with another encoding in the place of their own, and are tested before and after.

settings.py     everything that decides the numbers
sources.py      the checkpoint and the texts as its tokens, each by SHA-256
runs.py         one run an encoding and seed, and one an encoding that only tests, as `refrope.sweep` conducts them
needs.py        memory and disk that they take, said and refused before anything begins
planning.py     how many steps fit into a time
command.py      ``refrope lm finetune``
reporting.py    what was found, with tables.py and figures.py
saving.py       a model of a run with its tokenizer, for ``refrope lm save``

Texts, windows and losses are those of `refrope.lm.training`.
"""
