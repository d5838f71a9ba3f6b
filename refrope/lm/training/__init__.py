"""Small language models trained on short windows of real text, and tested on long ones.

texts.py        what is read, and which texts are held out
tokens.py       bytes, or pairs of them that a tokenizer has learnt to join
windows.py      a training on random windows of a line of tokens, whatever the model
losses.py       what a model makes of long windows, a piece at a time
settings.py     presets, and everything that decides the numbers
sources.py      where a command has its texts and tokens from
runs.py         a grid of trainings, as `refrope.sweep` conducts them
command.py      ``refrope lm train | report | save``
reporting.py    what was found, with tables.py and figures.py
saving.py       a trained model as a directory that other programs read
"""
