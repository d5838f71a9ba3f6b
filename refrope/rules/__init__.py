"""What PosGen measures: which rule a trained model uses, and what the tasks give away.

a model, its task ──► Subject ──► probes      sequences on which rule and shortcut part: whom answers follow
                             ├──► responses   one token changed: what answers add up
                             ├──► memory      contexts that training never had, and what tables of them score
                             └──► attention   where heads look
the tasks alone   ──────────────► shortcuts   rules of two tokens
                             └──► cycles      sequences that repeat
                  ──► examining ──► tables, figures, ``refrope rules``
"""

from refrope.rules.examining import examine, examine_tasks
from refrope.rules.memory import by_context, by_table
from refrope.rules.probes import follow
from refrope.rules.shortcuts import full_answers, shortcut_answers, two_term_rules
from refrope.rules.subject import Subject

__all__ = [
    "Subject",
    "by_context",
    "by_table",
    "examine",
    "examine_tasks",
    "follow",
    "full_answers",
    "shortcut_answers",
    "two_term_rules",
]
